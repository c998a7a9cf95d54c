"""The vault client over servers that fail in every way that a client can see."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pytest_httpx import HTTPXMock

from clavitor_host.client import (
    Behind,
    Conflict,
    Forbidden,
    NotFound,
    Origin,
    OutcomeUnknown,
    ReadOnly,
    Refused,
    ServerUnavailable,
    Unauthorized,
    VaultClient,
    servers,
)

A, B, C = "https://calgary.test", "https://zurich.test", "https://oslo.test"
ENTRY = {"entry_id": "one", "encrypted_data": "QUJD", "rev": 7, "created_at": 1, "updated_at": 2}
WRITTEN = {"entry_id": "one", "rev": 8, "created_at": 1, "updated_at": 3}
AGE = {"X-Clavitor-As-Of": "2026-11-22T12:00:00.250000Z", "X-Clavitor-Lag": "3.200"}
READ_ONLY = {"code": "read_only", "detail": "Write operations not available on backup POP"}

Write = Callable[[VaultClient], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "put": lambda vault: vault.put("one", "QUJD"),
    "put if": lambda vault: vault.put("one", "QUJD", if_match=7),
    "create": lambda vault: vault.create("QUJD"),
    "delete": lambda vault: vault.delete("one"),
    "batch": lambda vault: vault.batch([{"operation": "delete", "entry_id": "one"}]),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)

NOT_SENT = (httpx.ConnectError("refused"), httpx.ConnectTimeout("no answer"), httpx.PoolTimeout("busy"))
SENT = (
    httpx.ReadTimeout("too slow"),
    httpx.WriteTimeout("too slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("disconnected without an answer"),
)
GARBAGE: tuple[dict[str, Any], ...] = (
    {"html": "<h1>It works</h1>"},
    {"content": b"\xff\xfe"},
    {"json": []},
    {"json": {"entry_id": "one"}},
    {"json": ENTRY, "headers": {"X-Clavitor-As-Of": "yesterday", "X-Clavitor-Rev": "many"}},
    {"content": b""},
)


@pytest.fixture
async def vault() -> AsyncIterator[VaultClient]:
    async with VaultClient([A, B], "clv_user_x") as client:
        yield client


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, for a test to move."""
    moment = [1000.0]
    monkeypatch.setattr(servers, "monotonic", lambda: moment[0])
    return moment


def asked(mock: HTTPXMock) -> list[str]:
    """Return which servers were asked, in order."""
    return [f"{request.url.scheme}://{request.url.host}" for request in mock.get_requests()]


def backup_answers(mock: HTTPXMock, **more: Any) -> None:
    mock.add_response(url=f"{B}/api/entries/one", json=ENTRY, headers=AGE, **more)


# --- reading


async def test_a_primary_that_answers_is_the_only_one_that_is_asked(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{A}/api/entries/one", json={**ENTRY, "environment_id": "blue"})
    entry = await vault.get("one")
    assert entry == ("one", 7, 1, 2, "blue", "QUJD", Origin(A))
    (request,) = httpx_mock.get_requests()
    assert request.headers["Authorization"] == "Bearer clv_user_x"
    assert "X-Min-Rev" not in request.headers


@pytest.mark.parametrize("error", [*NOT_SENT, *SENT], ids=lambda error: type(error).__name__)
async def test_reads_go_to_the_backup_when_the_primary_is_not_reached(
    vault: VaultClient, httpx_mock: HTTPXMock, error: Exception
) -> None:
    httpx_mock.add_exception(error, url=f"{A}/api/entries/one")
    backup_answers(httpx_mock)
    entry = await vault.get("one")
    assert entry.origin == Origin(B, datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC), 3.2)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_reads_go_to_the_backup_when_the_primary_cannot_work(
    vault: VaultClient, httpx_mock: HTTPXMock, status: int
) -> None:
    httpx_mock.add_response(url=f"{A}/api/entries/one", status_code=status)
    backup_answers(httpx_mock)
    assert (await vault.get("one")).origin.url == B


@pytest.mark.parametrize("answer", GARBAGE, ids=lambda answer: repr(answer)[:30])
async def test_reads_go_to_the_backup_when_the_primary_answers_garbage(
    vault: VaultClient, httpx_mock: HTTPXMock, answer: dict[str, Any]
) -> None:
    httpx_mock.add_response(url=f"{A}/api/entries/one", **answer)
    backup_answers(httpx_mock)
    assert (await vault.get("one")).origin.url == B


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (401, Unauthorized), (403, Forbidden), (404, NotFound), (302, Refused)]
)
async def test_a_refusal_is_the_answer(
    vault: VaultClient, httpx_mock: HTTPXMock, status: int, kind: type[Exception]
) -> None:
    headers = {"Location": f"{C}/elsewhere"}
    httpx_mock.add_response(url=f"{A}/api/entries/one", status_code=status, json={"code": "x"}, headers=headers)
    with pytest.raises(kind):
        await vault.get("one")
    assert asked(httpx_mock) == [A]


