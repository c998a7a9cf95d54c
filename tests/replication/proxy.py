"""What can happen to requests between two POPs, as a proxy for HTTP/1.1 on loopback in a thread of its own.

Every request is read whole and handed to a fault, which decides what becomes of it. `proxy.fault` is the one in force;
it may be replaced at any time, from any thread. `cut` and `heal` close and open the listening socket itself.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

LOST = (OSError, EOFError, asyncio.IncompleteReadError)


class Exchange(NamedTuple):
    """One request on its way: `request` is all its bytes. `number` counts from 1."""

    proxy: Proxy
    number: int
    request: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def forward(self) -> bytes:
        """Have the target answer; return all bytes of the answer."""
        return await self.proxy.deliver(self.request)

    async def reply(self, answer: bytes) -> None:
        """Send bytes to the client."""
        self.writer.write(answer)
        await self.writer.drain()

    def reset(self) -> None:
        """End the client's connection with RST."""
        _reset(self.writer)

    async def gone(self) -> None:
        """Wait until the client hangs up, or the proxy does."""
        with suppress(*LOST):
            while await self.reader.read(65536):
                pass


Fault = Callable[[Exchange], Awaitable[None]]


class Proxy:
    """Listens at `address` and forwards to `target`. `passed`: how often each fault was met, by its name."""

    def __init__(self, target: tuple[str, int], address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self.fault: Fault = passing
        self.passed: Counter[str] = Counter()
        self._target = target
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *args: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def heal(self) -> None:
        """Let everything pass, from now on."""
        self.fault = passing
        self._do(self._listen())

    def cut(self) -> None:
        """Refuse new connections and end those that are open."""
        self._do(self._close())

    def drop(self) -> None:
        """End the open connections; new ones are welcome."""
        self._do(self._drop())

    @property
    def requests(self) -> int:
        """How many requests have come."""
        return self._number

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something while the client is answered already. To be called by faults."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def deliver(self, request: bytes) -> bytes:
        """Send a request to the target over a connection of its own; return the answer. To be called by faults."""
        reader, writer = await asyncio.open_connection(*self._target, limit=2**25)
        try:
            writer.write(request)
            await writer.drain()
            return await _message(reader)
        finally:
            writer.close()

    async def deliver_part(self, request: bytes) -> None:
        """Send the target half a request, and reset the connection."""
        _, writer = await asyncio.open_connection(*self._target)
        writer.write(request[: len(request) // 2])
        await writer.drain()
        _reset(writer)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, *self._address, limit=2**25)

    async def _drop(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _end(self) -> None:
        await self._close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                request = await _message(reader)
                self._number += 1
                fault = self.fault
                if isinstance(fault, Plan):
                    fault = fault.choose(self._number)
                self.passed[_name(fault)] += 1
                await fault(Exchange(self, self._number, request, reader, writer))
        except LOST:
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()


class Plan:
    """Chooses a fault for every request: by chance, the rest pass. Every fault is met at least once when there are
    enough requests: they come in turns, in an order that `seed` gives."""

    def __init__(self, faults: Sequence[Fault], *, seed: int, share: float = 0.5) -> None:
        self._faults = list(faults)
        self._share = share
        self._random = random.Random(seed)
        self._round: list[Fault] = []

    def choose(self, number: int) -> Fault:
        """Return what becomes of a request."""
        if self._random.random() >= self._share:
            return passing
        if not self._round:
            self._round = self._random.sample(self._faults, len(self._faults))
        return self._round.pop()

    async def __call__(self, exchange: Exchange) -> None:
        """A plan stands for the fault that it chooses."""
        await self.choose(exchange.number)(exchange)


# --- faults


async def passing(exchange: Exchange) -> None:
    """Nothing happens to it."""
    try:
        answer = await exchange.forward()
    except LOST:
        exchange.reset()  # as without a proxy: nobody is there
        return
    await exchange.reply(answer)


async def closed_before(exchange: Exchange) -> None:
    """The request is lost, the connection ends in order."""
    exchange.writer.close()


async def reset_before(exchange: Exchange) -> None:
    """The request is lost, the connection is reset."""
    exchange.reset()


async def reset_midway(exchange: Exchange) -> None:
    """Half of the request arrives."""
    await exchange.proxy.deliver_part(exchange.request)
    exchange.reset()


async def reset_after(exchange: Exchange) -> None:
    """The request is done, the answer is lost."""
    await exchange.forward()
    exchange.reset()


async def half_an_answer(exchange: Exchange) -> None:
    """The request is done, half of the answer arrives."""
    answer = await exchange.forward()
    await exchange.reply(answer[: len(answer) * 2 // 3])
    exchange.writer.close()


async def swallowed(exchange: Exchange) -> None:
    """Half-open: nobody is there any more, and nobody says so."""
    await exchange.gone()


async def unanswered(exchange: Exchange) -> None:
    """The request is done; the connection is half-open before the answer comes."""
    await exchange.forward()
    await exchange.gone()


async def twice(exchange: Exchange) -> None:
    """The request is done twice, one after the other; the second answer arrives."""
    await exchange.forward()
    await exchange.reply(await exchange.forward())


async def twice_at_once(exchange: Exchange) -> None:
    """The request is done twice at the same time."""
    answers = await asyncio.gather(exchange.forward(), exchange.forward())
    await exchange.reply(answers[0])


def late(seconds: float) -> Fault:
    """The connection is reset, and the request arrives all the same: after others that were sent later."""

    async def held_back(exchange: Exchange) -> None:
        async def deliver() -> None:
            await asyncio.sleep(seconds)
            with suppress(*LOST):
                await exchange.forward()

        exchange.proxy.later(deliver())
        exchange.reset()

    return held_back


def again_after(seconds: float) -> Fault:
    """The request passes, and is done once more when others have come after it."""

    async def done_again(exchange: Exchange) -> None:
        async def deliver() -> None:
            await asyncio.sleep(seconds)
            with suppress(*LOST):
                await exchange.forward()

        exchange.proxy.later(deliver())
        await passing(exchange)

    return done_again


def slow(bytes_per_second: int) -> Fault:
    """Request and answer come at this rate."""

    async def slowed(exchange: Exchange) -> None:
        await asyncio.sleep(len(exchange.request) / bytes_per_second)
        answer = await exchange.forward()
        step = max(1, bytes_per_second // 10)
        for first in range(0, len(answer), step):
            await exchange.reply(answer[first : first + step])
            await asyncio.sleep(0.1)

    return slowed


def answering(status: str, body: bytes, content_type: str = "application/json", *, done: bool = False) -> Fault:
    """Another answer comes than the backup gave. done: the backup has done it nevertheless."""

    async def answered(exchange: Exchange) -> None:
        if done:
            await exchange.forward()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        await exchange.reply(head.encode() + body)

    answered.__name__ = f"answering {status} {body[:12].decode(errors='replace')}"
    return answered


async def not_http(exchange: Exchange) -> None:
    """What answers speaks something else."""
    await exchange.reply(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" + bytes(range(256)))
    exchange.writer.close()


async def acknowledged_by_nobody(exchange: Exchange) -> None:
    """An answer that says yes to everything, of somebody who has not seen the batch."""
    body = b'{"acknowledged":["c0-1","c1-1","c2-1","shared-0"],"failed":[],"already_exists":[],"batch_id":"another"}'
    await answering("200 OK", body)(exchange)


GARBAGE: Sequence[Fault] = (
    answering("200 OK", b""),
    answering("200 OK", b"{", done=True),
    answering("200 OK", b"[]"),
    answering("200 OK", b'{"acknowledged":"all"}', done=True),
    answering("200 OK", b'{"acknowledged":[1,null],"failed":{},"already_exists":[[]]}'),
    answering("200 OK", b"\xff\xfe\x00" * 50),
    answering("200 OK", b"<html>It works!</html>", "text/html"),
    answering("200 OK", b"[" * 100_000),
    answering("204 No Content", b""),
    answering("302 Found", b"", "text/html"),
    not_http,
    acknowledged_by_nobody,
)
"""Answers of something that is no backup."""

ERRORS: Sequence[Fault] = (
    answering("500 Internal Server Error", b"oops", "text/plain"),
    answering("502 Bad Gateway", b"<html></html>", "text/html"),
    answering("503 Service Unavailable", b'{"code":"storage_unavailable"}', "application/problem+json", done=True),
    answering("504 Gateway Timeout", b"", done=True),
    answering("429 Too Many Requests", b"{}"),
)
"""What a backup in trouble, or a gateway before it, answers."""

BROKEN: Sequence[Fault] = (closed_before, reset_before, reset_midway, reset_after, half_an_answer)
REPEATED: Sequence[Fault] = (twice, twice_at_once, late(0.2), late(1.5), again_after(0.05), again_after(1.0))


def _name(fault: Fault) -> str:
    return getattr(fault, "__name__", type(fault).__name__)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return one HTTP/1.1 message: both sides give its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        assert name.lower() != b"transfer-encoding", "a message without a length"
    return head + await reader.readexactly(length)
