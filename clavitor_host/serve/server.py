"""Serving one application in one process, from start to exit."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from loguru import logger

from clavitor_host.serve import notify
from clavitor_host.serve.connection import Connection
from clavitor_host.serve.handlers import CANCEL_AFTER, ASGIApp
from clavitor_host.serve.http_config import HttpConfig
from clavitor_host.serve.lifespan import Lifespan
from clavitor_host.serve.protocols import ProtocolFactory, WorkerContext, protocol_of
from clavitor_host.serve.settings import ServeSettings
from clavitor_host.serve.tls import Certificates


async def serve(
    app: ASGIApp,
    settings: ServeSettings,
    *,
    sockets: Sequence[socket.socket],
    on_shutdown: Callable[[], None],
    ready: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
    protocols: ProtocolFactory = protocol_of,
) -> None:
    """Serve `app` on bound sockets until SIGTERM or SIGINT; return when everything has ended.

    `on_shutdown` is called the moment the signal arrives, before draining. `ready` is called once, when the
    application has started and connections are accepted. `stop` takes the place of the signals when given (for
    servers inside another program). SIGHUP reads the TLS files again.

    Raises what the application raised at its start, and `StartError` for TLS files that cannot be used.
    """
    server = Server(app, settings, protocols)
    signals = _Signals(server) if stop is None else None
    try:
        await server.run(sockets, on_shutdown, ready, stop)
    finally:
        if signals is not None:
            signals.remove()


class Server:
    """The connections of one process and what they share."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, protocols: ProtocolFactory) -> None:
        self.app = app
        self.settings = settings
        self.protocols = protocols
        self.loop = asyncio.get_running_loop()
        self.config = HttpConfig(settings)
        self.context = WorkerContext()
        self.certificates = None if settings.tls is None else Certificates(settings.tls, http2=settings.http2)
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()
        self.state: dict[str, Any] = {}
        self.stopping = False
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set by a second signal: no more waiting for requests in flight."""
        self._changed = asyncio.Event()

    async def run(
        self,
        sockets: Sequence[socket.socket],
        on_shutdown: Callable[[], None],
        ready: Callable[[], None] | None,
        stop: asyncio.Event | None,
    ) -> None:
        """See `serve`."""
        if stop is not None:
            self.stop = stop
        _raise_file_limit(self.settings.max_connections)
        self.loop.set_exception_handler(_log_loop_error)
        lifespan = Lifespan(self.app)
        self.state = lifespan.state
        if not await self._started(lifespan):
            on_shutdown()
            await lifespan.cancel()
            return
        listeners: list[asyncio.Server] = []
        watchdog = asyncio.create_task(notify.watchdog())
        try:
            for sock in sockets:
                listeners.append(await self._listen(sock))
            notify.notify("READY=1")
            if ready is not None:
                ready()
            await self.stop.wait()
        finally:
            notify.notify("STOPPING=1")
            self.stopping = True
            on_shutdown()
            for listener in listeners:
                listener.close()
            await self.drain()
            await lifespan.shutdown(self.settings.shutdown_timeout)
            watchdog.cancel()

    async def _started(self, lifespan: Lifespan) -> bool:
        """Start the application; return False when a signal came first."""
        starting = asyncio.create_task(lifespan.startup(self.settings.startup_timeout))
        stopped = asyncio.create_task(self.stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        await asyncio.wait([starting])
        return False

    async def _listen(self, sock: socket.socket) -> asyncio.Server:
        sock.setblocking(False)
        secure = self.certificates is not None and sock.family != socket.AF_UNIX
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock, self.settings.send_timeout)

        def connection() -> Connection:
            return Connection(self, self.certificates.context if secure and self.certificates else None)

        if sock.family == socket.AF_UNIX:
            return await self.loop.create_unix_server(connection, sock=sock, backlog=self.settings.backlog)
        return await self.loop.create_server(connection, sock=sock, backlog=self.settings.backlog)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection. False when the server is full: it must be answered so and closed."""
        if self.stopping:
            connection.abort()
            return False
        if len(self.connections) < self.settings.max_connections:
            self.connections.add(connection)
            return True
        if len(self.refused) > 16 + self.settings.max_connections // 10:
            connection.abort()
        else:
            self.refused.add(connection)
        return False

    def forget(self, connection: Connection) -> None:
        """Take a connection that is gone out of the count."""
        self.connections.discard(connection)
        self.refused.discard(connection)
        if self.stopping:
            self._changed.set()

    def reload(self) -> None:
        """Read the TLS files again; new connections use them."""
        notify.reloading()
        if self.certificates is not None:
            self.certificates.reload()
        notify.notify("READY=1")

    async def drain(self) -> None:
        """Let requests in flight finish within `graceful` seconds, then end every connection."""
        await self.context.terminated.set()
        deadline = self.loop.time() + max(0.0, self.settings.graceful - CANCEL_AFTER)
        for connection in [*self.connections, *self.refused]:
            connection.shutdown()
        while any(connection.busy for connection in self.connections) and not self.hurry.is_set():
            left = deadline - self.loop.time()
            if left <= 0:
                break
            await self._change(min(left, 0.02))  # an answer that has left the process announces itself to nobody
        for connection in [*self.connections, *self.refused]:
            connection.abort()
        deadline = self.loop.time() + 0.15
        while self.connections and self.loop.time() < deadline:
            await self._change(deadline - self.loop.time())
        for connection in list(self.connections):
            connection.handlers.cancel()
        if self.connections:
            await asyncio.sleep(0)
            handlers = sum(len(connection.handlers.running) for connection in self.connections)
            logger.bind(component="serve", handlers=handlers).warning("Handlers ignored their cancellation")

    async def _change(self, within: float) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(within, 0.001)):
                await self._changed.wait()


class _Signals:
    """SIGTERM and SIGINT stop, a second one hurries; SIGHUP reloads.

    A second one right behind the first is the same: a supervisor passes on what the whole process group got.
    """

    SAME = 0.2
    """Seconds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._first = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, server.reload)

    def _stop(self) -> None:
        now = self._loop.time()
        if not self._server.stop.is_set():
            self._first = now
            self._server.stop.set()
        elif now - self._first > self.SAME:
            self._server.hurry.set()

    def remove(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)


def _keep_alive(sock: socket.socket, send_timeout: float) -> None:
    """Let the kernel find dead peers. Accepted sockets inherit this from their listener (Linux)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout * 1000))


def _raise_file_limit(connections: int) -> None:
    """Raise the soft limit of open files so that `connections` fit; warn when the hard limit forbids it."""
    wanted = connections + connections // 10 + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        logger.bind(component="serve", limit=limit, wanted=wanted).warning(
            "The limit of open files is lower than max_connections needs"
        )


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log = logger.bind(component="serve", what=context.get("message")).opt(exception=error)
    if isinstance(error, ssl.SSLError | ConnectionError):
        log.debug("A connection failed")
    else:
        log.error("Unhandled error in the event loop")
