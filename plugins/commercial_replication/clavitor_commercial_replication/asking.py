"""What the two POPs ask each other besides replicating: who are you, which writes have you, give me your entries.

Both sides of the wire are here. `about_self` and `versions_page` answer, the rest asks.
"""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import sqlalchemy as sa

from clavitor_commercial_replication import digests, state, tables
from clavitor_commercial_replication.models import Role, Version
from clavitor_host.api import ClavitorError

if TYPE_CHECKING:
    from clavitor_commercial_replication.link import Link
    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Transaction

VERSIONS = "/api/replication/versions"
ENTRIES = "/api/replication/entries"
REPLAY = "/api/replication/replay"

SCANNED = 5_000
"""Versions that one page of them is picked from."""


class AskedInVain(ClavitorError):
    """The other POP gave no answer that is of use; the message says why."""


class About(NamedTuple):
    """What a POP says of itself, at one moment. `entries`: that live. `reseeding`: its entries are being replaced."""

    pop: str
    role: Role
    epoch: int
    stream_id: str | None
    head_rev: int
    depth: int
    entries: int
    reseeding: bool
    buckets: bytes


async def about_self(service: Replication, tx: Transaction) -> About:
    """Return what this POP says of itself."""
    known = await state.required(tx)
    head = await tx.fetch_one("SELECT rev, live_entries FROM vault_head WHERE id = 1")
    assert head is not None
    return About(
        pop=service.config.source_pop or "",
        role=known.role,
        epoch=known.epoch,
        stream_id=known.stream_id,
        head_rev=head["rev"],
        depth=await tx.fetch_val(sa.select(sa.func.count()).select_from(tables.queue)),
        entries=head["live_entries"],
        reseeding=known.reseed_from is not None,
        buckets=await state.buckets(tx),
    )


def encode_about(about: About) -> dict[str, Any]:
    """Return the JSON of what a POP says of itself."""
    body = about._asdict()
    body["source_pop"] = body.pop("pop")
    body["hashes"] = binascii.b2a_base64(body.pop("buckets"), newline=False).decode()
    return body


def read_about(body: Any) -> About:
    """Return what the other POP says of itself. Raises `AskedInVain` for what is no such answer."""
    try:
        about = About(
            pop=body["source_pop"],
            role=body["role"],
            epoch=body["epoch"],
            stream_id=body["stream_id"],
            head_rev=body["head_rev"],
            depth=body["depth"],
            entries=body["entries"],
            reseeding=body["reseeding"],
            buckets=binascii.a2b_base64(body["hashes"], strict_mode=True),
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _senseless() from None
    numbers = (about.epoch, about.head_rev, about.depth, about.entries)
    if (
        about.role not in get_args(Role)
        or not isinstance(about.pop, str)
        or not isinstance(about.stream_id, str | None)
        or not isinstance(about.reseeding, bool)
        or not all(type(number) is int and number >= 0 for number in numbers)
        or len(about.buckets) != len(digests.NOTHING)
    ):
        raise _senseless()
    return about


async def versions_page(
    tx: Transaction, buckets: Collection[int], after: str, *, scanned: int = SCANNED
) -> dict[str, Any]:
    """Return the JSON of the versions in these buckets, of `scanned` entries behind `after`.

    `versions`: `[entry id, epoch, rev, digest in hex]`, by id. `next`: where to go on, null at the end.
    """
    rows = await tx.fetch_all(
        sa.select(*(tables.versions.c[name] for name in ("entry_id", "epoch", "rev", "digest")))
        .where(tables.versions.c.entry_id > after)
        .order_by(tables.versions.c.entry_id)
        .limit(scanned)
    )
    wanted = frozenset(buckets)
    return {
        "versions": [
            [row["entry_id"], row["epoch"], row["rev"], row["digest"].hex()]
            for row in rows
            if digests.bucket_of(row["entry_id"]) in wanted
        ],
        "next": rows[-1]["entry_id"] if len(rows) == scanned else None,
    }


@asynccontextmanager
async def opened(service: Replication, url: str | None = None) -> AsyncIterator[Link]:
    """Give a connection to the other POP. url: where it is, by the configuration when not given."""
    from clavitor_commercial_replication.link import Link

    link = Link(service, url_of(service, url))
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def linked(service: Replication, url: str | None = None) -> AsyncIterator[Link]:
    """Give a connection to the other POP as `opened` does. A request that is not done inside becomes `AskedInVain`."""
    from clavitor_commercial_replication.link import LinkError

    try:
        async with opened(service, url) as link:
            yield link
    except LinkError as error:
        raise AskedInVain(error.detail) from None


def url_of(service: Replication, given: str | None = None) -> str:
    """Return where the other POP is, by the configuration when it is not given. Every URL that is shown who this POP
    is comes from here. Raises `ClavitorError` when there is none, or one that nobody may be asked at."""
    config = service.config
    url = given or config.backup_url or config.primary_location
    if url is None:
        raise ClavitorError(
            "the configuration does not say where the other POP is: set backup_url in [plugins.commercial_replication]"
        )
    try:
        return config.pop_url(url)
    except ValueError as error:
        where = "" if given else " of primary_location: set backup_url in [plugins.commercial_replication]"
        raise ClavitorError(f"nobody is asked at the URL {url}{where}: {error}") from None


async def about_other(link: Link) -> About:
    """Return what the other POP says of itself now. Raises `LinkError`, `AskedInVain`."""
    return read_about(await link.get(VERSIONS))


async def versions_of_other(link: Link, buckets: Collection[int]) -> dict[str, Version]:
    """Return which writes the other POP has in these buckets, by entry id. Raises `LinkError`, `AskedInVain`."""
    found: dict[str, Version] = {}
    after: str | None = ""
    while after is not None:
        params = {"buckets": ",".join(map(str, sorted(buckets))), "after": after}
        page = await link.get(VERSIONS, params)
        try:
            for entry_id, epoch, rev, digest in page["versions"]:
                found[str(entry_id)] = Version(int(epoch), int(rev), bytes.fromhex(digest))
            following = cast("Mapping[str, Any]", page)["next"]
        except (TypeError, KeyError, ValueError, AttributeError):
            raise _senseless() from None
        if following is not None and (not isinstance(following, str) or following <= after):
            raise _senseless()
        after = following
    return found


def _senseless() -> AskedInVain:
    return AskedInVain("the other POP's answer is not one that this version understands")
