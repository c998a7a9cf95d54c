"""Requests to a server: answers as JSON, failures as errors that one can act on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from clavitor_host import strict_json
from clavitor_host.client.errors import Behind, ReadOnly, ServerUnavailable, Unreachable, Unreadable, refusal
from clavitor_host.client.lines import Outage

if TYPE_CHECKING:
    import httpx

TIMEOUT = 10.0
"""Seconds to connect, and to wait for an answer."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
"""Seconds before what failed is tried again: the first time, and at most; give or take a half."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Backoff:
    """Pauses that grow while things fail."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._pause = FIRST_PAUSE

    async def wait(self, at_least: float | None = None) -> None:
        """Wait, and longer the next time. at_least: seconds that the server asks for."""
        await asyncio.sleep(max(self._pause * random.uniform(0.5, 1.5), at_least or 0.0))  # noqa: S311
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class Answer(NamedTuple):
    """What a server answered, whatever it was."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def value(self) -> Any:
        """Return its JSON. Raises what `answer` raises."""
        return answer(*self)


class Connection:
    """One server. `url`: such as `https://vault.example.com`. options: of `httpx.AsyncClient`, such as `verify`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = options
        self.outage = Outage("No answer from the server, it is tried again: %s", "The server answers again")
        self.http: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        import httpx

        self.http = httpx.AsyncClient(**{"base_url": self._url, "timeout": TIMEOUT, **self._options})
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.__aexit__(kind, error, trace)

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON of an answer, None for an empty one. Raises `ServerUnavailable` and `Refused`."""
        try:
            told = await self.exchange(method, path, token=token, body=body, query=query, headers=headers)
            answered = told.value()
        except ServerUnavailable as error:
            self.outage.begin(error)
            raise
        self.outage.end()
        return answered

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return what the server answers. Raises `Unreachable`."""
        import httpx

        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        content = None
        if body is not None:
            content = strict_json.dumps(body)
            sent["Content-Type"] = "application/json"
        try:
            reply = await self.http.request(method, path, content=content, params=query, headers=sent)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        return Answer(reply.status_code, reply.headers, reply.content)


def answer(status: int, headers: Mapping[str, str], content: bytes) -> Any:
    """Return the JSON of an answer. Raises `ServerUnavailable`, `Refused`, and `Unreadable` for what is none."""
    value: Any = None
    try:
        value = strict_json.loads(content) if content else None
    except strict_json.StrictJSONError as error:
        if status < 300:
            raise Unreadable(f"The server's answer cannot be read: {error}.") from None
    if status < 300:
        return value
    body = value if isinstance(value, dict) else {}
    detail, code = str(body.get("detail", f"The server answered {status}.")), str(body.get("code", ""))
    primary = headers.get("X-Primary-Location")
    if status == 503 and (primary is not None or code == "read_only"):
        raise ReadOnly(detail, primary_location=primary)
    if status == 412 and code == "behind":
        raise Behind(detail)
    if status in _AGAIN:
        after = headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() else None
        raise ServerUnavailable(detail, retry_after=seconds, status=status, code=code)
    raise refusal(status, body)


def unreachable(error: Exception) -> Unreachable:
    """Return the error for a server that was not reached."""
    import httpx

    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
    detail = f"The server was not reached: {type(error).__name__}: {error}"
    return Unreachable(detail, sent=not isinstance(error, unsent))
