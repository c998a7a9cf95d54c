"""The network between the POPs: it delays, loses, repeats, cuts and garbles, as `Weather` and `cut` say.

What a POP sends through `host.outbound.client` arrives here, and goes on into the other POP's ASGI application.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx

from tests.simulation.loop import outside

if TYPE_CHECKING:
    from tests.simulation.pop import Pop

GARBAGE = (
    (200, b"<html>It works!</html>"),
    (200, b"{}"),
    (200, b'{"acknowledged": "all"}'),
    (200, b"\xff\xfe\x00"),
    (204, b""),
    (302, b""),
    (400, b"what?"),
    (404, b"no such page"),
    (413, b""),
    (429, b""),
    (500, b"oops"),
    (502, b"<h1>Bad Gateway</h1>"),
    (503, b'{"code": "storage_unavailable"}'),
)
"""What something in between answers in place of the other POP."""


@dataclass
class Weather:
    """What may happen to a request: chances from 0 to 1, times in seconds.

    `lost`: never arrives. `answer_lost`: arrives, but its answer does not. `reset`: the same, told at once.
    `garbled`: something else answers, and it arrives or not. `repeated`: arrives again, within `late` seconds.
    """

    slow: float = 0.003
    lost: float = 0.0
    answer_lost: float = 0.0
    reset: float = 0.0
    garbled: float = 0.0
    repeated: float = 0.0
    late: float = 20.0


class Network:
    """Joins POPs by their URLs. `note`: writes a line of the trace. `rejected`: something in between has said that a
    request is wrong, so entries may be in quarantine."""

    def __init__(self, chance: random.Random, note: Callable[[str], None]) -> None:
        self.weather = Weather()
        self.chance = chance
        self.note = note
        self.pops: dict[str, Pop] = {}
        self.sent = 0
        self.rejected = False
        self._mute: set[str] = set()
        self._refused: set[str] = set()
        self._swallowed: set[str] = set()
        self._waiting: set[asyncio.Task[Any]] = set()

    def join(self, pop: Pop) -> None:
        """Make a POP reachable."""
        self.pops[pop.host_name] = pop

    def cut(self, pop: Pop, *, silently: bool) -> None:
        """Have nothing reach a POP, nor leave it; silently: nobody is told."""
        (self._swallowed if silently else self._refused).add(pop.host_name)

    def mute(self, pop: Pop, *, until_now: bool = False) -> None:
        """Have nothing that a POP sends leave it, as a firewall does; until_now: no more."""
        (self._mute.discard if until_now else self._mute.add)(pop.host_name)

    def join_again(self, pop: Pop) -> None:
        """End a cut."""
        self._refused.discard(pop.host_name)
        self._swallowed.discard(pop.host_name)

    def heal(self) -> None:
        """From now on every message arrives. What is under way, or late, still comes."""
        self._swallowed.clear()
        self._refused.clear()
        self.weather = Weather()

    def transport(self, pop: Pop) -> httpx.AsyncBaseTransport:
        """Return what a POP sends through."""
        return _Transport(self, pop)

    async def send(self, source: Pop, request: httpx.Request) -> httpx.Response:
        """Carry a request and its answer."""
        self.sent += 1
        number, chance, weather = self.sent, self.chance, self.weather
        body = await request.aread()
        allowed: dict[str, float | None] = request.extensions.get("timeout", {})
        target = self.pops.get(request.url.host)
        path = request.url.raw_path.decode()
        digest = sha256(body).hexdigest()[:12]
        self.note(f"net {source.name} #{number} {request.method} {path} {len(body)} {digest}")
        ends = {source.host_name, request.url.host}
        await asyncio.sleep(chance.random() * weather.slow)
        if target is None or ends & self._refused or source.host_name in self._mute:
            raise self._failed(number, httpx.ConnectError("connection refused"))
        if ends & self._swallowed or chance.random() < weather.lost:
            raise await self._timed_out(number, allowed.get("read"))
        if chance.random() < weather.garbled:
            if chance.random() < 0.5:
                self._later(0.0, target, request, body, number)
            status, content = chance.choice(GARBAGE)
            self.rejected |= status in (400, 413)
            self.note(f"net #{number} garbled {status}")
            return _response(status, [], content)
        if chance.random() < weather.repeated:
            self._later(chance.random() * weather.late, target, request, body, number)
        if not target.up:
            raise self._failed(number, httpx.ConnectError("connection refused"))
        answer = target.take(request, body)
        within = allowed.get("read")
        done, _ = await asyncio.wait({answer}, timeout=within)
        if not done:
            raise self._failed(number, httpx.ReadTimeout("timed out"))
        if answer.cancelled():
            raise self._failed(number, httpx.RemoteProtocolError("the server hung up"))
        status, headers, content = answer.result()
        await asyncio.sleep(chance.random() * weather.slow)
        if ends & self._swallowed or chance.random() < weather.answer_lost:
            raise await self._timed_out(number, within)
        if ends & self._refused or chance.random() < weather.reset:
            raise self._failed(number, httpx.ReadError("connection reset"))
        self.note(f"net #{number} answer {status} {len(content)} {sha256(content).hexdigest()[:12]}")
        return _response(status, headers, content)

    def _later(self, after: float, target: Pop, request: httpx.Request, body: bytes, number: int) -> None:
        async def arrive() -> None:
            await asyncio.sleep(after)
            if target.up:
                self.note(f"net #{number} repeated")
                await asyncio.wait({target.take(request, body)})

        task = asyncio.get_running_loop().create_task(arrive(), context=outside())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def calm(self) -> None:
        """Wait until nothing that comes late is under way any more."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    def close(self) -> None:
        """Drop what is still under way."""
        for task in self._waiting:
            task.cancel()

    def _failed(self, number: int, error: httpx.TransportError) -> httpx.TransportError:
        self.note(f"net #{number} {type(error).__name__}")
        return error

    async def _timed_out(self, number: int, within: float | None) -> httpx.TransportError:
        await asyncio.sleep(60.0 if within is None else within)
        return self._failed(number, httpx.ReadTimeout("timed out"))


def _response(status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, network: Network, source: Pop) -> None:
        self._network = network
        self._source = source

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._network.send(self._source, request)
