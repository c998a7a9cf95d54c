"""Servers, the load generator, and interleaved rounds over them."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Self

from bench.load import Job, Kind, Result
from bench.machine import Cores, cpu_seconds
from bench.report import Measured

START_PATIENCE = 60.0


class BrokenError(Exception):
    """Something did not work, so there is no figure to give."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long to measure. Times in seconds."""

    rounds: int
    seconds: float
    warm: float


class Server:
    """A server process of `bench.child`, on its own CPU."""

    def __init__(self, kind: str, cores: Cores, *options: str) -> None:
        self.port = free_port()
        self.name = " ".join((kind, *options))
        cpus = [f"--cpu={cpu}" for cpu in cores.server]
        command = [sys.executable, "-m", "bench.child", kind, f"--port={self.port}", *cpus, *options]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        deadline = monotonic() + START_PATIENCE
        while not answers(self.port, "/"):
            if self.process.poll() is not None or monotonic() > deadline:
                self._end()
                raise BrokenError(f"the server did not start: {self.name}\n{self.output()}")
            sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._output.close()

    def output(self) -> str:
        """Return the last of what it wrote."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-4000:]

    def _end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LoadGenerator:
    """The client process."""

    def __init__(self, cores: Cores) -> None:
        command = [sys.executable, "-m", "bench.client", *map(str, cores.client)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def perform(self, job: Job) -> Result:
        """Run one job. Raises `BrokenError` when an answer was wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job.to_json()) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BrokenError("the load generator ended")
        result = Result(**json.loads(line))
        if result.wrong or not result.completed:
            raise BrokenError("\n  ".join(["answers were wrong:", *result.wrong]))
        return result


@dataclass(slots=True)
class Contender:
    """Something measured in every round. `measure` takes the round's number; `process`: whose CPU time counts."""

    measured: Measured
    measure: Callable[[int], Result]
    process: int | None = None

    def round(self, number: int) -> None:
        """Measure once."""
        before = cpu_seconds(self.process) if self.process else 0.0
        result = self.measure(number)
        if self.process:
            self.measured.cpu.append((cpu_seconds(self.process) - before) / max(result.acknowledged, 1))
        self.measured.rounds.append(result)


@dataclass(slots=True)
class Bench:
    """What every section is handed."""

    cores: Cores
    pace: Pace
    load: LoadGenerator
    stack: ExitStack
    contenders: list[Contender] = field(default_factory=list)

    def server(self, kind: str, *options: str) -> Server:
        """Start a server that runs until the section ends."""
        return self.stack.enter_context(Server(kind, self.cores, *options))

    def http(
        self, name: str, server: Server, kind: Kind, connections: int, *, token: str = "", entries: int = 0
    ) -> Measured:
        """Add a contender: requests of a kind to `server`. See `Job`."""

        def measure(number: int) -> Result:
            job = Job(kind, server.port, connections, self.pace.warm, self.pace.seconds, number, token, entries)
            try:
                return self.load.perform(job)
            except BrokenError as error:
                raise BrokenError(f"{name}: {error}\n{server.output()}") from None

        return self.add(name, measure, server.process.pid)

    def add(self, name: str, measure: Callable[[int], Result], process: int | None = None) -> Measured:
        """Add a contender of any kind."""
        measured = Measured(name)
        self.contenders.append(Contender(measured, measure, process))
        return measured

    def run(self, title: str) -> list[Measured]:
        """Measure all contenders in turn, round after round."""
        for number in range(self.pace.rounds):
            for contender in self.contenders:
                progress(f"{title}: round {number + 1} of {self.pace.rounds}, {contender.measured.name}")
                contender.round(number)
        progress("")
        done, self.contenders = [c.measured for c in self.contenders], []
        return done


def progress(text: str) -> None:
    """Show what is being done, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Return whether an HTTP server answers at all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
