"""The backup takes the primary's writes: newer ones only, all that it acknowledges, and nothing from anybody else."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from clavitor_commercial_replication import digests, rules, state, tables, wire
from clavitor_commercial_replication.models import Item
from clavitor_commercial_replication_testing.apps import BACKUP_URL, encoded, primary_settings, running_pop
from clavitor_commercial_replication_testing.backup import (
    BACKUP,
    PRIMARY,
    STREAM,
    T0,
    Backup,
    batch,
    bearer,
    blob,
    item,
    plain,
    running_backup,
)
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_commercial_replication_testing.network import Network

from clavitor_host.api import StorageUnavailable, UniqueViolation, Write, WriteSet
from clavitor_host.endpoint import endpoint_of


def ids(answer: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    return answer["acknowledged"], answer["already_exists"], answer["failed"]


def code_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


async def untouched(backup: Backup) -> None:
    """Assert that nothing was applied."""
    assert await backup.entries() == {}
    assert await backup.versions() == {}
    assert await backup.audited() == []
    await backup.check()


# --- what is applied -----------------------------------------------------------------------------------------


async def test_entries_arrive_as_the_primary_has_them(backup: Backup) -> None:
    answer = await backup.applied(item("a", 1, environment_id="env-1"), item("b", 2, "other"))
    assert ids(answer) == (["a", "b"], [], [])
    assert (answer["epoch"], answer["applied_max_rev"], answer["batch_id"]) == (1, 2, "batch-1")
    assert (await backup.entries())["a"] == {
        "entry_id": "a",
        "encrypted_data": blob(),
        "environment_id": "env-1",
        "rev": 1,
        "created_at": T0 * 1_000_000,
        "updated_at": T0 * 1_000_000 + 1,
        "deleted_at": None,
    }
    await backup.check()
    row = await backup.host.db.fetch_one("SELECT replication_dirty, replicated_at FROM entries WHERE entry_id = 'a'")
    assert row is not None
    assert (bool(row["replication_dirty"]), row["replicated_at"]) == (False, None)
    assert (await backup.state()).head_rev == await backup.host.vault.head_rev() == 2


async def test_a_batch_that_comes_twice_is_applied_once(backup: Backup) -> None:
    sent = batch(item("a", 1), item("b", 2, None))
    assert ids(await backup.answer(sent)) == (["a", "b"], [], [])
    before = await backup.entries()
    assert ids(await backup.answer(sent)) == ([], ["a", "b"], [])
    assert await backup.entries() == before
    assert len(await backup.audited()) == 3
    await backup.check()


async def test_an_older_write_that_comes_late_changes_nothing(backup: Backup) -> None:
    await backup.applied(item("a", 5, "newer"))
    assert ids(await backup.applied(item("a", 4, "older"))) == ([], ["a"], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("newer")


async def test_a_delete_leaves_a_tombstone_that_an_older_write_does_not_raise(backup: Backup) -> None:
    await backup.applied(item("a", 1))
    await backup.applied(item("a", 3, None))
    assert ids(await backup.applied(item("a", 2))) == ([], ["a"], [])
    found = (await backup.entries())["a"]
    assert (found["rev"], found["encrypted_data"], found["deleted_at"]) == (3, None, T0 * 1_000_000 + 3)
    client = await backup.client_for("ADMIN")
    assert (await client.get("/api/entries/a")).status_code == 404
    await backup.check()


async def test_the_delete_of_an_entry_that_was_never_here_leaves_a_tombstone(backup: Backup) -> None:
    assert ids(await backup.applied(item("a", 3, None))) == (["a"], [], [])
    assert ids(await backup.applied(item("a", 2))) == ([], ["a"], [])
    assert (await backup.entries())["a"]["encrypted_data"] is None


async def test_delete_then_create_ends_as_the_create(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("a", 2, None))
    assert ids(await backup.applied(item("a", 3, "again", operation="create"))) == (["a"], [], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("again")
    async with backup.host.db.transaction() as tx:
        assert (await backup.host.vault.lock(tx)).live_entries == 1
    await backup.check()


async def test_one_entry_several_times_in_a_batch_ends_as_the_last(backup: Backup) -> None:
    answer = await backup.applied(item("a", 1, "one"), item("b", 2), item("a", 3, "three"), item("a", 2, "two"))
    assert ids(answer) == (["a", "b"], [], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("three")
    assert [row["entry_id"] for row in await backup.audited()][1:] == ["a", "b", "a"]
    await backup.check()


async def test_the_last_of_two_writes_in_one_microsecond_wins(backup: Backup) -> None:
    at = {"created_at": T0 * 1_000_000, "updated_at": T0 * 1_000_000}
    await backup.applied(item("a", 2, "second", **at))
    assert ids(await backup.applied(item("a", 1, "first", **at))) == ([], ["a"], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("second")


async def test_who_reads_one_environment_hears_of_the_entry_that_leaves_it(backup: Backup) -> None:
    await backup.applied(item("a", 1, environment_id="env-1"))
    await backup.applied(item("a", 2, environment_id="env-2"))
    changes = (await backup.host.vault.changes(0, ["env-1"])).changes
    assert [(change.entry_id, change.rev, change.deleted) for change in changes] == [("a", 2, True)]
    changes = (await backup.host.vault.changes(0, ["env-2"])).changes
    assert [(change.entry_id, change.deleted) for change in changes] == [("a", False)]


async def test_every_applied_entry_is_in_the_audit_log_and_its_chain_holds(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("b", 2))
    await backup.applied(item("a", 1), item("b", 3, None))
    rows = await backup.audited()
    assert [(row["action"], row["title"], row["entry_id"], row["actor"]) for row in rows] == [
        ("adopt_epoch", "follows calgary-01 in epoch 1", None, "system:replication"),
        ("replicated", "replicated from calgary-01", "a", "system:replication"),
        ("replicated", "replicated from calgary-01", "b", "system:replication"),
        ("replicated", "replicated from calgary-01", "b", "system:replication"),
    ]
    assert json.loads(rows[-1]["payload"]) == {"epoch": 1, "operation": "delete", "rev": 3}
    client = await backup.client_for("ADMIN")
    assert (await client.get("/api/v1/admin/audit/verify")).json()["ok"]


async def test_requests_that_come_together_share_a_commit_and_each_has_its_own_answer(backup: Backup) -> None:
    await backup.applied(item("x", 1))
    answers = await asyncio.gather(
        backup.send(batch(item("a", 2), batch_id="one")),
        backup.send(batch(item("b", 3), batch_id="two", stream_id="another")),
        backup.send(batch(item("a", 2), item("c", 4), batch_id="three")),
    )
    assert [answer.status_code for answer in answers] == [200, 409, 200]
    assert [answer.json().get("batch_id") for answer in answers] == ["one", None, "three"]
    assert set(await backup.entries()) == {"a", "c", "x"}
    await backup.check()


# --- what is refused -----------------------------------------------------------------------------------------


async def test_the_same_number_with_other_bytes_is_a_conflict_and_an_alarm(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[tuple[str, Any]] = []

    async def alert(type: str, message: str, details: Any = None) -> None:
        alerts.append((type, details))

    monkeypatch.setattr(backup.host.edition, "alert_operator", alert)
    await backup.applied(item("a", 1, "ours"))
    answer = await backup.applied(item("a", 1, "theirs"), item("b", 2))
    assert ids(answer) == (["b"], [], ["a"])
    assert [(failure["code"], failure["retryable"]) for failure in answer["failures"]] == [("conflict", False)]
    assert alerts == [("REPLICATION_CONFLICT", {"pop": PRIMARY, "entries": ["a"], "count": 1})]
    assert (await backup.entries())["a"]["encrypted_data"] == blob("ours")
    await backup.check()


async def test_the_wrong_credential_is_nobodys(backup: Backup) -> None:
    now = backup.host.clock.now_us()
    day = 86_400 * 1_000_000
    good = bearer(PRIMARY, now)
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer wrong",
        good[:-1],
        good.replace("calgary", "geneva"),
        bearer(PRIMARY, now - 2 * day),
        bearer(PRIMARY, now + 2 * day),
        bearer(PRIMARY, now, secret="x" * 32),
        "Bearer clv_" + "0" * 43,
    ):
        assert code_of(await backup.send(batch(item("a", 1)), authorization=wrong)) == (401, "unauthorized"), wrong
    await untouched(backup)


async def test_a_user_is_refused_and_a_pop_is_good_nowhere_else(backup: Backup) -> None:
    for role in ("ADMIN", "VIEWER"):
        client = await backup.client_for(role)
        response = await client.post(wire.PATH, content=wire.encode(batch(item("a", 1))))
        assert code_of(response) == (401, "unauthorized")
    shown = {"authorization": bearer(PRIMARY, backup.host.clock.now_us())}
    client = await backup.client(headers=shown)
    for method, path in (("GET", "/api/entries/a"), ("GET", "/api/v1/me"), ("PUT", "/api/entries/a")):
        assert code_of(await client.request(method, path)) == (401, "unauthorized")
    await untouched(backup)


async def test_a_pop_that_is_not_authorised_is_refused(backup: Backup) -> None:
    now = backup.host.clock.now_us()
    response = await backup.send(batch(item("a", 1), source_pop="geneva-01"), authorization=bearer("geneva-01", now))
    assert code_of(response) == (403, "pop_not_authorized")
    response = await backup.send(batch(item("a", 1), source_pop=BACKUP), authorization=bearer(BACKUP, now))
    assert code_of(response) == (409, "same_pop")
    response = await backup.send(batch(item("a", 1), source_pop="geneva-01"))
    assert code_of(response) == (403, "pop_mismatch")
    await untouched(backup)


async def test_a_request_with_one_bad_entry_is_refused_whole(backup: Backup) -> None:
    good = wire.body(batch(item("a", 1), item("b", 2)))
    for change, code in (
        ({"operation": "upsert"}, "invalid_field"),
        ({"encrypted_data": "YmxvYh=="}, "invalid_field"),
        ({"entry_id": "../b"}, "invalid_field"),
        ({"rev": -2}, "invalid_field"),
        ({"epoch": 7}, "invalid_field"),
        ({"sha256": "0" * 64}, "sha256_mismatch"),
    ):
        sent = {**good, "entries": [good["entries"][0], {**good["entries"][1], **change}]}
        response = await backup.send(sent)
        assert code_of(response) == (400, code)
        assert response.json()["field"] == f"entries.1.{next(iter(change))}"
    await untouched(backup)


async def test_what_is_too_large_is_refused(backup: Backup) -> None:
    response = await backup.send(batch(*(item(f"e{n}", n) for n in range(1, 102))))
    assert code_of(response) == (413, "batch_too_large")
    found = endpoint_of(backup.web.view_functions["replication.apply_batch"])
    assert found is not None
    assert found.max_body == 16 * 1024 * 1024  # the server refuses a longer one as it reads it
    await untouched(backup)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b'{"source_pop": "calgary-01", "source_pop": "calgary-01", "entries": []}', 400),
        (b'{"source_pop": "calgary-01", "entries": [], "depth": NaN}', 400),
        (b'{"source_pop": "calgary-01", "entries": [], "batch_id": "\xff"}', 400),
        (b"[" * 100_000, 400),
    ],
)
async def test_what_is_no_strict_json_is_refused(quick_backup: Backup, body: bytes, status: int) -> None:
    assert code_of(await quick_backup.send(body)) == (status, "malformed_json")
    response = await quick_backup.send(batch(item("a", 1)), content_type="text/plain")
    assert code_of(response) == (415, "unsupported_media_type")
    await untouched(quick_backup)


async def test_a_whole_float_is_an_integer_as_everywhere(quick_backup: Backup) -> None:
    body = wire.encode(batch(plain("a"), epoch=None)).replace(str(T0).encode(), f"{T0}.0".encode())
    assert (await quick_backup.send(body)).json()["acknowledged"] == ["a"]


async def test_a_lower_epoch_is_stale(backup: Backup) -> None:
    await backup.applied(item("a", 1, epoch=3), epoch=3)
    response = await backup.send(batch(item("b", 2, epoch=2), epoch=2))
    assert code_of(response) == (409, "stale_epoch")
    assert response.json()["epoch"] == 3
    assert set(await backup.entries()) == {"a"}


async def test_another_stream_of_the_same_epoch_is_foreign(backup: Backup) -> None:
    await backup.applied(item("a", 1))
    response = await backup.send(batch(item("b", 2), stream_id="another"))
    assert code_of(response) == (409, "foreign_stream")
    assert set(await backup.entries()) == {"a"}


async def test_a_higher_epoch_is_adopted(backup: Backup) -> None:
    heard: list[str | None] = []
    backup.host.signals.subscribe(state.CHANGED, heard.append)
    await backup.applied(item("a", 7), head_rev=7, complete_rev=7, as_of=T0 * 1_000_000)
    answer = await backup.applied(item("b", 5, epoch=2), epoch=2, stream_id="promoted", head_rev=5)
    assert (answer["epoch"], answer["applied_max_rev"]) == (2, 5)
    found, peer = await backup.state(), await backup.peer()
    assert (found.role, found.epoch, found.stream_id, found.head_rev) == ("backup", 2, "promoted", 7)
    assert (peer.head_rev, peer.complete_rev, peer.as_of) == (5, 0, None)
    assert heard.count("") == 2
    assert [row["title"] for row in await backup.audited() if row["action"] == "adopt_epoch"] == [
        "follows calgary-01 in epoch 1",
        "follows calgary-01 in epoch 2",
    ]


async def test_a_write_of_a_higher_epoch_wins_whatever_its_rev(backup: Backup) -> None:
    await backup.applied(item("a", 9, "old"))
    assert ids(await backup.applied(item("a", 5, "new", epoch=2), epoch=2)) == (["a"], [], [])
    assert ids(await backup.applied(item("a", 10, "late"), epoch=2)) == ([], ["a"], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("new")
    await backup.check()


@pytest.mark.parametrize("role", ["primary", "fenced"])
async def test_what_is_no_backup_takes_nothing(backup: Backup, role: str) -> None:
    async with backup.host.db.transaction() as tx:
        await state.update(tx, role=role, epoch=4, stream_id="own")
    response = await backup.send(batch(item("a", 1), epoch=4))
    assert code_of(response) == (409, "not_a_backup")
    assert (response.json()["epoch"], response.json()["role"]) == (4, role)
    assert (await backup.state()).role == role
    assert await backup.entries() == {}


async def test_a_primary_that_is_shown_a_higher_epoch_turns_read_only(backup: Backup) -> None:
    async with backup.host.db.transaction() as tx:
        await state.update(tx, role="primary", epoch=4, stream_id="own")
    response = await backup.send(batch(item("a", 1, epoch=5), epoch=5))
    assert code_of(response) == (409, "not_a_backup")
    found = await backup.state()
    assert (found.role, found.reason) == ("fenced", "superseded")


async def test_a_primary_pointed_at_itself_is_told_so(tmp_path: Path) -> None:
    async with running_pop(tmp_path, primary_settings(), network=Network()) as pop:
        client = await pop.client(headers={"authorization": bearer(PRIMARY, pop.host.clock.now_us())})
        response = await client.post(wire.PATH, content=wire.encode(batch(item("a", 1))))
        assert code_of(response) == (409, "same_pop")


async def test_with_replication_off_nobody_is_known(tmp_path: Path) -> None:
    async with running_pop(tmp_path, {}) as pop:
        client = await pop.client(headers={"authorization": bearer(PRIMARY, pop.host.clock.now_us())})
        response = await client.post(wire.PATH, content=wire.encode(batch(item("a", 1))))
        assert code_of(response) == (401, "unauthorized")


# --- one bad entry among good ones ---------------------------------------------------------------------------


async def test_an_entry_that_holds_the_rev_from_a_lower_epoch_makes_room(backup: Backup) -> None:
    await backup.applied(item("old", 5, "kept"), item("other", 6))
    answer = await backup.applied(item("x", 4, epoch=2), item("new", 5, epoch=2), item("y", 7, epoch=2), epoch=2)
    assert ids(answer) == (["x", "new", "y"], [], [])
    found = await backup.entries()
    assert found["new"]["rev"] == 5
    assert sorted(row["rev"] for row in found.values()) == [4, 5, 6, 7, 8]
    assert found["old"]["encrypted_data"] == blob("kept")
    assert (await backup.versions())["old"].epoch == 1
    await backup.check()
    assert (await backup.state()).head_rev == await backup.host.vault.head_rev()


async def test_an_entry_that_holds_the_rev_in_the_same_epoch_is_a_conflict(backup: Backup) -> None:
    await backup.applied(item("old", 5))
    answer = await backup.applied(item("x", 4), item("new", 5), item("y", 7))
    assert ids(answer) == (["x", "y"], [], ["new"])
    assert answer["failures"][0]["code"] == "conflict"
    assert set(await backup.entries()) == {"old", "x", "y"}
    assert [row["entry_id"] for row in await backup.audited()][1:] == ["old", "x", "y"]
    await backup.check()


async def test_an_entry_that_cannot_be_written_fails_alone(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    place = backup.host.vault.place

    async def failing(tx: Any, copies: Any) -> None:
        await place(tx, copies)
        if any(copy.entry_id == "bad" for copy in copies):
            raise ValueError("no room for this one")

    monkeypatch.setattr(backup.host.vault, "place", failing)
    answer = await backup.applied(item("a", 1), item("bad", 2), item("b", 3), item("bad", 4))
    assert ids(answer) == (["a", "b"], [], ["bad"])
    assert [(failure["code"], failure["retryable"]) for failure in answer["failures"]] == [("not_written", True)]
    assert set(await backup.entries()) == {"a", "b"}
    await backup.check()
    monkeypatch.undo()
    assert ids(await backup.applied(item("bad", 4))) == (["bad"], [], [])
    await backup.check()


async def test_a_database_that_fails_is_a_503_and_nothing_is_acknowledged(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(tx: Any, copies: Any) -> None:
        raise StorageUnavailable("The disk of the database is full.", code="storage_full")

    monkeypatch.setattr(backup.host.vault, "place", failing)
    response = await backup.send(batch(item("a", 1)))
    assert code_of(response) == (503, "storage_full")
    await untouched(backup)
    assert (await backup.state()).epoch == 0


async def test_a_collision_that_room_does_not_help_is_a_conflict(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(tx: Any, copies: Any) -> None:
        raise UniqueViolation("taken")

    monkeypatch.setattr(backup.host.vault, "place", failing)
    assert ids(await backup.applied(item("a", 1))) == ([], [], ["a"])


async def test_room_that_was_made_in_vain_is_given_back(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    await backup.applied(item("old", 5))
    before = await backup.entries()

    async def failing(tx: Any, copies: Any) -> None:
        raise UniqueViolation("taken")

    monkeypatch.setattr(backup.host.vault, "place", failing)
    assert ids(await backup.applied(item("new", 5, epoch=2), epoch=2)) == ([], [], ["new"])
    assert await backup.entries() == before
    await backup.check()
    assert (await backup.state()).head_rev == await backup.host.vault.head_rev()


async def test_the_mutant_without_tombstones_forgets_an_entry(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "keeps_tombstone", lambda: False)
    await backup.applied(item("a", 1), item("b", 2))
    assert ids(await backup.applied(item("a", 3, None), item("c", 4, None))) == (["a", "c"], [], [])
    assert set(await backup.entries()) == set(await backup.versions()) == {"b"}
    await backup.check()


# --- the plain format ----------------------------------------------------------------------------------------


async def test_the_plain_format_works(backup: Backup) -> None:
    sent = {
        "source_pop": PRIMARY,
        "entries": [
            {"entry_id": "abc123", "operation": "create", "encrypted_data": blob(), "timestamp": 1743556800},
            {"entry_id": "gone", "operation": "delete", "timestamp": 1743556800},
        ],
    }
    response = await backup.send(sent)
    assert ids(response.json()) == (["abc123", "gone"], [], [])
    found = await backup.entries()
    assert found["abc123"]["updated_at"] == found["abc123"]["created_at"] == 1743556800 * 1_000_000
    assert found["gone"]["deleted_at"] == 1743556800 * 1_000_000
    assert {(version.epoch, version.rev) for version in (await backup.versions()).values()} == {(0, 1), (0, 2)}
    await backup.check()
    assert (await backup.state()).epoch == 0


async def test_in_the_plain_format_the_later_second_wins(backup: Backup) -> None:
    await backup.applied(plain("a", "first", at=T0), epoch=None)
    assert ids(await backup.applied(plain("a", "same", at=T0), epoch=None)) == ([], ["a"], [])
    assert ids(await backup.applied(plain("a", "earlier", at=T0 - 1), epoch=None)) == ([], ["a"], [])
    assert ids(await backup.applied(plain("a", "later", at=T0 + 1), epoch=None)) == (["a"], [], [])
    found = (await backup.entries())["a"]
    assert (found["encrypted_data"], found["rev"], found["created_at"]) == (blob("later"), 2, T0 * 1_000_000)
    assert ids(await backup.applied(plain("a", None, at=T0 + 2), epoch=None)) == (["a"], [], [])
    assert ids(await backup.applied(plain("a", "late", at=T0 + 1), epoch=None)) == ([], ["a"], [])
    assert (await backup.entries())["a"]["encrypted_data"] is None
    await backup.check()


async def test_in_the_plain_format_an_entry_may_be_there_twice(backup: Backup) -> None:
    answer = await backup.applied(plain("a", "one", at=T0), plain("b", at=T0), plain("a", "two", at=T0 + 1), epoch=None)
    assert ids(answer) == (["a", "b"], [], [])
    assert (await backup.entries())["a"]["encrypted_data"] == blob("two")
    await backup.check()


async def test_a_write_with_an_epoch_wins_over_one_in_the_plain_format(backup: Backup) -> None:
    await backup.applied(plain("p", at=T0 + 10), plain("q", at=T0 + 10), epoch=None)
    answer = await backup.applied(item("p", 1, "numbered"), item("r", 2))
    assert ids(answer) == (["p", "r"], [], [])
    found = await backup.entries()
    assert (found["p"]["encrypted_data"], found["p"]["rev"]) == (blob("numbered"), 1)
    assert (found["r"]["rev"], found["q"]["rev"]) == (2, 3)
    await backup.check()


async def test_the_plain_format_is_over_what_was_here_before_replication(tmp_path: Path, database_url: str) -> None:
    async with running_pop(tmp_path, {"CLAVITOR_DATABASE_URL": database_url}) as pop:
        wanted = WriteSet((Write("put", "a", encoded(b"before")),), "test", "test")
        at = (await pop.host.entries.write(wanted))[0].updated_at // 1_000_000
    async with running_backup(tmp_path, database=database_url) as backup:
        assert ids(await backup.applied(plain("a", "old", at=at), epoch=None)) == ([], ["a"], [])
        assert ids(await backup.applied(plain("a", "new", at=at + 1), epoch=None)) == (["a"], [], [])
        assert (await backup.entries())["a"]["encrypted_data"] == blob("new")


# --- what is known of the primary ----------------------------------------------------------------------------


async def test_a_heartbeat_says_how_the_primary_is(backup: Backup) -> None:
    answer = await backup.applied(
        head_rev=9, depth=3, complete_rev=7, as_of=T0 * 1_000_000, buckets=digests.NOTHING, audit_head="3:ff"
    )
    assert ids(answer) == ([], [], [])
    assert (answer["complete_rev"], answer["pop"]) == (7, BACKUP)
    assert answer["audit_head"].endswith(":" + (await backup.audited())[-1]["hash"])
    peer = await backup.peer()
    assert (peer.pop, peer.head_rev, peer.depth, peer.complete_rev, peer.as_of) == (PRIMARY, 9, 3, 7, T0 * 1_000_000)
    assert peer.heard_at is not None
    assert peer.audit_head == "3:ff"
    assert abs(peer.heard_at - backup.host.clock.now_us()) < 60_000_000
    assert (await backup.state()).stream_id == STREAM


async def test_what_is_known_of_the_primary_does_not_go_back(backup: Backup) -> None:
    await backup.applied(buckets=digests.NOTHING)
    await backup.applied(item("a", 9), head_rev=9, depth=0, complete_rev=9, as_of=T0 * 1_000_000)
    answer = await backup.applied(item("b", 3), head_rev=3, depth=7, complete_rev=2, as_of=T0 * 1_000_000 - 1)
    assert answer["applied_max_rev"] == 9
    peer = await backup.peer()
    assert (peer.head_rev, peer.depth, peer.complete_rev, peer.as_of) == (9, 0, 9, T0 * 1_000_000)


async def test_what_failed_is_not_counted_as_being_here(backup: Backup) -> None:
    await backup.applied(buckets=digests.NOTHING)
    await backup.applied(item("a", 1, "ours"), head_rev=1, complete_rev=1, as_of=5)
    await backup.applied(item("a", 1, "theirs"), head_rev=9, complete_rev=9, as_of=9)
    peer = await backup.peer()
    assert (peer.complete_rev, peer.as_of) == (1, 5)


async def test_nothing_is_believed_before_both_were_found_equal(quick_backup: Backup) -> None:
    """A backup that begins empty is told the primary's head, and has nothing of it."""
    backup = quick_backup
    answer = await backup.applied(head_rev=9, depth=0, complete_rev=9, as_of=T0)
    assert answer["complete_rev"] == 0
    other = bytes(32 * [1]) + digests.NOTHING[32:]
    answer = await backup.applied(head_rev=9, depth=0, complete_rev=9, as_of=T0, buckets=other)
    assert (answer["complete_rev"], answer["differing"]) == (0, [0])
    assert (await backup.peer()).as_of is None
    answer = await backup.applied(head_rev=9, depth=0, complete_rev=9, as_of=T0, buckets=digests.NOTHING)
    assert answer["complete_rev"] == 9
    answer = await backup.applied(head_rev=10, depth=0, complete_rev=10, as_of=T0 + 1)
    assert (answer["complete_rev"], (await backup.peer()).as_of) == (10, T0 + 1)


