"""Entries over HTTP (vault.md section 1): every test runs on both databases, over the hot and the ordinary routes."""

from __future__ import annotations

import asyncio
import base64
import uuid

import httpx
import pytest

BLOB = base64.b64encode(b"what only the client can read").decode()
OTHER = base64.b64encode(b"another version").decode()

pytestmark = pytest.mark.usefixtures("both_paths")


async def put(client: httpx.AsyncClient, entry_id: str, data: str = BLOB, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.put(f"/api/entries/{entry_id}", json={"encrypted_data": data}, headers=named)


async def test_put_creates_then_replaces(writer: httpx.AsyncClient) -> None:
    first = await put(writer, "a.b-c_1")
    assert first.status_code == 201
    second = await put(writer, "a.b-c_1", OTHER)
    assert second.status_code == 200
    assert second.json()["rev"] == first.json()["rev"] + 1
    assert second.json()["created_at"] == first.json()["created_at"]
    assert second.json()["updated_at"] > first.json()["updated_at"]
    assert second.headers["X-Clavitor-Rev"] == str(second.json()["rev"])
    assert second.headers["ETag"] == f'"{second.json()["rev"]}"'


async def test_get_returns_exactly_what_was_stored(writer: httpx.AsyncClient) -> None:
    written = (await put(writer, "one")).json()
    read = await writer.get("/api/entries/one")
    assert read.status_code == 200
    assert read.headers["Content-Type"] == "application/json"
    assert read.json() == {
        "entry_id": "one",
        "encrypted_data": BLOB,
        "rev": written["rev"],
        "created_at": written["created_at"],
        "updated_at": written["updated_at"],
    }


async def test_get_with_the_current_etag_is_304(writer: httpx.AsyncClient) -> None:
    etag = (await put(writer, "one")).headers["ETag"]
    for value in (etag, f"W/{etag}", f'"7777", {etag}', "*"):
        read = await writer.get("/api/entries/one", headers={"If-None-Match": value})
        assert (read.status_code, read.content, read.headers["ETag"]) == (304, b"", etag)
    await put(writer, "one", OTHER)
    assert (await writer.get("/api/entries/one", headers={"If-None-Match": etag})).status_code == 200


async def test_a_missing_entry_is_a_json_404(writer: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        reply = await writer.request(method, "/api/entries/none")
        assert reply.status_code == 404
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json()["code"] == "entry_not_found"


async def test_if_match_holds_a_write_back(writer: httpx.AsyncClient) -> None:
    first = (await put(writer, "one")).headers["ETag"]
    current = (await put(writer, "one", OTHER)).headers["ETag"]
    stale = await put(writer, "one", BLOB, If_Match=first)
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert (await writer.delete("/api/entries/one", headers={"If-Match": first})).status_code == 412
    assert (await writer.get("/api/entries/one")).json()["encrypted_data"] == OTHER
    assert (await put(writer, "one", BLOB, If_Match=f"W/{current}")).status_code == 412  # strong comparison
    assert (await put(writer, "one", BLOB, If_Match=current)).status_code == 200
    assert (await put(writer, "two", BLOB, If_Match="*")).status_code == 412
    assert (await put(writer, "two", BLOB, If_Match="one")).status_code == 400


async def test_if_none_match_star_only_creates(writer: httpx.AsyncClient) -> None:
    assert (await put(writer, "one", BLOB, If_None_Match="*")).status_code == 201
    assert (await put(writer, "one", OTHER, If_None_Match="*")).status_code == 412
    assert (await put(writer, "one", OTHER, If_None_Match='"1"')).status_code == 400


async def test_delete_leaves_a_tombstone_in_the_change_feed(writer: httpx.AsyncClient) -> None:
    await put(writer, "one")
    gone = await writer.delete("/api/entries/one")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await writer.get("/api/entries/one")).status_code == 404
    (change,) = (await writer.get("/api/changes?include=data")).json()["changes"]
    assert change["deleted"] is True
    assert change["encrypted_data"] is None
    assert str(change["rev"]) == gone.headers["X-Clavitor-Rev"]


async def test_an_entry_created_again_after_its_deletion_is_new(writer: httpx.AsyncClient) -> None:
    first = (await put(writer, "one")).json()
    await writer.delete("/api/entries/one")
    again = await put(writer, "one", OTHER)
    assert again.status_code == 201
    assert again.json()["created_at"] > first["created_at"]


async def test_post_makes_a_time_ordered_id(writer: httpx.AsyncClient) -> None:
    reply = await writer.post("/api/entries", json={"encrypted_data": BLOB})
    assert reply.status_code == 201
    made = uuid.UUID(reply.json()["entry_id"])
    assert made.version == 7
    assert reply.headers["Location"] == f"/api/entries/{made}"
    assert "encrypted_data" not in reply.json()


async def test_post_refuses_a_living_id(writer: httpx.AsyncClient) -> None:
    body = {"entry_id": "one", "encrypted_data": BLOB}
    assert (await writer.post("/api/entries", json=body)).status_code == 201
    again = await writer.post("/api/entries", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "entry_exists")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "encrypted_data"),
        ({"encrypted_data": ""}, "encrypted_data"),
        ({"encrypted_data": 7}, "encrypted_data"),
        ({"encrypted_data": None}, "encrypted_data"),
        ({"encrypted_data": "not base64!"}, "encrypted_data"),
        ({"encrypted_data": "QUJD\n"}, "encrypted_data"),
        ({"encrypted_data": "QUJ"}, "encrypted_data"),
        ({"encrypted_data": "QUI"}, "encrypted_data"),
        ({"encrypted_data": "QUK="}, "encrypted_data"),  # trailing bits that decoders drop
        ({"encrypted_data": "QUI-"}, "encrypted_data"),
        ({"encrypted_data": "QUJDé"}, "encrypted_data"),
        ({"encrypted_data": BLOB, "environment_id": ""}, "environment_id"),
        ({"encrypted_data": BLOB, "environment_id": "a/b"}, "environment_id"),
        ({"encrypted_data": BLOB, "surprise": 1}, "surprise"),
        ([], "body"),
    ],
)
async def test_a_wrong_body_names_the_field(writer: httpx.AsyncClient, body: object, field: str) -> None:
    reply = await writer.put("/api/entries/one", json=body)
    assert (reply.status_code, reply.json().get("field")) == (400, field)
    assert (await writer.get("/api/entries/one")).status_code == 404


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"encrypted_data": "QUJD", "encrypted_data": "QUJD"}',
        b'{"encrypted_data": NaN}',
        b'{"encrypted_data": "QUJD\xff"}',
        b"[" * 100_000,
        b'{"encrypted_data": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{\x00}\x00",
        b'{"encrypted_data": "\\ud800"}',
    ],
)
async def test_malformed_json_is_a_400(writer: httpx.AsyncClient, data: bytes) -> None:
    for method, path in (("PUT", "/api/entries/one"), ("POST", "/api/entries"), ("POST", "/api/entries/batch")):
        reply = await writer.request(method, path, content=data, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, (method, path)
        assert reply.json()["code"] in ("malformed_json", "invalid_field")


@pytest.mark.parametrize("entry_id", ["a" * 129, "a%20b", "é", "a%00b", "a%2Fb", "a:b"])
async def test_an_id_outside_its_alphabet(writer: httpx.AsyncClient, entry_id: str) -> None:
    assert (await put(writer, entry_id)).status_code in (400, 404)
    assert (await writer.get(f"/api/entries/{entry_id}")).status_code == 404
    assert (await writer.get("/api/changes")).json()["changes"] == []


async def test_the_largest_blob_fits_and_one_byte_more_does_not(writer: httpx.AsyncClient) -> None:
    largest = base64.b64encode(bytes(1024 * 1024)).decode()
    assert (await put(writer, "big", largest)).status_code == 201
    assert (await writer.get("/api/entries/big")).json()["encrypted_data"] == largest
    larger = base64.b64encode(bytes(1024 * 1024 + 1)).decode()
    reply = await put(writer, "big", larger)
    assert (reply.status_code, reply.json()["code"]) == (413, "entry_too_large")


async def test_another_content_type_is_refused(writer: httpx.AsyncClient) -> None:
    reply = await writer.put("/api/entries/one", content=b"{}", headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415


async def test_pages_go_through_everything_newest_write_first(writer: httpx.AsyncClient) -> None:
    for number in range(7):
        await put(writer, f"e{number}")
    await put(writer, "e2", OTHER)
    await writer.delete("/api/entries/e5")
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await writer.get(f"/api/entries?limit=2{cursor}")).json()
        assert len(page["entries"]) <= 2
        assert all("encrypted_data" not in entry for entry in page["entries"])
        seen += [entry["entry_id"] for entry in page["entries"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["e2", "e6", "e4", "e3", "e1", "e0"]


async def test_include_data_adds_the_blobs(writer: httpx.AsyncClient) -> None:
    await put(writer, "one")
    (entry,) = (await writer.get("/api/entries?include=data")).json()["entries"]
    assert entry["encrypted_data"] == BLOB
    assert (await writer.get("/api/entries?include=everything")).status_code == 400


async def test_pages_with_data_are_bounded_in_bytes(writer: httpx.AsyncClient) -> None:
    large = base64.b64encode(bytes(1024 * 1024)).decode()
    for number in range(10):
        await put(writer, f"e{number}", large)
    first = (await writer.get("/api/changes?include=data&limit=100")).json()
    assert 0 < len(first["changes"]) < 10
    assert first["more"] is True
    rest = (await writer.get(f"/api/changes?include=data&since={first['next_since']}")).json()
    assert len(first["changes"]) + len(rest["changes"]) == 10


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=-1", "limit=1&limit=2", "limit=%ff"])
async def test_a_wrong_query_is_a_400(writer: httpx.AsyncClient, query: str) -> None:
    assert (await writer.get(f"/api/entries?{query}")).status_code == 400


async def test_a_client_that_follows_the_feed_ends_with_the_same_entries(writer: httpx.AsyncClient) -> None:
    mirror: dict[str, str | None] = {}
    since = 0

    async def sync() -> None:
        nonlocal since
        while True:
            page = (await writer.get(f"/api/changes?since={since}&limit=3&include=data")).json()
            for change in page["changes"]:
                mirror[change["entry_id"]] = None if change["deleted"] else change["encrypted_data"]
            since = page["next_since"]
            if not page["more"]:
                return

    for number in range(10):
        await put(writer, f"e{number % 4}", base64.b64encode(bytes([number])).decode())
    await sync()
    await writer.delete("/api/entries/e1")
    await put(writer, "e9")
    await sync()
    living = {k: v for k, v in mirror.items() if v is not None}
    stored = (await writer.get("/api/entries?include=data")).json()["entries"]
    assert living == {entry["entry_id"]: entry["encrypted_data"] for entry in stored}
    assert mirror["e1"] is None


async def test_a_batch_happens_all_or_none(writer: httpx.AsyncClient) -> None:
    await put(writer, "old")
    good = [
        {"operation": "create", "entry_id": "n1", "encrypted_data": BLOB},
        {"operation": "put", "entry_id": "old", "encrypted_data": OTHER},
        {"operation": "put", "entry_id": "n1", "encrypted_data": OTHER},
        {"operation": "delete", "entry_id": "old"},
    ]
    reply = await writer.post("/api/entries/batch", json={"operations": good})
    assert reply.status_code == 200
    assert [r["operation"] for r in reply.json()["results"]] == ["create", "update", "update", "delete"]
    assert reply.headers["X-Clavitor-Rev"] == str(reply.json()["results"][-1]["rev"])
    assert (await writer.get("/api/entries/n1")).json()["encrypted_data"] == OTHER

    before = (await writer.get("/api/changes")).json()
    bad = [{"operation": "put", "entry_id": "n2", "encrypted_data": BLOB}, {"operation": "delete", "entry_id": "old"}]
    refused = await writer.post("/api/entries/batch", json={"operations": bad})
    assert (refused.status_code, refused.json()["operation"], refused.json()["entry_id"]) == (404, 1, "old")
    assert (await writer.get("/api/changes")).json() == before


@pytest.mark.parametrize(
    "operations",
    [[], [{}], "x", [{"operation": "put", "entry_id": "a"}], [{"operation": "move", "entry_id": "a"}]],
)
async def test_a_wrong_batch_is_a_400(writer: httpx.AsyncClient, operations: object) -> None:
    assert (await writer.post("/api/entries/batch", json={"operations": operations})).status_code == 400


async def test_a_batch_has_at_most_100_operations(writer: httpx.AsyncClient) -> None:
    many = [{"operation": "put", "entry_id": f"e{n}", "encrypted_data": BLOB} for n in range(101)]
    assert (await writer.post("/api/entries/batch", json={"operations": many})).status_code == 400
    assert (await writer.post("/api/entries/batch", json={"operations": many[:100]})).status_code == 200


async def test_concurrent_writes_get_distinct_revs_without_gaps(writer: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(*(put(writer, f"e{n % 10}", BLOB) for n in range(50)))
    revs = sorted(reply.json()["rev"] for reply in replies)
    assert revs == list(range(1, 51))
    times = [reply.json()["updated_at"] for reply in sorted(replies, key=lambda r: r.json()["rev"])]
    assert times == sorted(set(times))


async def test_of_concurrent_creates_of_one_id_one_wins(writer: httpx.AsyncClient) -> None:
    body = {"entry_id": "one", "encrypted_data": BLOB}
    replies = await asyncio.gather(*(writer.post("/api/entries", json=body) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [201] + [409] * 19


async def test_one_bad_write_never_fails_its_neighbours(writer: httpx.AsyncClient) -> None:
    await put(writer, "old")
    tasks = [put(writer, f"e{n}") if n % 3 else put(writer, "old", BLOB, If_Match='"999"') for n in range(30)]
    codes = [reply.status_code for reply in await asyncio.gather(*tasks)]
    assert codes == [201 if n % 3 else 412 for n in range(30)]


async def test_a_condition_inside_a_batch_that_does_not_hold_is_a_conflict(writer: httpx.AsyncClient) -> None:
    rev = (await put(writer, "one")).json()["rev"]
    for condition in ({"if_match": rev + 1}, {"if_none_match": "*"}):
        operation = {"operation": "put", "entry_id": "one", "encrypted_data": OTHER, **condition}
        reply = await writer.post("/api/entries/batch", json={"operations": [operation]})
        assert (reply.status_code, reply.json()["code"], reply.json()["rev"]) == (409, "precondition_failed", rev)
    held = {"operation": "put", "entry_id": "one", "encrypted_data": OTHER, "if_match": float(rev)}
    assert (await writer.post("/api/entries/batch", json={"operations": [held]})).status_code == 200


async def test_a_query_parameter_that_there_is_not_is_refused(admin: httpx.AsyncClient) -> None:
    refused = await admin.get("/api/entries", params={"limit": 10, "enviroment_id": "red"})
    assert (refused.status_code, refused.json()["code"]) == (400, "unknown_parameter")
    assert refused.json()["parameter"] == "enviroment_id"
    assert "there is: limit, cursor, include." in refused.json()["detail"]
