"""Requests to the other POP, and what each kind of answer means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import link as links
from clavitor_commercial_replication.link import Link, LinkError, Refused, Rejected, Unauthorised, Unreachable
from clavitor_commercial_replication.models import Batch
from clavitor_commercial_replication_testing.apps import BACKUP_URL, Pair
from clavitor_commercial_replication_testing.network import Forward, answering


@pytest.fixture
async def link(quick_pops: Pair) -> AsyncIterator[Link]:
    """A link to the backup, over a network that is the test's own."""
    made = Link(quick_pops.primary.service, BACKUP_URL)
    yield made
    await made.close()


PATH = "/api/replication/anything"


async def error_of(link: Link, pops: Pair, fault: Any) -> LinkError:
    pops.network.always = fault
    with pytest.raises(LinkError) as raised:
        await link.post(PATH, {})
    return raised.value


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (301, Unreachable, "server_error"),
        (400, Rejected, "rejected"),
        (413, Rejected, "rejected"),
        (422, Rejected, "rejected"),
        (401, Unauthorised, "unauthorised"),
        (403, Refused, "refused"),
        (404, Refused, "refused"),
        (409, Refused, "refused"),
        (408, Unreachable, "server_error"),
        (429, Unreachable, "overloaded"),
        (500, Unreachable, "server_error"),
        (503, Unreachable, "server_error"),
    ],
)
async def test_every_status_has_its_meaning(
    quick_pops: Pair, link: Link, status: int, kind: type[LinkError], reason: str
) -> None:
    body = {"code": "some_code", "detail": "This is why.", "epoch": 7}
    error = await error_of(link, quick_pops, answering(status, body, headers={"Retry-After": "9"}))
    assert type(error) is kind
    assert (error.reason, error.status, error.body) == (reason, status, body)
    assert "This is why." in error.detail
    assert error.wait == (9.0 if kind is Unreachable else 0.0)


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'"text"', b"\xff", b"[" * 60_000])
async def test_an_error_without_a_problem_is_one_all_the_same(quick_pops: Pair, link: Link, body: bytes) -> None:
    error = await error_of(link, quick_pops, answering(409, body))
    assert isinstance(error, Refused)
    assert (error.body, error.code) == ({}, "")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 60_000])
async def test_what_is_no_json_is_no_answer(quick_pops: Pair, link: Link, body: bytes) -> None:
    assert (await error_of(link, quick_pops, answering(200, body))).reason == "unreadable"


async def test_an_endless_answer_is_not_read_to_its_end(
    quick_pops: Pair, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_ANSWER", 10_000)
    assert (await error_of(link, quick_pops, answering(200, b"1" * 20_000))).reason == "unreadable"


async def test_an_answer_that_never_ends_is_given_up(
    quick_pops: Pair, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "TOTAL_TIMEOUT", 0.05)

    async def slow(request: httpx.Request, forward: Forward) -> httpx.Response:
        await asyncio.sleep(30)
        return await forward(request)

    assert (await error_of(link, quick_pops, slow)).reason == "timeout"


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (httpx.ConnectError("refused"), "network"),
        (httpx.ReadError(""), "network"),
        (httpx.RemoteProtocolError("garbage"), "network"),
        (httpx.ConnectTimeout(""), "timeout"),
        (httpx.ReadTimeout(""), "timeout"),
        (httpx.DecodingError("bad gzip"), "network"),
    ],
)
async def test_what_happens_on_the_way_is_told_apart(
    quick_pops: Pair, link: Link, raised: httpx.HTTPError, reason: str
) -> None:
    async def broken(request: httpx.Request, forward: Forward) -> httpx.Response:
        raise raised

    error = await error_of(link, quick_pops, broken)
    assert isinstance(error, Unreachable)
    assert error.reason == reason


async def test_requests_show_who_we_are_and_keep_to_json(quick_pops: Pair, link: Link) -> None:
    quick_pops.network.always = answering(200, {"fine": True})
    quick_pops.network.requests.clear()
    assert await link.get(PATH, {"after": "a b", "limit": 3}) == {"fine": True}
    assert await link.post(PATH, {"x": 1}) == {"fine": True}
    got, posted = list(quick_pops.network.requests)[-2:]
    assert str(got.url) == f"{BACKUP_URL}{PATH}?after=a+b&limit=3"
    assert posted.content == b'{"x":1}'
    for request in (got, posted):
        assert request.headers["authorization"].startswith("Bearer pop.calgary-01.")
        assert request.headers["content-type"] == "application/json"
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["user-agent"].startswith("clavitor/")


async def test_an_answer_to_another_batch_confirms_nothing(quick_pops: Pair, link: Link) -> None:
    answer = {"acknowledged": [], "failed": [], "already_exists": [], "batch_id": "another"}
    quick_pops.network.always = answering(200, answer)
    with pytest.raises(Unreachable) as raised:
        await link.apply(Batch("calgary-01", (), 1, "s", batch_id="one"))
    assert raised.value.reason == "unreadable"


async def test_a_renewed_link_works(quick_pops: Pair, link: Link) -> None:
    quick_pops.network.always = answering(200, {})
    await link.get(PATH)
    await link.renew()
    assert await link.get(PATH) == {}
