"""What the other POP may ask: who may, what is answered, and that nonsense is refused with a stable code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import asking, state, wire
from clavitor_commercial_replication.asking import AskedInVain
from clavitor_commercial_replication.models import Batch, Item
from clavitor_commercial_replication_testing.apps import Pair, encoded
from clavitor_commercial_replication_testing.backup import bearer
from clavitor_commercial_replication_testing.failover import drill

ROUTES = (("GET", asking.VERSIONS), ("GET", asking.ENTRIES), ("POST", asking.REPLAY))


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path) as made:
        for name in ("a", "b", "c"):
            await made.primary.put(name)
        await made.primary.delete("c")
        await made.settled()
        yield made


async def ask(pops: Pair, method: str, path: str, *, pop: str = "zurich-01", **options: Any) -> httpx.Response:
    """Ask the primary as its backup."""
    client = await pops.primary.client()
    headers = {"Authorization": bearer(pop, pops.primary.host.clock.now_us())}
    return await client.request(method, path, headers=headers, **options)


def replayed(
    *items: Item, source_pop: str = "zurich-01", epoch: int | None = 1, stream_id: str | None = "replay"
) -> dict[str, Any]:
    import json

    numbers: dict[str, Any] = {} if epoch is None else {"epoch": epoch, "stream_id": stream_id}
    body: dict[str, Any] = json.loads(wire.encode(Batch(source_pop, items, **numbers)))
    return body


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_an_authorised_pop_is_answered(pops: Pair, method: str, path: str) -> None:
    nobody = await pops.primary.client()
    assert (await nobody.request(method, path)).status_code == 401
    user = await pops.primary.client_for("ADMIN")
    assert (await user.request(method, path)).status_code == 401
    stranger = await ask(pops, method, path, pop="geneva-01")
    assert (stranger.status_code, stranger.json()["code"]) == (403, "pop_not_authorized")
    itself = await ask(pops, method, path, pop="calgary-01")
    assert (itself.status_code, itself.json()["code"]) == (409, "same_pop")


async def test_a_pop_says_what_it_is(pops: Pair) -> None:
    answer = await ask(pops, "GET", asking.VERSIONS)
    about = asking.read_about(answer.json())
    known = await state.required(pops.primary.host.db)
    assert about[:8] == ("calgary-01", "primary", 1, known.stream_id, 4, 0, 2, False)
    assert about.buckets == await state.buckets(pops.primary.host.db)


async def test_versions_are_those_of_the_buckets_asked_for(pops: Pair) -> None:
    everything = ",".join(map(str, range(256)))
    answer = await ask(pops, "GET", asking.VERSIONS, params={"buckets": everything})
    body = answer.json()
    assert [row[:3] for row in body["versions"]] == [["a", 1, 1], ["b", 1, 2], ["c", 1, 4]]
    assert body["next"] is None
    assert (await ask(pops, "GET", asking.VERSIONS, params={"buckets": "0,1,2"})).json()["versions"] == []


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"buckets": ""}, "buckets"),
        ({"buckets": "256"}, "buckets"),
        ({"buckets": "-1"}, "buckets"),
        ({"buckets": "1,,2"}, "buckets"),
        ({"buckets": "²"}, "buckets"),
        ({"buckets": ",".join(["1"] * 257)}, "buckets"),
        ({"buckets": "1", "after": "x" * 257}, "after"),
    ],
)
async def test_bad_parameters_are_named(pops: Pair, params: dict[str, str], field: str) -> None:
    answer = await ask(pops, "GET", asking.VERSIONS, params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_field")
    assert answer.json()["field"] == field


async def test_entries_come_whole_in_the_form_of_a_request_to_apply(pops: Pair) -> None:
    answer = await ask(pops, "GET", asking.ENTRIES, params={"count": "true"})
    page = wire.parse(answer.json())
    assert [(item.entry_id, item.operation, item.epoch, item.rev) for item in page.items] == [
        ("a", "update", 1, 1),
        ("b", "update", 1, 2),
        ("c", "delete", 1, 4),
    ]
    assert (page.depth, page.head_rev, page.epoch) == (3, 4, 1)
    assert page.items[0].encrypted_data == encoded(b"blob")
    rest = wire.parse((await ask(pops, "GET", asking.ENTRIES, params={"after": "b"})).json())
    assert [item.entry_id for item in rest.items] == ["c"] and rest.depth is None
    assert (await ask(pops, "GET", asking.ENTRIES, params={"after": "c"})).json()["entries"] == []


async def test_a_replay_is_a_regular_write_with_its_own_number_and_audit_row(pops: Pair) -> None:
    fresh = Item("new", "create", encoded(b"replayed"), 5, 1, 77, created_at=5, updated_at=5)
    answer = await ask(pops, "POST", asking.REPLAY, json=replayed(fresh))
    assert answer.json() == {"written": ["new"], "same": [], "conflicts": []}
    row = (await pops.primary.entries())["new"]
    assert row["rev"] == 5 and row["encrypted_data"] == encoded(b"replayed")
    found = await pops.primary.host.db.fetch_one("SELECT * FROM audit_log WHERE entry_id = 'new'")
    assert found is not None and found["actor"] == "pop:zurich-01" and found["action"] == "create_entry"
    await pops.settled()


@pytest.mark.parametrize(
    ("item", "outcome"),
    [
        (Item("a", "update", encoded(b"blob"), 5, 1, 1), "same"),
        (Item("a", "update", encoded(b"other"), 5, 1, 1), "conflicts"),
        (Item("a", "update", encoded(b"other"), 5, 0, 99), "conflicts"),
        (Item("a", "update", encoded(b"other"), 5, 1, 9), "written"),
        (Item("a", "update", encoded(b"other"), 5, 2, 1), "written"),
        (Item("a", "delete", None, 5, 1, 9), "written"),
        (Item("a", "delete", None, 5, 0, 9), "conflicts"),
        (Item("c", "delete", None, 5, 0, 1), "same"),
        (Item("never", "delete", None, 5, 0, 1), "same"),
        (Item("c", "update", encoded(b"other"), 5, 1, 3), "conflicts"),
        (Item("c", "update", encoded(b"other"), 5, 1, 5), "written"),
    ],
)
async def test_numbers_decide_what_a_replay_may_write(pops: Pair, item: Item, outcome: str) -> None:
    """In the epoch of a stream that this POP has followed, revs tell which write is the later one."""
    before = await pops.primary.entries()
    stream_id = (await state.required(pops.primary.host.db)).stream_id
    sent = replayed(item, epoch=max(1, item.epoch or 0), stream_id=stream_id)
    answer = await ask(pops, "POST", asking.REPLAY, json=sent)
    assert answer.json()[outcome] == [item.entry_id]
    if outcome != "written":
        assert await pops.primary.entries() == before
    forced = await ask(pops, "POST", f"{asking.REPLAY}?overwrite=true", json=sent)
    assert forced.json()["conflicts"] == []


async def test_revs_of_another_stream_of_the_same_epoch_say_nothing(pops: Pair) -> None:
    before = await pops.primary.entries()
    other = Item("a", "update", encoded(b"other"), 5, 1, 9)
    answer = await ask(pops, "POST", asking.REPLAY, json=replayed(other, stream_id="0" * 32))
    assert answer.json() == {"written": [], "same": [], "conflicts": ["a"]}
    assert await pops.primary.entries() == before


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (replayed(source_pop="calgary-01"), 403, "pop_mismatch"),
        (replayed(epoch=None), 400, "invalid_field"),
        ({"entries": []}, 400, "invalid_field"),
        (replayed(*[Item(f"e{number}", "delete", None, 5, 1, 9) for number in range(101)]), 413, "batch_too_large"),
    ],
)
async def test_a_replay_that_breaks_a_rule_is_refused_whole(
    pops: Pair, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await ask(pops, "POST", asking.REPLAY, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_backup_gives_versions_but_neither_entries_nor_takes_a_replay(pops: Pair) -> None:
    client = await pops.backup.client()
    headers = {"Authorization": bearer("calgary-01", pops.backup.host.clock.now_us())}
    assert (await client.get(asking.VERSIONS, headers=headers)).json()["role"] == "backup"
    for answer in (
        await client.get(asking.ENTRIES, headers=headers),
        await client.post(asking.REPLAY, headers=headers, json=replayed(source_pop="calgary-01")),
    ):
        assert (answer.status_code, answer.json()["code"], answer.json()["role"]) == (409, "not_a_primary", "backup")


@pytest.mark.parametrize(
    "body", [None, [], {}, "x", {"source_pop": "p"}, {"role": "boss"}, 7, {"hashes": "é", "source_pop": 3}]
)
def test_an_answer_that_makes_no_sense_is_no_answer(body: Any) -> None:
    with pytest.raises(AskedInVain, match="not one that this version understands"):
        asking.read_about(body)


@pytest.mark.parametrize(
    "change", [{"role": "boss"}, {"epoch": -1}, {"epoch": "1"}, {"hashes": "AAAA"}, {"reseeding": 1}, {"stream_id": 5}]
)
async def test_an_answer_with_one_wrong_member_is_no_answer(pops: Pair, change: dict[str, Any]) -> None:
    body = (await ask(pops, "GET", asking.VERSIONS)).json()
    asking.read_about(body)
    with pytest.raises(AskedInVain):
        asking.read_about({**body, **change})
