"""What must hold of two POPs once a fault is over, looked up in both databases themselves.

`check` waits until nothing is left to send, then compares everything: what was promised to clients, every row of both
vaults, the queue, the dirty flags, the hashes, the files and the audit chains.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx
from clavitor_commercial_replication.digests import BUCKETS, NOTHING, combined, digest_of

from clavitor_host.audit.verify import verify as verify_audit
from clavitor_host.storage.database import Database
from tests.faults import workload
from tests.faults.workload import Ledger, check_history, check_integrity
from tests.replication.pair import Pair, Pop

HEALED = 75.0
"""Seconds until both must be equal: the longest pause between two attempts, and a busy machine."""

_ENTRIES = """
SELECT e.entry_id, e.rev, e.encrypted_data, e.environment_id, e.created_at, e.updated_at, e.deleted_at,
       e.replication_dirty, v.epoch, v.rev AS version_rev, v.digest
FROM entries e LEFT JOIN replication_versions v ON v.entry_id = e.entry_id
"""
_COUNTS = """
SELECT (SELECT count(*) FROM replication_queue) AS depth,
       (SELECT count(*) FROM replication_queue WHERE quarantined_at IS NOT NULL) AS quarantined,
       (SELECT count(*) FROM entries WHERE replication_dirty) AS dirty,
       (SELECT count(*) FROM replication_versions) AS versions,
       (SELECT count(*) FROM entries) AS entries,
       (SELECT coalesce(max(rev), 0) FROM entries) AS last_rev,
       (SELECT rev FROM vault_head WHERE id = 1) AS head_rev
"""
_ROLE = "SELECT role, epoch, stream_id, reason, enlisted, reseed_from, buckets FROM replication_state WHERE id = 1"


class Known(Protocol):
    """A POP whose database can be reached. `file`: its SQLite file, None on PostgreSQL."""

    @property
    def name(self) -> str: ...

    @property
    def database(self) -> str: ...

    @property
    def file(self) -> Path | None: ...


class Row(NamedTuple):
    """All of an entry that must be the same on both sides."""

    entry_id: str
    epoch: int
    rev: int
    deleted: bool
    encrypted_data: str | None
    environment_id: str | None
    created_at: int
    updated_at: int


class Vault(NamedTuple):
    """One POP's database. `dirty`: the entries with the flag; `buckets`: the hashes as they are kept."""

    rows: dict[str, Row]
    dirty: set[str]
    counts: dict[str, int]
    role: dict[str, Any]
    buckets: bytes


