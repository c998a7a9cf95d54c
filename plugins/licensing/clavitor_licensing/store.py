"""The rows of `license` and `license_state`: read as one value, written under one lock.

SQLite keeps anything in any column, and somebody may have written it: what cannot be there counts as its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import sqlalchemy as sa

from clavitor_licensing.clock import MICROSECONDS, HighWater
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected, RejectionCode
from clavitor_licensing.domain.schema import END_OF_TIME
from clavitor_licensing.tables import license_table, state_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clavitor_host.api import Database, Host, Transaction
    from clavitor_licensing.source import Source

LOCK: Final = "clavitor_licensing"
"""Held by every cap check and every change of the license, from before its first statement to its end."""
CHANGED: Final = "licensing.changed"
"""The signal that `version` has grown."""

_STATE = sa.select(
    state_table.c.version,
    state_table.c.reason,
    state_table.c.seen_at,
    sa.type_coerce(state_table.c.clock_stopped, sa.Integer).label("clock_stopped"),
    state_table.c.failed_code,
    state_table.c.rejected_code,
    state_table.c.rejected_message,
    state_table.c.rejected_source,
    state_table.c.rejected_at,
    state_table.c.rejected_digest,
    state_table.c.rejected_node,
    state_table.c.boots,
).where(state_table.c.id == 1)
_LICENSE = sa.select(
    license_table.c.tenant_id,
    license_table.c.token,
    license_table.c.license_id,
    license_table.c.source,
    license_table.c.installed_at,
    license_table.c.installed_by,
    license_table.c.last_validated_at,
)


MOST_BOOTS: Final = 64
"""Starts of servers that are remembered."""
_MOST_VERSIONS: Final = 2**62
_LATEST: Final = END_OF_TIME * MICROSECONDS


class Rejection(NamedTuple):
    """A token that was refused and that decides the state. source: where it came from. at: when, in µs.

    digest: of the token, to tell it from another. node: the one whose configuration names it.
    """

    code: RejectionCode
    message: str
    source: str
    at: int
    digest: str = ""
    node: str = ""

    def is_of(self, other: Rejection | None) -> bool:
        """Whether that is the same refusal of the same token, whenever and wherever it happened."""
        return other is not None and self == other._replace(at=self.at, node=self.node)

    def as_domain(self) -> LicenseRejected:
        """Return it as the domain has it."""
        return LicenseRejected(self.code, self.message)


class State(NamedTuple):
    """The row of `license_state`."""

    version: int = 0
    reason: str = "boot"
    clock: HighWater = HighWater()
    failed_code: str | None = None
    rejected: Rejection | None = None
    boots: tuple[str, ...] = ()


class Row(NamedTuple):
    """The row of `license`. The token is what somebody stored: nothing of it is known before it was validated."""

    tenant_id: str
    token: Any
    license_id: Any
    source: str
    installed_at: int
    installed_by: str
    last_validated_at: int

    def __repr__(self) -> str:
        return f"Row(license_id={self.license_id!r})"  # no token: this may end up in a message


class Stored(NamedTuple):
    """What the database holds."""

    state: State = State()
    row: Row | None = None

    @property
    def is_untouched(self) -> bool:
        """Whether no server has started here yet, and nothing was decided by hand."""
        state = self.state
        return self.row is None and not state.version and not state.boots and state.rejected is None


async def read_state(db: Database | Transaction) -> State:
    """Return what the processes agree on. This is all that a cap check reads as long as nothing has changed."""
    found = await db.fetch_one(_STATE)
    if found is None:  # somebody has deleted it; the next change makes it again
        return State()
    code = found["rejected_code"]
    rejected = None
    if code is not None:
        rejected = Rejection(
            code if code in get_args(RejectionCode) else "malformed",
            _text(found["rejected_message"], "License token was refused"),
            _text(found["rejected_source"]),
            _whole(found["rejected_at"], _LATEST),
            _text(found["rejected_digest"]),
            _text(found["rejected_node"]),
        )
    failed = found["failed_code"]
    return State(
        version=_whole(found["version"], _MOST_VERSIONS),
        reason=_text(found["reason"], "boot"),
        clock=HighWater(_whole(found["seen_at"], _LATEST), found["clock_stopped"] in (1, True)),
        failed_code=None if failed is None else _text(failed, "malformed"),
        rejected=rejected,
        boots=tuple(_text(found["boots"]).split()),
    )


async def read(db: Database | Transaction, tenant_id: str) -> Stored:
    """Return everything. The license of another tenant is found too: it is refused, not overlooked."""
    state = await read_state(db)
    rows = [_row(found) for found in await db.fetch_all(_LICENSE)]
    rows.sort(key=lambda row: row.tenant_id != tenant_id)
    return Stored(state, rows[0] if rows else None)


def _row(found: Mapping[str, Any]) -> Row:
    return Row(
        tenant_id=_text(found["tenant_id"]),
        token=found["token"],
        license_id=found["license_id"],
        source=_text(found["source"]),
        installed_at=_whole(found["installed_at"], _LATEST),
        installed_by=_text(found["installed_by"]),
        last_validated_at=_whole(found["last_validated_at"], _LATEST),
    )


def _whole(value: object, most: int) -> int:
    """Return a whole number from 0 to `most`; 0 for anything else."""
    return value if isinstance(value, int) and 0 <= value <= most else 0


def _text(value: object, default: str = "") -> str:
    """Return a text; the default for anything else."""
    return value if isinstance(value, str) else default


async def write_state(host: Host, tx: Transaction, state: State, *, changed: str | None = None) -> State:
    """Write the state, with the time seen now. changed: the reason for which every process must look again."""
    wall = host.clock.now_us()
    clock = state.clock if state.clock.stopped else HighWater(state.clock.floor(wall))
    state = state._replace(clock=clock)
    if changed is not None:
        state = state._replace(version=state.version + 1, reason=changed)
        await host.signals.send(tx, CHANGED)
    rejected = state.rejected
    row = {
        "id": 1,
        "version": state.version,
        "reason": state.reason,
        "seen_at": clock.seen_at,
        "clock_stopped": clock.stopped,
        "failed_code": state.failed_code,
        "rejected_code": rejected.code if rejected else None,
        "rejected_message": rejected.message if rejected else None,
        "rejected_source": rejected.source if rejected else None,
        "rejected_at": rejected.at if rejected else None,
        "rejected_digest": rejected.digest if rejected else None,
        "rejected_node": rejected.node if rejected else None,
        "boots": " ".join(state.boots),
    }
    await tx.insert_many(state_table, [row], upsert_on=("id",), update=tuple(name for name in row if name != "id"))
    return state


async def put_license(tx: Transaction, info: LicenseInfo, token: str, *, source: Source, by: str, at: int) -> None:
    """Store a license in the place of any other. at: now, in µs."""
    await tx.execute(sa.delete(license_table))
    row = {
        "tenant_id": info.tenant_id,
        "token": token,
        "license_id": info.license_id,
        "source": source,
        "installed_at": at,
        "installed_by": by,
        "expires_at": info.exp * MICROSECONDS,
        "last_validated_at": at,
    }
    await tx.insert_many(license_table, [row])


async def note_validated(tx: Transaction, row: Row, at: int) -> None:
    """Note that the stored token was validated, at `at` (µs)."""
    mine = license_table.c.tenant_id == row.tenant_id
    await tx.execute(sa.update(license_table).where(mine).values(last_validated_at=at))


async def delete_license(tx: Transaction) -> None:
    """Remove the license."""
    await tx.execute(sa.delete(license_table))
