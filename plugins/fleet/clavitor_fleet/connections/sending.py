"""One attempt to send one message over HTTP, and what its outcome means.

Redirects are never followed, and nothing of an answer but its status and its Retry-After is looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Final, NamedTuple

from clavitor_host.api import UnusableURL, retry_after, status_phrase

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    import httpx

    from clavitor_fleet.connections.models import Message
    from clavitor_host.api import Clock, Host

CONNECT_TIMEOUT: Final = 5.0
ATTEMPT_TIMEOUT: Final = 9.0
"""Seconds until there is a connection, the look-up included; until there is an answer."""
CLOSE_TIMEOUT: Final = 0.5
"""Seconds that ending a connection may take."""


class Outcome(NamedTuple):
    """What became of an attempt. `status`: of the answer, None without one. `reason`: one sentence for a person, None
    when it was delivered. `retry_after`, `duration`: seconds."""

    delivered: bool
    status: int | None = None
    reason: str | None = None
    retry_after: float = 0.0
    duration: float = 0.0


class Sender:
    """Sends messages to the URLs that users configured, by way of the guard. `close` it in the end."""

    def __init__(self, client: httpx.AsyncClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    @classmethod
    async def open(cls, host: Host, allow: Sequence[IPv4Network | IPv6Network]) -> Sender:
        """Return a sender. Loading the library and the trusted authorities takes 0.2 s: they are loaded beside."""

        def client() -> httpx.AsyncClient:
            import httpx

            return host.outbound.guarded(
                allow,
                timeout=httpx.Timeout(ATTEMPT_TIMEOUT, connect=CONNECT_TIMEOUT),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )

        return cls(await asyncio.to_thread(client), host.clock)

    async def close(self) -> None:
        """End its connections."""
        await self._client.aclose()

    async def post(self, url: str, secret: str, message: Message) -> Outcome:
        """Send a message once. Never raises for what the network or the receiver does."""
        began = self._clock.monotonic()
        outcome = await self._attempt(url, headers_of(message, secret, self._clock.now_us() // 1_000_000), message)
        return outcome._replace(duration=self._clock.monotonic() - began)

    async def _attempt(self, url: str, headers: Mapping[str, str], message: Message) -> Outcome:
        import httpx

        try:
            request = self._client.build_request("POST", url, content=message.body, headers=headers)
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                response = await self._client.send(request, stream=True)
        except UnusableURL as error:
            return Outcome(False, reason=error.detail)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(False, reason="It does not answer in time.")
        except httpx.ConnectError as error:
            return Outcome(False, reason=f"It cannot be reached: {error}"[:300])
        except httpx.ProtocolError:
            return Outcome(False, reason="What it answers is not HTTP.")
        except Exception as error:  # noqa: BLE001 - whatever else a receiver can make the library raise
            return Outcome(False, reason=f"The connection failed ({type(error).__name__}).")
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await response.aclose()
        return judge(response.status_code, response.headers, self._clock.now_us() / 1_000_000)


def headers_of(message: Message, secret: str, timestamp: int) -> dict[str, str]:
    """Return the headers of a message that is sent at `timestamp` (seconds since the epoch)."""
    return {
        "Content-Type": "application/json",
        "X-Clavitor-Event": message.event,
        "X-Clavitor-Delivery": message.id,
        "X-Clavitor-Timestamp": str(timestamp),
        "X-Clavitor-Signature": signature(secret, timestamp, message.body),
    }


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return `sha256=<hex>`: the HMAC-SHA256 (RFC 2104) of the timestamp, a full stop and the body."""
    signed = b"%d." % timestamp + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def judge(status: int, headers: Mapping[str, str], now: float) -> Outcome:
    """Return what an answer means. now: seconds since the epoch, for a Retry-After that is a date."""
    if 200 <= status < 300:
        return Outcome(True, status)
    hint = ", a redirect, which is never followed" if 300 <= status < 400 else ""
    reason = f"It answers {status_phrase(status)}{hint}."
    return Outcome(False, status, reason, retry_after(headers.get("retry-after", ""), now))
