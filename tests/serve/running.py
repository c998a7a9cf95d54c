"""Running `program.py`, and raw clients for it."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

PROGRAM = Path(__file__).with_name("program.py")
PATIENCE = 15.0
EVENTS_AHEAD = 1 << 20
"""Bytes of events that the program may print before a test reads them; it would block on a full pipe."""


class Program:
    """One run of the program; its events are read as they come."""

    def __init__(self, environ: dict[str, str] | None = None, **options: Any) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **(environ or {})},
            cwd=PROGRAM.parents[2],
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout.fileno()
        os.set_blocking(self._out, False)
        fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, EVENTS_AHEAD)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        self._seen = 0
        self.errors = ""
        self.clients: list[Client] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._stderr.close()
        for client in self.clients:
            client.close()

    def started(self) -> Self:
        self.event("ready")
        return self

    @property
    def address(self) -> Any:
        bound = next(event for event in self.events if event["event"] == "bound")
        url = urlsplit(bound["address"][0])
        return url.path if url.scheme == "unix" else (url.hostname, url.port)

    def event(self, name: str, within: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """Return the next event of this name and these fields, waiting for it."""
        until = time.monotonic() + within
        while True:
            while self._seen < len(self.events):
                event = self.events[self._seen]
                self._seen += 1
                if event["event"] == name and fields.items() <= event.items():
                    return event
            if not self._read(until):
                raise AssertionError(f"no {name} {fields} in {self.events}; {self.finish_errors()}")

    def _read(self, until: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            if not selector.select(max(0.0, until - time.monotonic())):
                return False
        data = os.read(self._out, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += [json.loads(line) for line in lines]
        return bool(data)

    def finish_errors(self) -> str:
        self.process.kill()
        self._collect()
        return self.errors

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Signal the program, wait for its end, and return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.wait(began)

    def wait(self, began: float | None = None) -> float:
        began = time.monotonic() if began is None else began
        os.set_blocking(self._out, True)
        with selectors.DefaultSelector() as selector:  # wait by the pidfd: no polling
            pidfd = os.pidfd_open(self.process.pid)
            selector.register(pidfd, selectors.EVENT_READ)
            assert selector.select(PATIENCE), "the program does not end"
            took = time.monotonic() - began
            os.close(pidfd)
        self._collect()
        return took

    def _collect(self) -> None:
        assert self.process.stdout is not None
        self.process.wait()
        os.set_blocking(self._out, True)
        out = self.process.stdout.read()
        for line in (self._rest + out).splitlines():
            self.events.append(json.loads(line))
        self._rest = b""
        self._stderr.seek(0)
        self.errors = self._stderr.read().decode()

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def connect(self, *, tls: ssl.SSLContext | None = None) -> Client:
        client = Client(self.address, tls=tls)
        self.clients.append(client)
        return client


class Client:
    """A raw HTTP/1 client."""

    def __init__(self, address: Any, *, tls: ssl.SSLContext | None = None) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout=PATIENCE)
        if tls is not None:
            try:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
            except OSError:
                self.sock.close()
                raise
        self.rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def get(self, path: str = "/hello", *headers: str, method: str = "GET") -> Response:
        return self.request(path, *headers, method=method).response(head=method == "HEAD")

    def request(self, path: str = "/hello", *headers: str, method: str = "GET", body: bytes = b"") -> Self:
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        return self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def response(self, *, head: bool = False) -> Response:
        while b"\r\n\r\n" not in self.rest:
            self._more()
        text, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        body = b""
        if not head and status >= 200 and status not in (204, 304):
            if "content-length" in headers:
                size = int(headers["content-length"])
                while len(self.rest) < size:
                    self._more()
                body, self.rest = self.rest[:size], self.rest[size:]
            elif headers.get("transfer-encoding") != "chunked":
                body = self.until_closed()
        return Response(status, headers, body)

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"closed by the server after {self.rest!r}")
        self.rest += data

    def until_closed(self) -> bytes:
        """Read until the server closes, and return what came."""
        try:
            while data := self.sock.recv(65536):
                self.rest += data
        except ConnectionResetError:
            self.rest += b"<RESET>"
        rest, self.rest = self.rest, b""
        return rest


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        return str(self.json()["code"])
