"""Requests to a server: answers as JSON, failures as errors that one can act on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clavitor_host import strict_json
from clavitor_host.client.errors import ClientError, ServerUnavailable, refusal
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
        import httpx

        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        content = None
        if body is not None:
            content = strict_json.dumps(body)
            sent["Content-Type"] = "application/json"
        try:
            try:
                reply = await self.http.request(method, path, content=content, params=query, headers=sent)
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            answered = answer(reply.status_code, reply.headers, reply.content)
        except ServerUnavailable as error:
            self.outage.begin(error)
            raise
        self.outage.end()
        return answered


def answer(status: int, headers: Mapping[str, str], content: bytes) -> Any:
    """Return the JSON of an answer. Raises `ServerUnavailable` and `Refused`."""
    value: Any = None
    try:
        value = strict_json.loads(content) if content else None
    except strict_json.StrictJSONError as error:
        if status < 300:
            raise ClientError(f"The server's answer cannot be read: {error}.") from None
    if status < 300:
        return value
    body = value if isinstance(value, dict) else {}
    if status in _AGAIN:
        after = headers.get("Retry-After", "")
        detail = str(body.get("detail", f"The server answered {status}."))
        raise ServerUnavailable(detail, retry_after=float(after) if after.isdigit() else None)
    raise refusal(status, body)


def unreachable(error: Exception) -> ServerUnavailable:
    """Return the error for a server that was not reached."""
    return ServerUnavailable(f"The server was not reached: {type(error).__name__}: {error}")
