"""What must hold of the databases: at every commit, and of both POPs together once all is healed."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from clavitor_commercial_replication import digests

from clavitor_host.audit import chain
from tests.simulation.model import Broken
from tests.simulation.pop import Pop

_ENTRY = ("encrypted_data", "environment_id", "rev", "created_at", "updated_at", "deleted_at")
_VERSIONS = "SELECT entry_id, epoch, rev, hex(digest) FROM replication_versions ORDER BY entry_id"


class Standing(NamedTuple):
    """One POP's database, as an observer sees it."""

    role: str
    epoch: int
    stream_id: str | None
    head: tuple[int, int]
    entries: dict[str, dict[str, Any]]
    versions: dict[str, tuple[int, int, str]]
    queue: dict[str, int]
    dirty: dict[str, int]
    buckets: bytes
    peer: dict[str, Any]

    @property
    def contents(self) -> dict[str, tuple[int, str | None]]:
        """Every entry's rev and data; None: deleted."""
        return {entry_id: (row["rev"], row["encrypted_data"]) for entry_id, row in self.entries.items()}


class Observer:
    """Looks at one disk through a connection of its own. `fenced_at`: virtual seconds; `at_promotion`: what it held."""

    def __init__(self, pop: Pop) -> None:
        self.connection = pop.disk.connect()
        self.fenced_at: float | None = None
        self.at_promotion: Standing | None = None
        self._name = pop.name
        self._role = ""
        self._seen: dict[str, tuple[int, int]] = {}
        self._head = (0, 0)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def look(self, now: float) -> None:
        """Check what holds at every commit: neither an entry's write nor the head ever goes back."""
        state = self.connection.execute("SELECT role, epoch, reseed_from FROM replication_state").fetchone()
        if state is None:
            return
        role, epoch, reseed_from = state
        if self._role != role:
            self._turn(role, now)
        seen = self._seen
        if reseed_from is not None:  # every entry is to come anew
            seen.clear()
            return
        rows = self.connection.execute("SELECT entry_id, epoch, rev FROM replication_versions").fetchall()
        for entry_id, written_in, rev in rows:
            before = seen.get(entry_id)
            if before is not None and (written_in, rev) < before:
                raise Broken(f"{self._name}: {entry_id} went back from {before} to {(written_in, rev)}")
            seen[entry_id] = (written_in, rev)
        if len(rows) < len(seen):
            gone = sorted(set(seen) - {row[0] for row in rows})
            raise Broken(f"{self._name}: {', '.join(gone)} were forgotten")
        (head,) = self.connection.execute("SELECT rev FROM vault_head").fetchone()
        if (epoch, head) < self._head:
            raise Broken(f"{self._name}: the head went back from {self._head} to {(epoch, head)}")
        self._head = (epoch, head)

    def _turn(self, role: str, now: float) -> None:
        if role == "fenced":
            self.fenced_at = now
        elif role == "primary" and self._role == "backup":
            self.at_promotion = self.standing()
        self._role = role

    def glance(self) -> tuple[list[tuple[str, int, int, str]], int]:
        """Return the versions of all entries, and how many wait to be sent."""
        (waiting,) = self.connection.execute("SELECT count(*) FROM replication_queue").fetchone()
        return self.connection.execute(_VERSIONS).fetchall(), waiting

    def compared_at(self) -> int:
        """Return when the hashes were last compared, 0 for never."""
        return self.connection.execute("SELECT compared_at FROM replication_peer").fetchone()[0] or 0

    def standing(self) -> Standing:
        """Return what is committed."""
        run = self.connection.execute
        role, epoch, stream_id, buckets = run(
            "SELECT role, epoch, stream_id, buckets FROM replication_state"
        ).fetchone()
        columns = ", ".join(_ENTRY)
        cursor = run("SELECT * FROM replication_peer")
        peer = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
        return Standing(
            role,
            epoch,
            stream_id,
            run("SELECT rev, live_entries FROM vault_head").fetchone(),
            {
                row[0]: dict(zip(_ENTRY, row[1:], strict=True))
                for row in run(f"SELECT entry_id, {columns} FROM entries ORDER BY entry_id")
            },
            {row[0]: row[1:] for row in run(_VERSIONS)},
            dict(run("SELECT entry_id, rev FROM replication_queue ORDER BY rev").fetchall()),
            dict(run("SELECT entry_id, rev FROM entries WHERE replication_dirty ORDER BY rev").fetchall()),
            buckets,
            peer,
        )

    def check_alone(self) -> Standing:
        """Check one database by itself: its file, its audit chain, its counters and its hashes."""
        name, standing = self._name, self.standing()
        _check_file(name, self.connection)
        _check_audit(name, self.connection)
        live = sum(row["deleted_at"] is None for row in standing.entries.values())
        top = max((row["rev"] for row in standing.entries.values()), default=0)
        if standing.head[1] != live:
            raise Broken(f"{name}: live_entries is {standing.head[1]}, but {live} live")
        if standing.head[0] < top:
            raise Broken(f"{name}: the head is {standing.head[0]}, but an entry has rev {top}")
        for entry_id, row in standing.entries.items():
            if (row["deleted_at"] is None) == (row["encrypted_data"] is None):
                raise Broken(f"{name}: {entry_id} is neither an entry nor a tombstone")
        wanted = {
            entry_id: digests.digest_of(
                entry_id, standing.versions.get(entry_id, (0,))[0], row["rev"], row["encrypted_data"]
            )
            .hex()
            .upper()
            for entry_id, row in standing.entries.items()
        }
        found = {entry_id: digest for entry_id, (_, _, digest) in standing.versions.items()}
        if wanted != found:
            wrong = sorted(one for one in {*wanted, *found} if wanted.get(one) != found.get(one))
            raise Broken(f"{name}: the versions of {', '.join(wrong)} are not those of the entries")
        if digests.combined(digests.NOTHING, [(one, bytes.fromhex(digest)) for one, digest in found.items()]) != (
            standing.buckets
        ):
            raise Broken(f"{name}: the hashes are not those of the entries")
        if standing.queue != standing.dirty:
            raise Broken(f"{name}: queued are {standing.queue}, dirty are {standing.dirty}")
        return standing


