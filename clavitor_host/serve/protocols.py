"""The seam between a connection and what it speaks: a faster protocol slides in here, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hypercorn.events import Event
from hypercorn.typing import ConnectionState

from clavitor_host.serve.handlers import ASGIApp, Handlers
from clavitor_host.serve.http1 import Http1Protocol
from clavitor_host.serve.http2 import Http2Protocol
from clavitor_host.serve.http_config import HttpConfig
from clavitor_host.serve.settings import ServeSettings


class Flag:
    """Hypercorn's event class over `asyncio.Event`."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def clear(self) -> None:
        """Clear the flag."""
        self._event.clear()

    async def set(self) -> None:
        """Set the flag and wake who waits."""
        self._event.set()

    async def wait(self) -> None:
        """Return when the flag is set."""
        await self._event.wait()

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._event.is_set()


class WorkerContext:
    """Hypercorn's view of the process."""

    event_class = Flag

    def __init__(self) -> None:
        self.terminate = Flag()
        self.terminated = Flag()

    async def mark_request(self) -> None:
        """Do nothing: a process is not replaced after some number of requests."""

    @staticmethod
    async def sleep(wait: float) -> None:
        """Sleep `wait` seconds."""
        await asyncio.sleep(wait)

    @staticmethod
    def time() -> float:
        """Return the loop's time in seconds."""
        return asyncio.get_running_loop().time()


class HttpProtocol(Protocol):
    """What a connection needs of a protocol; Hypercorn's own protocols fit.

    A protocol may also have what `Http1Protocol` and `Http2Protocol` have: `complete`, `draining` and `linger` (bool),
    `cut_stalled()` and `farewell()`.
    """

    async def initiate(self) -> None:
        """Begin: called once, before any byte is handled."""
        ...

    async def handle(self, event: Event) -> None:
        """Take `RawData` from the client, or `Closed`."""
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """One accepted connection, as a protocol factory sees it.

    `send` takes `RawData`, `Updated` (idle or not), `Closed` and our `HandOver`. `alpn`: "h2" or "http/1.1".
    """

    app: ASGIApp
    settings: ServeSettings
    config: HttpConfig
    context: WorkerContext
    handlers: Handlers
    state: ConnectionState
    tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    send: Callable[[Event], Awaitable[None]]
    alpn: str

    def hypercorn_arguments(self) -> tuple[Any, ...]:
        """Return the arguments that every Hypercorn protocol takes first."""
        return (
            self.app,
            self.config,
            self.context,
            self.handlers,
            self.state,
            self.tls,
            self.client,
            self.server,
            self.send,
        )


ProtocolFactory = Callable[[Link], Any]
"""Makes the `HttpProtocol` of one connection."""


def protocol_of(link: Link) -> Any:
    """The default factory: HTTP/2 where ALPN chose it, else HTTP/1."""
    kind = Http2Protocol if link.alpn == "h2" else Http1Protocol
    return kind(link.settings, *link.hypercorn_arguments())