@pytest.mark.parametrize("confirmed", [{"confirmed_rev": 5}, {"confirmed_rev": 4, "confirmed_max_rev": 5}])
async def test_a_backup_that_has_lost_what_it_confirmed_believes_nothing(
    quick_backup: Backup, confirmed: dict[str, int]
) -> None:
    backup = quick_backup
    await backup.applied(buckets=digests.NOTHING)
    await backup.applied(item("a", 4), head_rev=4, complete_rev=4, as_of=4)
    answer = await backup.applied(head_rev=9, depth=0, complete_rev=9, as_of=9, **confirmed)
    assert answer["complete_rev"] == 4
    buckets = await state.buckets(backup.host.db)
    answer = await backup.applied(head_rev=9, depth=0, complete_rev=9, as_of=9, buckets=buckets, **confirmed)
    assert answer["complete_rev"] == 9, "both are equal, so nothing is lost"


async def test_no_clock_makes_the_backup_newer_than_it_is(tmp_path: Path, clock: QuickClock) -> None:
    async with running_backup(tmp_path / "data", clock=clock) as backup:
        hour = 3_600_000_000
        await backup.applied(head_rev=1, complete_rev=1, as_of=clock.now_us() + hour, buckets=digests.NOTHING)
        peer = await backup.peer()
        assert peer.as_of == peer.heard_at, "the primary's clock is ahead"
        clock.shift = 3600.0
        await backup.applied(head_rev=1, complete_rev=1, as_of=clock.now_us())
        clock.shift = 0.0
        right = clock.now_us() - 1_000_000
        await backup.applied(head_rev=1, complete_rev=1, as_of=right)
        assert (await backup.peer()).as_of == right, "our own clock was ahead"
        await backup.applied(head_rev=1, complete_rev=1, as_of=right - 5_000_000)
        assert (await backup.peer()).as_of == right, "a late one takes nothing back"


