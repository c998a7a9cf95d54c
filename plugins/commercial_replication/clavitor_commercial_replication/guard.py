"""What a POP that is not the primary refuses, and what it says about its reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_commercial_replication import peers, state, tables
from clavitor_host.api import PointRead, Problem, problem, unauthorized

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import State
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Request

READ_ONLY = "Write operations not available on backup POP"
"""The seed's words."""

FRESH = 1.0
"""Seconds for which a primary goes by the role that it last read, for reads and writes of entries only."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_ACTIONS = frozenset(
    {"me", "me.write", "users.write", "tokens.write", "license.write", "plugins.write", "audit.write", "peer"}
)
"""What concerns this server alone, not what is replicated to it. An unsafe request for `me` is a logout."""
_OWN_PATHS = frozenset({"/api/v1/login", "/api/v1/setup", "/login", "/setup"})
"""Routes without a credential that make a session."""
_KEY = "commercial_replication.guard"

_STANDING = PointRead(
    sa.select(
        tables.state.c.role,
        tables.state.c.reseed_from,
        tables.state.c.promoted_complete_rev,
        tables.state.c.promoted_from_rev,
        tables.peer.c.complete_rev,
        tables.peer.c.as_of,
        tables.peer.c.acked_at,
    )
    .select_from(tables.state.join(tables.peer, tables.peer.c.id == tables.state.c.id))
    .where(tables.state.c.id == 1)
)


async def admit(service: Replication, request: Request, action: str | None) -> None:
    """Raise the 503 for a write that only the primary takes, and 412 for a read that this POP is too far behind for.

    Reads of entries say in `X-Clavitor-As-Of` and `X-Clavitor-Lag` (seconds) how far they can be behind. What only the
    other POP may ask is a 401 for everybody else.
    """
    if action == "peer" and request.path.startswith(peers.PREFIX) and _is_foreign(request):
        raise unauthorized()
    if request.method in _SAFE:
        if action == "entries.read":
            await _read(service, request)
    elif action not in _OWN_ACTIONS and not (action is None and request.path in _OWN_PATHS):
        if action == "entries.write" and _Known.of(service).is_primary():
            return  # the write's own transaction looks again
        found = await state.required(service.host.db)
        _Known.of(service).note(found.role)
        if found.role != "primary":
            raise read_only_problem(service, found)


def _is_foreign(request: Request) -> bool:
    return request.identity is None or request.identity.kind != "peer"


def read_only_problem(service: Replication, found: State) -> Problem:
    """Return the refusal of a write at a POP that is not the primary; it says where the primary is."""
    return Problem(503, "read_only", READ_ONLY, headers=_primary(service), extra={"role": found.role})


def _primary(service: Replication) -> dict[str, str]:
    """Return where the other POP is: a POP that began as the primary knows it as its backup."""
    config = service.config
    known = (config.primary_location, config.backup_url)
    location = next((url for url in (known if config.role == "backup" else reversed(known)) if url), None)
    return {} if location is None else {"X-Primary-Location": location}


async def _read(service: Replication, request: Request) -> None:
    wanted = _min_rev(request)
    if wanted is None and _Known.of(service).is_primary():
        return
    row = await service.host.db.point_read(_STANDING)
    assert row is not None
    (
        role,
        reseed_from,
        promoted_complete_rev,
        promoted_from_rev,
        complete_rev,
        as_of,
        acked_at,
    ) = row
    _Known.of(service).note(role)
    if role == "backup":
        reached = 0 if reseed_from is not None else complete_rev
        as_of = None if reseed_from is not None else as_of
    else:  # on a fenced one all is here that was ever acknowledged before the other POP took over
        reached, as_of = await service.host.vault.head_rev() if wanted is not None else 0, acked_at
        if wanted is not None and _may_be_lost(wanted, promoted_complete_rev, promoted_from_rev):
            reached = promoted_complete_rev
    if role != "primary":
        _count(service, request)
        _say_age(service, request, as_of)
    if wanted is not None and reached < wanted:
        raise problem(412, "behind", f"This POP has not got the write {wanted} yet.", rev=reached)


def _may_be_lost(rev: int, complete_rev: int | None, from_rev: int | None) -> bool:
    """Tell whether a rev is one that the former primary may have kept for itself when this POP was promoted."""
    return complete_rev is not None and from_rev is not None and complete_rev < rev <= from_rev


def _min_rev(request: Request) -> int | None:
    text = request.header(b"x-min-rev")
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 19:
        return int(text)
    raise problem(400, "invalid_header", "X-Min-Rev: expected a rev.")


def _count(service: Replication, request: Request) -> None:
    if request.identity is not None and request.identity.kind in ("user", "agent"):
        service.metrics.fallback_reads.inc()


def _say_age(service: Replication, request: Request, as_of: int | None) -> None:
    """Put into the reply up to when the primary's writes are here. While that is not known it is the beginning of
    time, so that nobody takes the reply for the primary's own. After a jump of a clock it is not in the future."""
    now = service.host.clock.now_us()
    as_of = min(as_of or 0, now)
    at = datetime.fromtimestamp(as_of // 1_000_000, UTC).replace(microsecond=as_of % 1_000_000)
    request.reply_headers["X-Clavitor-As-Of"] = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    request.reply_headers["X-Clavitor-Lag"] = f"{(now - as_of) / 1_000_000:.3f}"


class _Known:
    """The role as it was last read, so that on a primary neither reads nor writes of entries wait for another look."""

    def __init__(self, service: Replication) -> None:
        self._clock = service.host.clock
        self._role = ""
        self._until = 0.0
        service.host.signals.subscribe(state.CHANGED, self._forget)

    @classmethod
    def of(cls, service: Replication) -> _Known:
        known = service.host.state.get(_KEY)
        if known is None:
            known = service.host.state[_KEY] = cls(service)
        assert isinstance(known, _Known)
        return known

    def is_primary(self) -> bool:
        return self._role == "primary" and self._clock.monotonic() < self._until

    def note(self, role: str) -> None:
        self._role, self._until = role, self._clock.monotonic() + FRESH

    def _forget(self, _: str | None) -> None:
        self._until = 0.0
