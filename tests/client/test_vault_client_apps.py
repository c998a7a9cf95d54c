"""The vault client against real apps: what it reads and writes, and a primary with its backup."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication_testing.apps import BACKUP_URL, PRIMARY_URL, Pair, pair, until

from clavitor_host.client import (
    BatchResult,
    Behind,
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    ReadOnly,
    Refused,
    ServerUnavailable,
    Unauthorized,
    VaultClient,
)
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.tokens import create_token
from clavitor_host.identity.users import create_user
from clavitor_host.testing import Harness

BLOB = base64.b64encode(b"sealed").decode()
OTHER = base64.b64encode(b"sealed anew").decode()
URL = "http://127.0.0.1:8400"


async def token_for(harness: Harness, role: str = "OPERATOR", **more: Any) -> str:
    user = await create_user(harness.host, name=f"u{role.lower()}{len(more)}", role=Role(role), requested_by=SYSTEM)
    _, token = await create_token(harness.host, name="test", user_id=user.id, requested_by=SYSTEM, **more)
    return token


@pytest.fixture
async def vault(harness: Harness) -> AsyncIterator[VaultClient]:
    transport = httpx.ASGITransport(app=harness.web)  # type: ignore[arg-type]
    async with VaultClient(URL, await token_for(harness), transport=transport) as client:
        yield client


async def test_entries_are_written_read_and_deleted(vault: VaultClient) -> None:
    made = await vault.put("one", BLOB)
    assert (made.entry_id, made.created, made.environment_id) == ("one", True, None)
    read = await vault.get("one")
    assert (read.rev, read.encrypted_data, read.created_at) == (made.rev, BLOB, made.created_at)
    assert (read.origin.url, read.origin.as_of, read.origin.lag) == (URL, None, None)
    again = await vault.put("one", OTHER, if_match=made.rev)
    assert (again.created, again.created_at) == (False, made.created_at)
    with pytest.raises(Conflict) as stale:
        await vault.put("one", BLOB, if_match=made.rev)
    assert (stale.value.code, stale.value.body["rev"]) == ("precondition_failed", again.rev)
    with pytest.raises(Conflict):
        await vault.put("one", BLOB, if_none_match=True)
    with pytest.raises(Conflict):
        await vault.delete("one", if_match=made.rev)
    assert await vault.delete("one", if_match=again.rev) == again.rev + 1
    for gone in (vault.get("one"), vault.delete("one")):
        with pytest.raises(NotFound):
            await gone
    assert vault.min_rev == again.rev + 1


async def test_an_environment_is_kept_changed_and_left(vault: VaultClient) -> None:
    assert (await vault.put("one", BLOB, environment_id="blue")).environment_id == "blue"
    assert (await vault.put("one", OTHER)).environment_id == "blue"
    assert (await vault.put("one", OTHER, environment_id="red")).environment_id == "red"
    assert (await vault.get("one")).environment_id == "red"
    assert (await vault.put("one", OTHER, environment_id=None)).environment_id is None


async def test_an_id_is_made_when_none_is_given(vault: VaultClient) -> None:
    made = await vault.create(BLOB, environment_id="blue")
    assert (await vault.get(made.entry_id)).environment_id == "blue"
    assert (await vault.create(BLOB, entry_id="mine")).entry_id == "mine"
    with pytest.raises(Conflict) as taken:
        await vault.create(BLOB, entry_id="mine")
    assert taken.value.code == "entry_exists"


@pytest.mark.parametrize("entry_id", [".", "..", "...", "a.b_c-D", "x" * 128])
async def test_every_id_finds_its_way(vault: VaultClient, entry_id: str) -> None:
    await vault.put(entry_id, BLOB)
    assert (await vault.get(entry_id)).entry_id == entry_id
    await vault.delete(entry_id)


@pytest.mark.parametrize("entry_id", ["a/b", "../../healthz", "ä", "a b", "a?limit=1", "a#b", "x" * 129, ""])
async def test_what_is_no_id_reaches_nothing_else(vault: VaultClient, entry_id: str) -> None:
    for act in (vault.get(entry_id), vault.put(entry_id, BLOB)):
        with pytest.raises(Refused):
            await act


async def test_batches_are_done_whole_or_not_at_all(vault: VaultClient) -> None:
    done = await vault.batch(
        [
            {"operation": "create", "entry_id": "a", "encrypted_data": BLOB},
            {"operation": "put", "entry_id": "a", "encrypted_data": OTHER},
            {"operation": "delete", "entry_id": "a"},
        ]
    )
    assert done == [BatchResult("a", "create", 1), BatchResult("a", "update", 2), BatchResult("a", "delete", 3)]
    assert vault.min_rev == 3
    with pytest.raises(NotFound) as refused:
        await vault.batch(
            [
                {"operation": "create", "entry_id": "b", "encrypted_data": BLOB},
                {"operation": "delete", "entry_id": "none"},
            ]
        )
    assert refused.value.body["operation"] == 1
    with pytest.raises(NotFound):
        await vault.get("b")


async def test_lists_and_changes_go_on_over_their_pages(vault: VaultClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clavitor_host.client.vault.LIMIT", 2)
    for number in range(5):
        await vault.put(f"e{number}", BLOB)
    await vault.delete("e1")
    listed = [entry async for entry in vault.list()]
    assert [entry.entry_id for entry in listed] == ["e4", "e3", "e2", "e0"]
    assert {entry.encrypted_data for entry in listed} == {None}
    assert {entry.encrypted_data async for entry in vault.list(data=True)} == {BLOB}
    seen, since, more = [], 0, True
    while more:
        page = await vault.changes(since, limit=2, data=True)
        assert page.origin.url == URL
        seen += [(change.entry_id, change.deleted, change.encrypted_data) for change in page.changes]
        since, more = page.next_since, page.more
    assert seen == [*((f"e{number}", False, BLOB) for number in (0, 2, 3, 4)), ("e1", True, None)]
    assert (await vault.changes(since)).changes == []


async def test_refusals_keep_their_words(harness: Harness, vault: VaultClient) -> None:
    transport = httpx.ASGITransport(app=harness.web)  # type: ignore[arg-type]
    async with VaultClient(URL, await token_for(harness, "VIEWER"), transport=transport) as viewer:
        with pytest.raises(Forbidden):
            await viewer.put("one", BLOB)
    async with VaultClient(URL, "clv_user_wrong", transport=transport) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.get("one")
    for data in ("not base64", "QUJD\n", ""):
        with pytest.raises(Refused) as refused:
            await vault.put("one", data)
        assert (refused.value.status, refused.value.code) == (400, "invalid_field")


# --- a primary and its backup


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair(tmp_path) as made:
        yield made


@pytest.fixture
async def failing_over(pops: Pair) -> AsyncIterator[VaultClient]:
    """A client of both; its token is known to both."""
    token = await token_for(pops.primary)
    async with VaultClient([PRIMARY_URL, BACKUP_URL], token, transport=pops.network) as client:
        await client.put("one", BLOB)
        await pops.settled()
        await token_at(pops, token)
        yield client


async def token_at(pops: Pair, token: str) -> None:
    """Wait until the backup honours a token."""
    async with httpx.AsyncClient(transport=pops.network, base_url=BACKUP_URL) as reader:
        reader.headers["Authorization"] = f"Bearer {token}"

        async def known() -> bool:
            return (await reader.get("/api/entries")).status_code == 200

        await until(known)


async def test_reads_go_on_at_the_backup_and_say_how_old_they_are(pops: Pair, failing_over: VaultClient) -> None:
    assert (await failing_over.get("one")).origin.url == PRIMARY_URL
    pops.network.remove(PRIMARY_URL)
    read = await failing_over.get("one")
    assert (read.encrypted_data, read.origin.url) == (BLOB, BACKUP_URL)
    assert read.origin.as_of is not None and read.origin.lag is not None
    assert read.origin.as_of < datetime.now(UTC)
    assert 0 <= read.origin.lag < 60
    assert [entry.entry_id async for entry in failing_over.list()] == ["one"]
    assert [change.entry_id for change in (await failing_over.changes()).changes] == ["one"]
    with pytest.raises(NotFound):
        await failing_over.get("none")


async def test_writes_fail_with_the_primarys_location_until_it_is_back(pops: Pair, failing_over: VaultClient) -> None:
    web = pops.network.apps[PRIMARY_URL.partition("//")[2]]
    pops.network.remove(PRIMARY_URL)
    for write in (failing_over.put("two", BLOB), failing_over.create(BLOB), failing_over.delete("one")):
        with pytest.raises(ReadOnly) as refused:
            await write
        assert refused.value.primary_location == PRIMARY_URL
    pops.network.add(PRIMARY_URL, web)
    assert (await failing_over.put("two", BLOB)).created
    await pops.settled()
    assert sorted(await pops.backup.entries()) == ["one", "two"]


async def test_a_client_reads_what_it_wrote_or_is_told_that_it_cannot(pops: Pair, failing_over: VaultClient) -> None:
    held = httpx.ConnectError("the backup is not reached from the primary")

    async def hold(request: httpx.Request, forward: Any) -> httpx.Response:
        if request.url.path.startswith("/api/replication/"):
            raise held
        return await forward(request)  # type: ignore[no-any-return]

    pops.network.always = hold
    await failing_over.put("one", OTHER)
    pops.network.remove(PRIMARY_URL)
    with pytest.raises(Behind):
        await failing_over.get("one")
    failing_over.min_rev = 0
    assert (await failing_over.get("one")).encrypted_data == BLOB
    pops.network.add(PRIMARY_URL, pops.primary.web)


async def test_a_write_whose_answer_is_lost_is_done_once(pops: Pair, failing_over: VaultClient) -> None:
    async def lost_after(request: httpx.Request, forward: Any) -> httpx.Response:
        answer: httpx.Response = await forward(request)
        if request.method != "POST" or request.url.path != "/api/entries":
            return answer
        raise httpx.ReadTimeout("the answer was lost", request=request)

    pops.network.always = lost_after
    with pytest.raises(OutcomeUnknown):
        await failing_over.create(BLOB)
    pops.network.always = None
    assert len(await pops.primary.entries()) == 2
    await pops.settled()


async def test_nobody_is_there(pops: Pair, failing_over: VaultClient) -> None:
    pops.network.remove(PRIMARY_URL)
    pops.network.remove(BACKUP_URL)
    with pytest.raises(ServerUnavailable) as away:
        await failing_over.get("one")
    with pytest.raises(ServerUnavailable):
        await failing_over.put("one", BLOB)
    assert PRIMARY_URL in str(away.value)
    assert BACKUP_URL in str(away.value)