async def test_a_live_write_during_a_reseed_leaves_the_hashes_right(quick_backup: Backup) -> None:
    """It may have the rev of an entry that the re-seed has not come to, which is not in the hashes."""
    backup = quick_backup
    await backup.answer(batch(plain("a"), epoch=None))
    async with backup.host.db.transaction() as tx:
        await backup.host.vault.lock(tx)
        await tx.execute(sa.update(tables.versions).values(epoch=-1, digest=bytes(32)))
        await state.update(tx, buckets=digests.NOTHING, reseed_from="http://there")
    await backup.applied(item("b", 1), head_rev=1)
    found = await backup.versions()
    assert (found["a"].epoch, found["a"].digest, found["b"].rev) == (-1, bytes(32), 1)
    whole = digests.combined(digests.NOTHING, [(key, one.digest) for key, one in found.items()])
    assert digests.differing(await state.buckets(backup.host.db), whole) == []


async def test_equal_vaults_have_equal_hashes(backup: Backup) -> None:
    items = [item(f"e{n}", n, None if n % 3 == 0 else f"blob {n}") for n in range(1, 40)]
    theirs = digests.combined(
        digests.NOTHING,
        [(each.entry_id, digests.digest_of(each.entry_id, 1, each.rev or 0, each.encrypted_data)) for each in items],
    )
    assert (await backup.applied(*items, head_rev=39, buckets=theirs))["differing"] == []
    peer = await backup.peer()
    assert peer.mismatches == 0
    assert peer.compared_at is not None
    other = digests.combined(theirs, [("e7", b"\1" * 32)])
    answer = await backup.applied(head_rev=39, buckets=other)
    assert answer["differing"] == [digests.bucket_of("e7")]
    assert (await backup.peer()).mismatches == 1
    late = await backup.applied(head_rev=38, buckets=digests.NOTHING)
    assert "differing" not in late