async def test_a_refusal_tells_whose_it_is(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{B}/api/entries/one", status_code=404, json={"code": "x"}, headers=AGE)
    with pytest.raises(NotFound) as missing:
        await vault.get("one")
    assert missing.value.origin == Origin(B, datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC), 3.2)


async def test_a_throttled_client_does_not_go_around(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{A}/api/entries/one", status_code=429, headers={"Retry-After": "7"})
    with pytest.raises(ServerUnavailable) as slow:
        await vault.get("one")
    assert (slow.value.retry_after, slow.value.status) == (7.0, 429)
    assert asked(httpx_mock) == [A]


async def test_when_nobody_answers_the_error_names_everybody(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    problem = {"code": "storage_busy", "detail": "The database is busy."}
    httpx_mock.add_response(url=f"{B}/api/entries/one", status_code=503, json=problem, headers={"Retry-After": "2"})
    with pytest.raises(ServerUnavailable) as away:
        await vault.get("one")
    assert str(away.value) == (f"{A}: The server was not reached: ConnectError: refused; {B}: The database is busy.")
    assert away.value.retry_after == 2.0


async def test_a_server_that_is_away_is_asked_last_until_its_rest_is_over(
    vault: VaultClient, httpx_mock: HTTPXMock, now: list[float]
) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one", is_reusable=True)
    backup_answers(httpx_mock, is_reusable=True)
    for _ in range(3):
        await vault.get("one")
    assert asked(httpx_mock) == [A, B, B, B]
    now[0] += servers.FIRST_REST  # it is tried again, and rests longer
    await vault.get("one")
    now[0] += servers.FIRST_REST
    await vault.get("one")
    assert asked(httpx_mock)[4:] == [A, B, B]
    for _ in range(10):
        now[0] += servers.LONGEST_REST
        await vault.get("one")
    assert asked(httpx_mock)[7:] == [A, B] * 10


async def test_a_server_that_is_back_is_the_first_again(
    vault: VaultClient, httpx_mock: HTTPXMock, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clavitor.client")
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{A}/api/entries/one", json=ENTRY, is_reusable=True)
    backup_answers(httpx_mock, is_reusable=True)
    await vault.get("one")
    now[0] += servers.FIRST_REST
    assert (await vault.get("one")).origin == Origin(A)
    assert (await vault.get("one")).origin == Origin(A)
    assert asked(httpx_mock) == [A, B, A, A]
    said = [record.getMessage() for record in caplog.records if record.name == "clavitor.client"]
    assert said == [
        f"No answer from {A}, others are asked: The server was not reached: ConnectError: refused",
        f"{A} answers again",
    ]


async def test_one_reader_alone_tries_a_server_that_was_away(
    vault: VaultClient, httpx_mock: HTTPXMock, now: list[float]
) -> None:
    begun, hangs = asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        begun.set()
        await hangs.wait()
        raise httpx.ReadTimeout("too slow", request=request)

    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    backup_answers(httpx_mock, is_reusable=True)
    await vault.get("one")
    now[0] += servers.FIRST_REST
    httpx_mock.add_callback(slow, url=f"{A}/api/entries/one")
    tries = asyncio.create_task(vault.get("one"))
    await begun.wait()
    for _ in range(3):
        assert (await vault.get("one")).origin.url == B
    assert not tries.done()
    hangs.set()
    assert (await tries).origin.url == B
    assert asked(httpx_mock).count(A) == 2


async def test_a_server_that_rests_is_still_asked_when_there_is_no_other(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{A}/api/entries/one", json=ENTRY)
    async with VaultClient(f"{A}/", "t") as vault:
        with pytest.raises(ServerUnavailable):
            await vault.get("one")
        assert (await vault.get("one")).rev == 7


async def test_a_token_that_the_backup_does_not_know_yet_is_not_called_wrong(
    vault: VaultClient, httpx_mock: HTTPXMock
) -> None:
    unknown = {"code": "unauthorized", "detail": "No."}
    httpx_mock.add_exception(httpx.ConnectError("refused"), is_reusable=True, url=every_path(A))
    httpx_mock.add_response(url=every_path(B), status_code=401, json=unknown, is_reusable=True)
    for act in (lambda: vault.get("one"), lambda: vault.get("one"), lambda: vault.put("one", "QUJD")):
        with pytest.raises(ServerUnavailable, match="401 unauthorized"):
            await act()
    assert asked(httpx_mock) == [A, B, B, A, B, A]


@pytest.mark.parametrize("urls", [[], ()])
def test_a_client_needs_a_server(urls: Any) -> None:
    with pytest.raises(ValueError, match="URL"):
        VaultClient(urls, "t")


# --- reading one's own writes


async def test_reads_ask_for_what_was_written(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(method="PUT", json=WRITTEN, headers={"X-Clavitor-Rev": "8"})
    httpx_mock.add_response(method="DELETE", status_code=204, headers={"X-Clavitor-Rev": "11"})
    done = [{"entry_id": "x", "operation": "create", "rev": 9}, {"entry_id": "y", "operation": "delete", "rev": 10}]
    httpx_mock.add_response(method="POST", json={"results": done}, headers={"X-Clavitor-Rev": "10"})
    httpx_mock.add_response(method="GET", json=ENTRY)
    assert (await vault.put("one", "QUJD")).rev == 8
    assert await vault.delete("one") == 11
    assert [result.rev for result in await vault.batch([])] == [9, 10]
    await vault.get("one")
    assert vault.min_rev == 11
    assert httpx_mock.get_requests()[-1].headers["X-Min-Rev"] == "11"


async def test_a_backup_that_is_behind_leaves_the_answer_to_others(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    vault.min_rev = 8
    behind: dict[str, Any] = {"status_code": 412, "json": {"code": "behind", "detail": "Not here yet.", "rev": 7}}
    httpx_mock.add_response(url=f"{A}/api/entries/one", **behind)
    httpx_mock.add_response(url=f"{B}/api/entries/one", json=ENTRY)
    assert (await vault.get("one")).origin.url == B
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{B}/api/entries/one", **behind)
    with pytest.raises(Behind, match=r"refused; .*zurich.test: Not here yet"):
        await vault.get("one")
    vault.min_rev = 0
    backup_answers(httpx_mock)
    assert (await vault.get("one")).origin.lag == 3.2
    assert "X-Min-Rev" not in httpx_mock.get_requests()[-1].headers


# --- writing


def every_path(url: str) -> re.Pattern[str]:
    """Return what matches every path of a server."""
    return re.compile(re.escape(url) + "/.*")


def answer_write(mock: HTTPXMock, url: str) -> None:
    """Have a server do any one write."""

    def done(request: httpx.Request) -> httpx.Response:
        headers = {"X-Clavitor-Rev": "8"}
        if request.method == "DELETE":
            return httpx.Response(204, headers=headers)
        results = [{"entry_id": "one", "operation": "delete", "rev": 8}]
        body = {"results": results} if request.url.path.endswith("batch") else WRITTEN
        return httpx.Response(200, json=body, headers=headers)

    mock.add_callback(done, url=every_path(url), is_reusable=True)


@every_write
@pytest.mark.parametrize("error", NOT_SENT, ids=lambda error: type(error).__name__)
async def test_a_write_that_was_not_sent_goes_to_the_next(
    vault: VaultClient, httpx_mock: HTTPXMock, write: Write, error: Exception
) -> None:
    httpx_mock.add_exception(error, url=every_path(A))
    answer_write(httpx_mock, B)
    await write(vault)
    assert asked(httpx_mock) == [A, B]
    await write(vault)
    assert asked(httpx_mock) == [A, B, B], "it takes writes: it is the first from now on"


@every_write
@pytest.mark.parametrize("error", SENT, ids=lambda error: type(error).__name__)
async def test_a_write_that_may_have_been_done_is_sent_nowhere_else(
    vault: VaultClient, httpx_mock: HTTPXMock, write: Write, error: Exception
) -> None:
    httpx_mock.add_exception(error, url=every_path(A))
    with pytest.raises(OutcomeUnknown, match="not known: read before writing again"):
        await write(vault)
    assert asked(httpx_mock) == [A]
    assert vault.min_rev == 0


@every_write
@pytest.mark.parametrize(
    "answer",
    [
        {"status_code": 500},
        {"status_code": 502},
        {"status_code": 504},
        {"status_code": 503, "html": "<h1>Upstream reset</h1>"},
        {"status_code": 503, "json": {"code": "storage_outcome_unknown", "detail": "Broke."}},
        {"status_code": 200, "html": "<h1>It works</h1>", "headers": {"X-Clavitor-Rev": "8"}},
        {"status_code": 200, "json": ["?"]},
    ],
    ids=lambda answer: repr(answer)[:40],
)
async def test_an_answer_that_leaves_a_write_open_is_the_end_of_it(
    vault: VaultClient, httpx_mock: HTTPXMock, write: Write, answer: dict[str, Any]
) -> None:
    httpx_mock.add_response(url=every_path(A), **answer)
    with pytest.raises(OutcomeUnknown):
        await write(vault)
    assert asked(httpx_mock) == [A]


@pytest.mark.parametrize(
    ("status", "code"), [(503, "storage_full"), (503, "overloaded"), (429, "throttled"), (408, "request_timeout")]
)
async def test_a_primary_that_cannot_write_just_now_says_so_itself(
    vault: VaultClient, httpx_mock: HTTPXMock, status: int, code: str
) -> None:
    problem = {"code": code, "detail": "Later."}
    httpx_mock.add_response(url=every_path(A), status_code=status, json=problem, headers={"Retry-After": "1"})
    with pytest.raises(ServerUnavailable) as later:
        await vault.put("one", "QUJD")
    assert type(later.value) is ServerUnavailable
    assert (later.value.code, later.value.retry_after) == (code, 1.0)
    assert asked(httpx_mock) == [A]


@every_write
async def test_a_write_at_a_backup_names_the_primary(httpx_mock: HTTPXMock, write: Write) -> None:
    headers = {"X-Primary-Location": A}
    httpx_mock.add_response(url=every_path(B), status_code=503, json=READ_ONLY, headers=headers)
    async with VaultClient(B, "t") as vault:
        with pytest.raises(ReadOnly, match="not available on backup POP") as refused:
            await write(vault)
    assert refused.value.primary_location == A
    assert asked(httpx_mock) == [B], "nobody is given a token that we were not told to give it to"


@every_write
@pytest.mark.parametrize("location", [C, f"{C}/", "https://OSLO.test:443"])
async def test_a_write_follows_the_location_among_its_servers(
    httpx_mock: HTTPXMock, write: Write, location: str
) -> None:
    headers = {"X-Primary-Location": location}
    httpx_mock.add_response(url=every_path(A), status_code=503, json=READ_ONLY, headers=headers)
    answer_write(httpx_mock, C)
    async with VaultClient([A, B, C], "t") as vault:
        await write(vault)
        await write(vault)
    assert asked(httpx_mock) == [A, C, C]


async def test_a_location_elsewhere_leaves_the_write_to_the_next(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    headers = {"X-Primary-Location": "https://public.test"}
    httpx_mock.add_response(url=every_path(A), status_code=503, json=READ_ONLY, headers=headers)
    answer_write(httpx_mock, B)
    await vault.put("one", "QUJD")
    assert asked(httpx_mock) == [A, B]


async def test_two_backups_that_point_at_each_other_are_asked_once(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    for here, there in ((A, B), (B, A)):
        headers = {"X-Primary-Location": there}
        httpx_mock.add_response(url=every_path(here), status_code=503, json=READ_ONLY, headers=headers)
    with pytest.raises(ReadOnly):
        await vault.put("one", "QUJD")
    assert asked(httpx_mock) == [A, B]


async def test_without_the_primary_a_write_fails_with_its_location(vault: VaultClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=every_path(A))
    headers = {"X-Primary-Location": A}
    httpx_mock.add_response(url=every_path(B), status_code=503, json=READ_ONLY, headers=headers)
    with pytest.raises(ReadOnly, match=r"refused; .*backup POP") as refused:
        await vault.put("one", "QUJD")
    assert refused.value.primary_location == A
    assert asked(httpx_mock) == [A, B]


async def test_a_read_only_server_that_does_not_know_the_primary(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=503, json=READ_ONLY)
    async with VaultClient(B, "t") as vault:
        with pytest.raises(ReadOnly) as refused:
            await vault.put("one", "QUJD")
    assert refused.value.primary_location is None


async def test_a_primary_that_timed_out_is_asked_again_when_the_backup_names_it(
    vault: VaultClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_exception(httpx.ReadTimeout("too slow"), url=every_path(A))
    with pytest.raises(OutcomeUnknown):
        await vault.put("one", "QUJD")
    headers = {"X-Primary-Location": A}
    httpx_mock.add_response(url=every_path(B), status_code=503, json=READ_ONLY, headers=headers)
    answer_write(httpx_mock, A)
    await vault.put("one", "QUJD")
    assert asked(httpx_mock) == [A, B, A]


@pytest.mark.parametrize(("status", "kind"), [(409, Conflict), (412, Conflict), (404, NotFound), (413, Refused)])
async def test_a_refused_write_is_the_answer(
    vault: VaultClient, httpx_mock: HTTPXMock, status: int, kind: type[Exception]
) -> None:
    httpx_mock.add_response(url=every_path(A), status_code=status, json={"code": "x", "detail": "No."})
    with pytest.raises(kind):
        await vault.put("one", "QUJD", if_match=3)
    (request,) = httpx_mock.get_requests()
    assert request.headers["If-Match"] == '"3"'
    assert json.loads(request.content) == {"encrypted_data": "QUJD"}
