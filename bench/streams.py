"""Event streams of agents: what a thousand of them cost the server, and how soon they hear of a change."""

from __future__ import annotations

import http.client
import json
import selectors
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from bench.machine import raise_file_limit, resident
from bench.report import Ratio, Section, table
from bench.rounds import Bench, BrokenError, Server, progress
from bench.seed import Vault, fresh, temporary

STREAMS = 1000
FIRST = 100
"""Connections that are opened before the measured ones, and stay: what every server grows at first is theirs."""
CHANGES = 50
SETTLE = 1.5
"""Seconds between the last connection and the measurement."""
PATIENCE = 30.0
"""Seconds to wait for any answer or event."""

MEMORY_TARGET = 60 * 1024
"""Bytes of the server process for each stream, at most."""
WAKES_TARGET = 1.0
"""Most wakes for each change and each stream of its environment."""
TOLD_TARGET = 1.0
"""Seconds, at most."""

_IDLE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_ANSWERED = b"\r\n\r\n"
_BEGUN = b"retry: "
_ENTRY = b"event: entry\n"


def run(bench: Bench, *, quick: bool) -> Section:
    """Measure memory, wakes, how long a change takes to all who listen, and the end."""
    raise_file_limit()
    streams, changes, rounds = (STREAMS // 4, CHANGES // 5, 1) if quick else (STREAMS, CHANGES, 3)
    section = Section(f"{streams:,} event streams of agents, in two environments")
    vault = fresh(Path(bench.stack.enter_context(temporary())) / "streams")
    fleet = _register(bench, vault, streams + FIRST)
    found = _Found()
    for number in range(rounds):
        progress(f"streams: round {number + 1} of {rounds}")
        _round(bench, vault, fleet, found, changes)
    progress("")
    _report(section, found)
    return section


@dataclass(slots=True)
class _Cost:
    """What connections of a kind cost, round by round.

    memory: bytes of the process for each. opened: how many were opened in a second. exit: seconds from SIGTERM to the
    exit of the process.
    """

    name: str
    memory: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    exit: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        return [
            self.name,
            f"{median(self.memory):,.0f}",
            f"{median(self.opened):,.0f}",
            f"{median(self.exit) * 1e3:.0f}",
        ]


@dataclass(slots=True)
class _Found:
    """What was measured, round by round.

    streams, idle: what connections cost. wakes, concerned: times that a stream was woken, and streams of the
    environment times changes. told: seconds from the answer to a write until the last stream had the event, of every
    change.
    """

    streams: _Cost = field(default_factory=lambda: _Cost("event streams"))
    idle: _Cost = field(default_factory=lambda: _Cost("idle connections"))
    wakes: int = 0
    concerned: int = 0
    told: list[float] = field(default_factory=list)


def _report(section: Section, found: _Found) -> None:
    streams, idle = found.streams, found.idle
    section.head = table([["", "bytes each", "opened/s", "exit ms"], streams.cells(), idle.cells()], "<>>>")
    memory, floor = (f"{kind.name}: {median(kind.memory):,.0f} bytes each" for kind in (streams, idle))
    each = median(streams.memory)
    section.ratios.append(Ratio(memory, f"{MEMORY_TARGET:,} bytes", each / MEMORY_TARGET, 1.0, at_least=False))
    section.ratios.append(Ratio(memory, floor, each / median(idle.memory)))
    wakes, concerned = f"wakes ({found.wakes:,})", f"changes by streams concerned ({found.concerned:,})"
    section.ratios.append(Ratio(wakes, concerned, found.wakes / found.concerned, WAKES_TARGET, at_least=False))
    worst = max(found.told)
    told = f"change to all told, worst ({worst * 1e3:.0f} ms)"
    section.ratios.append(Ratio(told, f"{TOLD_TARGET:g} s", worst / TOLD_TARGET, 1.0, at_least=False))
    ended, alone = (f"{kind.name}: SIGTERM to exit" for kind in (streams, idle))
    section.ratios.append(Ratio(ended, alone, median(streams.exit) / median(idle.exit)))
    section.notes.append(
        f"Told: from a write's answer until the last stream has the event; median {median(found.told) * 1e3:.0f} ms."
    )
    section.notes.append("Changes are made in one environment, one after the other; streams of the other hear nothing.")


# --- one round


def _round(bench: Bench, vault: Vault, fleet: _Fleet, found: _Found, changes: int) -> None:
    """Measure each kind with a process of its own: memory that one kind has given back would count for the other."""
    requests = [agent.request for agent in fleet.agents]
    for cost, sent, mark in (
        (found.idle, [_IDLE] * len(requests), _ANSWERED),
        (found.streams, requests, _BEGUN),
    ):
        with ExitStack() as stack, Server("streams", bench.cores, f"--data={vault.folder}") as server:
            sockets = _opened(stack, server.port, sent[:FIRST], mark)
            before = _settled(server)
            began = perf_counter()
            sockets += _opened(stack, server.port, sent[FIRST:], mark)
            measured = len(sent) - FIRST
            cost.opened.append(measured / (perf_counter() - began))
            cost.memory.append((_settled(server) - before) / measured)
            if cost is found.streams:
                _change(server, vault, fleet, sockets, found, changes)
            cost.exit.append(_seconds_to_exit(server))


def _change(
    server: Server, vault: Vault, fleet: _Fleet, sockets: Sequence[socket.socket], found: _Found, changes: int
) -> None:
    """Change entries of the first environment; see who is woken and when all have heard."""
    wakes = _wakes(server.port, len(sockets))
    first = fleet.environments[0]
    concerned, others = [
        [sock for sock, agent in zip(sockets, fleet.agents, strict=True) if (agent.environment_id == first) is there]
        for there in (True, False)
    ]
    with (
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection,
        selectors.DefaultSelector() as selector,
    ):
        for sock in concerned:
            selector.register(sock, selectors.EVENT_READ)
        for _ in range(changes):
            entry = {"encrypted_data": "AAAA", "environment_id": first}
            _ask(connection, vault.token, "PUT", f"/api/entries/change-{len(found.told)}", entry)
            answered = perf_counter()
            _until_told(selector, len(concerned))
            found.told.append(perf_counter() - answered)
    found.wakes += _wakes(server.port, len(sockets)) - wakes
    found.concerned += len(concerned) * changes
    if any(_ENTRY in _waiting(sock) for sock in others):
        raise BrokenError("a stream heard of a change in another environment")


def _until_told(selector: selectors.BaseSelector, count: int) -> None:
    """Read until each of `count` streams has had an event of an entry."""
    read: dict[int, bytes] = {}
    told: set[int] = set()
    while len(told) < count:
        ready = selector.select(PATIENCE)
        if not ready:
            raise BrokenError(f"{count - len(told)} of {count} streams did not hear of a change")
        for key, _ in ready:
            data = _received(key.fileobj)
            read[key.fd] = read.get(key.fd, b"") + data
            if _ENTRY in read[key.fd]:
                told.add(key.fd)


def _waiting(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def _received(sock: Any) -> bytes:
    data: bytes = sock.recv(65536)
    if not data:
        raise BrokenError("the server ended a stream")
    return data


def _settled(server: Server) -> int:
    """Return the bytes of the process once it has nothing to do any more."""
    sleep(SETTLE)
    return resident(server.process.pid)


def _seconds_to_exit(server: Server) -> float:
    began = perf_counter()
    server.process.send_signal(signal.SIGTERM)
    if server.process.wait(PATIENCE):
        raise BrokenError(f"the server ended with {server.process.returncode}\n{server.output()}")
    return perf_counter() - began


def _opened(stack: ExitStack, port: int, requests: Sequence[bytes], mark: bytes) -> list[socket.socket]:
    """Open connections, each with a request, all at once; they stay open with `stack`.

    Raises `BrokenError` for one that is not answered with a 200 and `mark`.
    """
    sockets = []
    for request in requests:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
        sock.sendall(request)
        sockets.append(sock)
    for sock in sockets:
        answer = b""
        while mark not in answer:
            data = sock.recv(4096)
            answer += data
            if not data or not answer.startswith(b"HTTP/1.1 200"):
                raise BrokenError(f"a connection was not answered: {answer[:300]!r}")
    return sockets


def _wakes(port: int, streams: int) -> int:
    """Return how often streams were woken so far. Raises `BrokenError` unless there are as many as `streams`."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/api/v1/prometheus")
        lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("clavitor_fleet_event_"))
    if float(values.get("clavitor_fleet_event_streams", 0)) != streams:
        raise BrokenError(f"not {streams} streams: {values}")
    return int(float(values["clavitor_fleet_event_wakes_total"]))


# --- who listens


@dataclass(frozen=True, slots=True)
class _Agent:
    """`request`: opens its stream."""

    environment_id: str
    request: bytes


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Two environments, and agents of each in turn."""

    environments: Sequence[str]
    agents: Sequence[_Agent]


def _register(bench: Bench, vault: Vault, count: int) -> _Fleet:
    """Register agents with a server that ends again: those that are measured begin without what it has grown."""
    agents = []
    with (
        Server("streams", bench.cores, f"--data={vault.folder}") as server,
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection,
    ):
        post = partial(_ask, connection, vault.token, "POST")
        environments = [str(post("/api/v1/environments", {"name": name})["id"]) for name in ("first", "second")]
        apps = [post("/api/v1/apps", {"name": "bench", "environment_id": found})["id"] for found in environments]
        for number in range(count):
            progress(f"streams: agent {number + 1:,} of {count:,}")
            wanted = {"app_id": apps[number % 2], "instance_id": f"agent-{number}", "version": "1"}
            made = post("/api/v1/agents/register", wanted)
            head = f"GET /api/v1/agents/{made['agent']['id']}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            head += f"Authorization: Bearer {made['token']}\r\nAccept: text/event-stream\r\n\r\n"
            agents.append(_Agent(environments[number % 2], head.encode()))
    return _Fleet(environments, agents)


def _ask(connection: http.client.HTTPConnection, token: str, method: str, path: str, body: object) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 201:
        raise BrokenError(f"{method} {path}: {text.decode(errors='replace')}")
    return json.loads(text)