async def test_while_a_reseed_is_under_way_nothing_is_compared_or_complete(backup: Backup) -> None:
    async with backup.host.db.transaction() as tx:
        await state.update(tx, reseed_from=BACKUP_URL)
    answer = await backup.applied(item("a", 1), complete_rev=1, as_of=5, buckets=digests.NOTHING)
    assert ids(answer) == (["a"], [], [])
    assert "differing" not in answer
    peer = await backup.peer()
    assert (peer.complete_rev, peer.as_of, peer.compared_at) == (0, None, None)


async def test_what_was_done_is_counted(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("b", 2))
    await backup.applied(item("a", 1), item("b", 2, "other"), item("c", 3))
    client = await backup.client_for("ADMIN")
    text = (await client.get("/api/v1/prometheus")).text
    for outcome, count in (("applied", 3), ("exists", 1), ("failed", 1)):
        assert f'clavitor_replication_applied_total{{outcome="{outcome}"}} {float(count)}' in text


async def test_rows_of_the_queue_are_never_made_here(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("b", 2, None))
    assert await backup.depth() == 0
    assert await backup.host.db.fetch_val(sa.select(sa.func.count()).select_from(tables.queue)) == 0


# --- any order, any number of times --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_comes_in_whatever_order_the_newest_write_stands(backup: Backup, seed: int) -> None:
    chance = random.Random(seed)
    writes = [
        item(f"e{chance.randrange(12)}", rev, None if chance.random() < 0.2 else f"blob {rev}", epoch=1 + rev // 60)
        for rev in range(1, 101)
    ]
    newest: dict[str, Item] = {}
    epoch = 1
    for _ in range(30):
        sent = [chance.choice(writes) for _ in range(chance.randrange(1, 25))]
        epoch = max([epoch, *(each.epoch or 0 for each in sent)])
        answer = await backup.applied(*sent, epoch=epoch)
        assert answer["failed"] == []
        assert {*answer["acknowledged"], *answer["already_exists"]} == {each.entry_id for each in sent}
        for each in sent:
            known = newest.get(each.entry_id)
            if known is None or (each.epoch, each.rev) > (known.epoch, known.rev):
                newest[each.entry_id] = each
        await backup.check()
    found = await backup.entries()
    assert {key: row["encrypted_data"] for key, row in found.items()} == {
        key: each.encrypted_data for key, each in newest.items()
    }
    async with backup.host.db.transaction() as tx:
        head = await backup.host.vault.lock(tx)
    assert head.live_entries == sum(each.encrypted_data is not None for each in newest.values())
    assert (await backup.state()).head_rev == head.rev == max(each.rev or 0 for each in newest.values())


async def test_a_pop_that_is_fenced_and_shown_a_higher_epoch_knows_it_from_then_on(backup: Backup) -> None:
    async with backup.host.db.transaction() as tx:
        await state.update(tx, role="fenced", epoch=4, stream_id="own")
    assert code_of(await backup.send(batch(item("a", 1, epoch=7), epoch=7))) == (409, "not_a_backup")
    found = await backup.state()
    assert (found.role, found.epoch) == ("fenced", 7)