@asynccontextmanager
async def database_of(pop: Known) -> AsyncIterator[Database]:
    """Open a POP's database beside it."""
    db = Database(pop.database)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def ask(pop: Known, query: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    async with database_of(pop) as db:
        return [dict(row) for row in await db.fetch_all(query)]


async def counts(pop: Known) -> dict[str, int]:
    """Return the numbers that say how far a POP is."""
    (row,) = await ask(pop, _COUNTS)
    return {name: int(value) for name, value in row.items()}


async def role(pop: Known) -> dict[str, Any]:
    """Return what a POP is."""
    (row,) = await ask(pop, _ROLE)
    return row


async def read(pop: Known) -> Vault:
    """Read a POP's database in one snapshot, and check what must hold of it alone."""
    async with database_of(pop) as db, db.snapshot() as tx:
        rows = await tx.fetch_all(_ENTRIES)
        (numbers,) = await tx.fetch_all(_COUNTS)
        (state,) = await tx.fetch_all(_ROLE)
        queued = {
            row["entry_id"]: row["rev"] for row in await tx.fetch_all("SELECT entry_id, rev FROM replication_queue")
        }
    found: dict[str, Row] = {}
    digests: list[tuple[str, bytes]] = []
    dirty: dict[str, int] = {}
    for row in rows:
        entry_id, data = row["entry_id"], row["encrypted_data"]
        assert row["version_rev"] == row["rev"], f"{pop.name}: {entry_id} is at {row['rev']}, its version is another"
        assert (row["deleted_at"] is None) == (data is not None)
        digest = digest_of(entry_id, row["epoch"], row["rev"], data)
        assert bytes(row["digest"]) == digest, f"{pop.name}: the hash of {entry_id} is not that of its content"
        digests.append((entry_id, digest))
        found[entry_id] = Row(
            entry_id,
            row["epoch"],
            row["rev"],
            row["deleted_at"] is not None,
            data,
            row["environment_id"],
            row["created_at"],
            row["updated_at"],
        )
        if row["replication_dirty"]:
            dirty[entry_id] = row["rev"]
    assert numbers["versions"] == len(found), f"{pop.name}: versions of entries that are not there"
    assert numbers["last_rev"] <= numbers["head_rev"]
    assert queued == dirty, f"{pop.name}: the queue and the dirty flags do not tell the same"
    assert bytes(state["buckets"]) == combined(NOTHING, digests), f"{pop.name}: its hashes are not those of its entries"
    return Vault(found, set(dirty), dict(numbers), dict(state), bytes(state["buckets"]))


async def drained(pair: Pair, within: float = HEALED) -> float:
    """Wait until nothing is left to send and the backup is as far as the primary; return the seconds it took."""
    began = time.monotonic()
    while True:
        ours, theirs = await asyncio.gather(counts(pair.primary), counts(pair.backup))
        if (
            ours["depth"] == ours["dirty"] == 0
            and ours["versions"] == ours["entries"] == theirs["entries"]
            and ours["last_rev"] == theirs["last_rev"]
        ):
            return time.monotonic() - began
        if time.monotonic() - began > within:
            states = await asyncio.gather(role(pair.primary), role(pair.backup))
            (peer,) = await ask(pair.primary, "SELECT last_error, applied_max_rev, acked_at FROM replication_peer")
            told = [{name: value for name, value in state.items() if name != "buckets"} for state in states]
            raise AssertionError(
                f"not equal after {within} s: {ours}, {theirs}; {told}; {peer}\n{pair.primary.last_log}"
            )
        await asyncio.sleep(0.1)


async def mirrored(pair: Pair, within: float = HEALED) -> None:
    """Wait until the backup honours every token of the primary."""
    async with asyncio.timeout(within):
        while True:
            (made,) = await ask(pair.primary, "SELECT count(*) AS n FROM tokens WHERE kind IN ('user', 'agent')")
            (there,) = await ask(pair.backup, "SELECT count(*) AS n FROM replicated_tokens")
            if made["n"] == there["n"]:
                return
            await asyncio.sleep(0.1)


async def compared(pair: Pair, within: float = HEALED) -> None:
    """Wait until the POPs themselves have compared their hashes, from now on, and found them equal."""
    (before,) = await ask(pair.primary, "SELECT compared_at FROM replication_peer")
    async with asyncio.timeout(within):
        while True:
            (now,) = await ask(pair.primary, "SELECT compared_at, mismatches FROM replication_peer")
            if now["compared_at"] is not None and now["compared_at"] != before["compared_at"]:
                break
            await asyncio.sleep(0.1)
    assert now["mismatches"] == 0


async def check(pair: Pair, ledger: Ledger | None = None, *, within: float = HEALED, history: bool = True) -> Vault:
    """Wait for both to be equal, and check everything. history: that the primary's audit log tells every rev, which
    does not hold of one that was a backup."""
    await drained(pair, within)
    if ledger is not None:
        await workload.check(pair.primary, ledger)
    ours, theirs = await asyncio.gather(read(pair.primary), read(pair.backup))
    assert theirs.rows == ours.rows, _difference(ours, theirs)
    assert ours.buckets == theirs.buckets
    assert len(ours.buckets) == BUCKETS * 32
    assert not ours.dirty
    assert not theirs.dirty
    assert (ours.role["role"], theirs.role["role"]) == ("primary", "backup")
    assert (ours.role["epoch"], ours.role["stream_id"]) == (theirs.role["epoch"], theirs.role["stream_id"])
    if ledger is not None:
        for entry_id, (rev, blob) in ledger.promised.items():
            there = theirs.rows[entry_id]
            assert (there.rev, there.encrypted_data) == (rev, blob), f"{entry_id}: the backup has not what was promised"
    await compared(pair)
    for pop, vault in zip(pair.pops, (ours, theirs), strict=True):
        _never_back(pair, pop, vault)
        await check_alone(pop)
    if history:
        await check_history(pair.primary.database, ledger or Ledger())
    await _readable(pair, ours)
    return ours


async def check_alone(pop: Known) -> None:
    """Check one POP's file and its audit chain."""
    if pop.file is not None:
        await asyncio.to_thread(check_integrity, pop.file)
    async with database_of(pop) as db:
        result = await verify_audit(db)
    assert result.ok, (pop.name, result)


async def _readable(pair: Pair, vault: Vault) -> None:
    """Read a few entries at the backup with the client's token, as a client does when the primary is gone."""
    living = [row for row in vault.rows.values() if not row.deleted][:3]
    async with httpx.AsyncClient(base_url=pair.backup.url, headers=pair.primary.authorization, timeout=30) as client:
        for row in living:
            answer = await client.get(f"/api/entries/{row.entry_id}", headers={"X-Min-Rev": str(row.rev)})
            assert answer.status_code == 200, answer.text
            assert answer.json()["encrypted_data"] == row.encrypted_data
            assert "x-clavitor-as-of" in answer.headers


def _never_back(pair: Pair, pop: Pop, vault: Vault) -> None:
    """Compare with what was seen there before."""
    seen = pair.seen.setdefault(pop.name, {})
    for entry_id, last in seen.items():
        assert entry_id in vault.rows, f"{pop.name}: {entry_id} has gone without a tombstone"
        row = vault.rows[entry_id]
        assert (row.epoch, row.rev) >= last, f"{pop.name}: {entry_id} went back from {last} to {(row.epoch, row.rev)}"
    seen.update({entry_id: (row.epoch, row.rev) for entry_id, row in vault.rows.items()})


def _difference(ours: Vault, theirs: Vault) -> str:
    missing = sorted(ours.rows.keys() - theirs.rows.keys())
    extra = sorted(theirs.rows.keys() - ours.rows.keys())
    other = [
        (ours.rows[entry_id], theirs.rows[entry_id])
        for entry_id in ours.rows.keys() & theirs.rows.keys()
        if ours.rows[entry_id] != theirs.rows[entry_id]
    ]
    return (
        f"missing at the backup: {missing[:5]} of {len(missing)}; only there: {extra[:5]} of {len(extra)}; "
        f"other: {other[:3]} of {len(other)}"
    )