def check_equal(primary: Standing, backup: Standing) -> None:
    """Check that a backup is its primary's equal, and that both know it."""
    if (primary.role, backup.role) != ("primary", "backup"):
        raise Broken(f"the roles are {primary.role} and {backup.role}")
    if (primary.epoch, primary.stream_id) != (backup.epoch, backup.stream_id):
        raise Broken(f"the backup follows epoch {backup.epoch}, the primary is in {primary.epoch}")
    if primary.queue or backup.queue:
        raise Broken(f"still queued: {primary.queue} at the primary, {backup.queue} at the backup")
    for entry_id in sorted({*primary.entries, *backup.entries}):
        ours, theirs = primary.entries.get(entry_id), backup.entries.get(entry_id)
        if ours != theirs:
            raise Broken(f"{entry_id} differs: {ours} at the primary, {theirs} at the backup")
    if primary.versions != backup.versions or primary.buckets != backup.buckets:
        raise Broken("the versions or hashes differ")
    for one in (primary, backup):
        if one.peer["mismatches"]:
            raise Broken(f"the {one.role} counts {one.peer['mismatches']} differing hashes")


def check_applied(backup: Observer) -> None:
    """Check that the backup's audit log tells of every entry that was replicated to it."""
    rows = backup.connection.execute("SELECT entry_id FROM audit_log WHERE action = 'replicated'").fetchall()
    told = {row[0] for row in rows}
    for entry_id in backup.standing().entries:
        if entry_id not in told:
            raise Broken(f"the backup's audit log does not tell of {entry_id}")


def check_mirror(primary: Observer, backup: Observer) -> None:
    """Check that the backup knows the primary's tokens."""
    ours = primary.connection.execute("SELECT hash FROM tokens WHERE kind != 'metrics' ORDER BY hash").fetchall()
    theirs = backup.connection.execute("SELECT hash FROM replicated_tokens ORDER BY hash").fetchall()
    if ours != theirs:
        raise Broken(f"the backup knows {len(theirs)} tokens, the primary has {len(ours)}")


def _check_file(name: str, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        raise Broken(f"{name}: the database is damaged: {found}")


def _check_audit(name: str, connection: sqlite3.Connection) -> None:
    head = connection.execute("SELECT audit_id, hash FROM audit_head").fetchone()
    last = (0, chain.GENESIS)
    for values in connection.execute(f"SELECT {', '.join(chain.COLUMNS)}, hash FROM audit_log ORDER BY id"):
        row = dict(zip((*chain.COLUMNS, "hash"), values, strict=True))
        if (row["id"], row["prev_hash"]) != (last[0] + 1, last[1]) or chain.row_hash(row) != row["hash"]:
            raise Broken(f"{name}: the audit chain breaks at {row['id']}")
        last = (row["id"], row["hash"])
    if head != last:
        raise Broken(f"{name}: the audit chain's head is not its last row")
