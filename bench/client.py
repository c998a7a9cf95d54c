"""The load generator, a process of its own: `python -m bench.client`, one `Job` a line in, one `Result` a line out.

It knows just enough HTTP/1.1 to find where a response ends, so that it is several times faster than any server it
loads. Every status is checked, and every 32nd body in full.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import perf_counter, process_time
from typing import cast

import uvloop

from bench.load import HELLO, Job, Result, blob, entry_id, percentile

CHECK_EVERY = 32
MOST_WRONG = 5
PATIENCE = 15.0
"""Seconds after the end of a job until its last answers must be there."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Prepared = tuple[bytes, str, int]
"""The bytes of a request, the id and the number of its entry."""


def hello_requests(job: Job) -> Iterator[Prepared]:
    """Yield `GET /` for ever."""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
    while True:
        yield request, "", 0


def get_requests(job: Job) -> Iterator[Prepared]:
    """Yield reads of seeded entries, each drawn at random."""
    draw = random.Random(job.seed)
    tail = f" HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nAuthorization: Bearer {job.token}\r\n\r\n".encode()
    while True:
        number = draw.randrange(job.entries)
        name = entry_id(number)
        yield b"GET /api/entries/" + name.encode() + tail, name, number


def put_requests(job: Job) -> Iterator[Prepared]:
    """Yield creations of entries under random ids."""
    draw = random.Random(f"{job.seed} {uuid.uuid4()}")
    number = 0
    while True:
        number += 1
        name = str(uuid.UUID(int=draw.getrandbits(128), version=4))
        body = b'{"encrypted_data":"' + blob(number).encode() + b'"}'
        head = (
            f"PUT /api/entries/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
            f"Authorization: Bearer {job.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body, name, number


def ahead(requests: Iterator[Prepared], count: int) -> Iterator[Prepared]:
    """Yield the first `count` requests made before the clock starts, then the rest as they come."""
    made = [next(requests) for _ in range(count)]
    yield from made
    yield from requests


class Run:
    """One job while it runs."""

    def __init__(self, job: Job) -> None:
        makers: dict[str, Callable[[Job], Iterator[Prepared]]]
        makers = {"hello": hello_requests, "get": get_requests, "put": put_requests}
        made = {"hello": 0, "get": 20_000, "put": 8_000}[job.kind]
        self.requests = ahead(makers[job.kind](job), made)
        self.job = job
        self.good = b"201" if job.kind == "put" else b"200"
        self.latencies: list[float] = []
        self.acknowledged = 0
        self.seen = 0
        self.open = 0
        self.wrong: list[str] = []
        self.finished = asyncio.Event()
        self.start = self.end = 0.0

    def fail(self, message: str) -> None:
        """Note what is not as it must be."""
        if len(self.wrong) < MOST_WRONG:
            self.wrong.append(message)

    def closed(self) -> None:
        """Count a connection that is done."""
        self.open -= 1
        if self.open == 0:
            self.finished.set()

    def body_error(self, body: bytes, name: str, number: int) -> str | None:
        """Return what is wrong with the body of a good answer."""
        if self.job.kind == "hello":
            return None if body == HELLO else "another body"
        value = json.loads(body)
        if value["entry_id"] != name or type(value["rev"]) is not int:
            return "another entry_id, or no rev"
        if self.job.kind == "get" and value["encrypted_data"] != blob(number):
            return "another blob"
        return None


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends the next request when the answer to the last is complete."""

    __slots__ = ("buffer", "name", "number", "run", "sent", "total", "transport")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.buffer = b""
        self.total = 0
        self.sent = 0.0
        self.name = ""
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request."""
        request, self.name, self.number = next(self.run.requests)
        self.sent = perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        if not self.total:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = data
                return
            length = _LENGTH.search(data, 0, end)
            if length is None:
                self.run.fail(f"no Content-Length: {data[:end]!r}")
                self.transport.close()
                return
            self.total = end + 4 + int(length.group(1))
        if len(data) < self.total:
            self.buffer = data
            return
        self._answered(data)

    def _answered(self, data: bytes) -> None:
        run = self.run
        now = perf_counter()
        if data[9:12] == run.good and len(data) == self.total:
            run.acknowledged += 1
        else:
            run.fail(f"{self.name}: {data[:600]!r}")
        run.seen += 1
        if run.seen % CHECK_EVERY == 0:
            error = run.body_error(data[data.find(b"\r\n\r\n") + 4 :], self.name, self.number)
            if error is not None:
                run.fail(f"{self.name}: {error}: {data[:600]!r}")
        self.buffer = b""
        self.total = 0
        if now < run.end:
            if now >= run.start:
                run.latencies.append(now - self.sent)
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or perf_counter() < self.run.end:
            self.run.fail(f"connection lost early: {exc!r}, {self.buffer[:200]!r}")
        self.run.closed()


async def perform(job: Job) -> Result:
    """Run one job to its end."""
    run = Run(job)
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(job.connections):
        _, connection = await loop.create_connection(lambda: Connection(run), "127.0.0.1", job.port)
        connections.append(connection)
    run.open = len(connections)
    run.start = perf_counter() + job.warm
    run.end = run.start + job.seconds
    used = process_time()
    for connection in connections:
        connection.send()
    try:
        async with asyncio.timeout(job.warm + job.seconds + PATIENCE):
            await run.finished.wait()
    except TimeoutError:
        run.fail(f"{run.open} connections got no answer within {PATIENCE:.0f} s")
        for connection in connections:
            connection.transport.abort()
    ordered = sorted(run.latencies)
    return Result(
        completed=len(ordered),
        elapsed=job.seconds,
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        acknowledged=run.acknowledged,
        busy=(process_time() - used) / (job.warm + job.seconds),
        wrong=run.wrong,
    )


def main() -> None:
    """Answer jobs until standard input ends. The arguments are the CPUs to stay on."""
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(cpu) for cpu in sys.argv[1:]})
    for line in sys.stdin:
        result = uvloop.run(perform(Job(**json.loads(line))))
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
