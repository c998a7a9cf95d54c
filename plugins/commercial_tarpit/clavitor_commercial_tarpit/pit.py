"""Who is held, with which answer, and until when."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from clavitor_commercial_tarpit.metrics import TarpitMetrics
from clavitor_commercial_tarpit.seats import SEATS, Seat, Seats, affordable
from clavitor_commercial_tarpit.wheel import Wheel
from clavitor_host.api import Host, Reply, Request, log, unmatched_reply

SECONDS = 30
"""How long a caller is held, and how many bytes it gets."""

BODY_PATIENCE = 5.0
"""Seconds a caller may take to send the body of its request; after that it gets the plain answer."""

RECEIVE_BUFFER = 2048
"""Bytes of kernel memory for what a held client still sends."""

BODIES = {404: b'{"code":"not_found"}         \n', 405: b'{"code":"method_not_allowed"}\n'}
"""The plain answer's problem+json, shortened to its code: as many bytes as there are seconds."""


class Pit:
    """The tarpit of one worker."""

    def __init__(self, host: Host, metrics: TarpitMetrics) -> None:
        config = host.config
        share = SEATS // config.workers
        limit = affordable(share, config.limits.max_connections)
        if limit < share:
            log.warning("The limit of open files leaves the tarpit fewer seats", seats=limit, wanted=share)
        self._shutdown = host.shutdown
        self._seats = Seats(limit, config.limits.max_connections // 2, metrics)
        self._wheel = Wheel(asyncio.get_running_loop())
        self._waiter = asyncio.create_task(self._stop_with_the_server())

    async def hold(self, request: Request) -> Reply | None:
        """Return the answer that takes 30 seconds, or None for who gets the plain one."""
        if request.identity is not None or request.method == "HEAD" or self._shutdown.is_set():
            return None
        try:
            async with asyncio.timeout(BODY_PATIENCE):
                await request.body()  # unread, it would keep the server's connection busy
        except TimeoutError:
            return None
        seat = self._seats.take(streams=not request.can_hand_over)
        return None if seat is None else self._reply(unmatched_reply(request), seat)

    def close(self) -> None:
        """Let go of everyone and everything."""
        self._waiter.cancel()
        self._wheel.stop()

    def _reply(self, reply: Reply, seat: Seat) -> Reply:
        """Turn the plain answer into one that drips; it keeps its status and headers."""
        body = BODIES[reply.status]

        def take(sock: socket.socket) -> None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            seat.begin()
            self._wheel.hold(sock.detach(), body, seat)

        headers = {**reply.headers, "Content-Length": str(len(body))}
        return Reply(reply.status, b"", reply.content_type, headers, self._wheel.drip(body, seat), take)

    async def _stop_with_the_server(self) -> None:
        await self._shutdown.wait()
        self._wheel.stop()
