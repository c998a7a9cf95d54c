"""One attempt to send one item over HTTP, and what its outcome means.

Redirects are never followed, and nothing that the receiver says is logged: it may say the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from clavitor_commercial.items import PATHS, Item
from clavitor_host.api import retry_after, status_phrase

if TYPE_CHECKING:
    import httpx

    from clavitor_commercial.config import CommercialConfig
    from clavitor_host.api import Host

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 10.0
ATTEMPT_TIMEOUT = 20.0
"""Seconds until there is a connection; until the next byte of an answer; until a whole answer's head."""
BODY_BYTES = 4096
BODY_TIMEOUT = 1.0
"""How much of an answer's body is read, and for how long: so that the connection can be used again."""
REFUSALS = frozenset({400, 409, 413, 415, 422})
"""Answers that refuse this very item: sending it again would not help."""

_HINTS = {
    401: "; check telemetry_token",
    403: "; check telemetry_token",
    404: "; check telemetry_host",
}
_REDIRECT = ", a redirect, which is never followed: the token would go elsewhere; check telemetry_host"


class Outcome(NamedTuple):
    """What became of an attempt. `reason`: one sentence for a person, "" when delivered. `retry_after`: seconds."""

    what: Literal["delivered", "refused", "retry", "unreachable"]
    reason: str = ""
    retry_after: float = 0.0


class Sender:
    """Sends items to the configured receiver. Make it with `Sender.open`, use it as a context manager."""

    def __init__(self, client: httpx.AsyncClient, config: CommercialConfig, host: Host) -> None:
        token = config.telemetry_token
        self._client = client
        self._base = config.telemetry_host
        self._clock = host.clock
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.get_secret_value()}"

    @classmethod
    async def open(cls, host: Host, config: CommercialConfig) -> Sender:
        """Return a sender. Loading the library and the trusted authorities takes 0.2 s: they are loaded beside."""

        def client() -> httpx.AsyncClient:
            import httpx

            return host.outbound.client(
                timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
                limits=httpx.Limits(max_connections=2, max_keepalive_connections=2),
                follow_redirects=False,
            )

        return cls(await asyncio.to_thread(client), config, host)

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def post(self, item: Item) -> Outcome:
        """Send one item once. Never raises for what the network or the receiver does."""
        import httpx

        url = self._base + PATHS[item.kind]
        request = self._client.build_request("POST", url, content=item.body.encode(), headers=self._headers)
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                response = await self._client.send(request, stream=True)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome("unreachable", "it does not answer in time")
        except httpx.ConnectError as error:
            return Outcome("unreachable", f"it cannot be reached: {error}")
        except httpx.ProtocolError:
            return Outcome("unreachable", "what it answers is not HTTP")
        except Exception as error:  # noqa: BLE001 - whatever else a receiver can make the library raise
            return Outcome("unreachable", f"the connection failed ({type(error).__name__})")
        outcome = judge(response.status_code, response.headers, self._clock.now_us() / 1_000_000)
        await self._drain(response)
        return outcome

    async def _drain(self, response: httpx.Response) -> None:
        size = 0
        try:
            with suppress(Exception):
                async with asyncio.timeout(BODY_TIMEOUT):
                    async for part in response.aiter_raw():
                        size += len(part)
                        if size > BODY_BYTES:
                            break
        finally:
            with suppress(Exception):
                await response.aclose()
            self._client.cookies.clear()


def judge(status: int, headers: Mapping[str, str], now: float) -> Outcome:
    """Return what an answer means. now: seconds since the epoch, for a Retry-After that is a date."""
    if 200 <= status < 300:
        return Outcome("delivered")
    phrase = status_phrase(status)
    if status in REFUSALS:
        return Outcome("refused", f"it answers {phrase}")
    hint = _REDIRECT if 300 <= status < 400 else _HINTS.get(status, "")
    return Outcome("retry", f"it answers {phrase}{hint}", retry_after(headers.get("retry-after", ""), now))
