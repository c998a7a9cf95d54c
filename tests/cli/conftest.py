"""The real `clavitor` program as a process, in a folder of its own and with a bare environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.cli import local_http
from clavitor_host.config.models import HostConfig

PROGRAM = str(Path(sys.executable).parent / "clavitor")
TIMEOUT = 60.0
"""Seconds a command may take, and a server to become ready, on a busy machine."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as one JSON document."""
        return json.loads(self.out)

    def error(self) -> str:
        """Return its one-line error; fails when standard error is anything but that."""
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Result]


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Return a bare environment: no `CLAVITOR_` variable of the caller gets in."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", "COLUMNS": "200", **extra}


@pytest.fixture
def clavitor(tmp_path: Path) -> Run:
    """Run `clavitor` to its end in `tmp_path`; `stdin` is text, `env` further variables."""

    def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=stdin,
            env=environment(env or {}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@dataclass
class Server:
    """A running `clavitor serve`."""

    process: subprocess.Popen[str]
    bind: str
    log: Path

    def get(self, path: str) -> int:
        """Return the status of a GET. Raises NoAnswer."""
        return local_http.get(HostConfig(bind=self.bind), path)[0]

    def log_with(self, text: str) -> str:
        """Return the log, once it has `text`."""
        wait_for(lambda: text in self.log.read_text(), f"in the log: {text}")
        return self.log.read_text()

    def stop(self) -> int:
        """Send SIGTERM to its process group, as a terminal's `kill` does, and return the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start `clavitor serve` in `tmp_path`, on a free port or on `bind`, and wait until it is ready."""
    with ExitStack() as stack:

        def start(*arguments: str, bind: str | None = None, env: dict[str, str] | None = None) -> Server:
            address = bind or f"127.0.0.1:{free_port()}"
            log = tmp_path / "serve.log"
            process = subprocess.Popen(
                [PROGRAM, "serve", "--bind", address, *arguments],
                env=environment(env or {}),
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(log.open("a")),
                text=True,
                start_new_session=True,
            )
            server = Server(process, address, log)
            stack.callback(server.stop)
            wait_for(lambda: _ready(server), "ready")
            return server

        yield start


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when `condition` holds; fail after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.get("/readyz") == 200
    except local_http.NoAnswer:
        return False
