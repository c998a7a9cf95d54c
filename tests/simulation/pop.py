"""A POP: a machine with a disk and a clock, on which the real application runs, crashes and is started again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from clavitor_commercial.plugin import CommercialEdition
from clavitor_commercial_replication.plugin import CommercialReplication
from clavitor_commercial_replication.service import Replication, service_of
from quart import Quart

from clavitor_host.app import App, around, create_host
from clavitor_host.config.sources import Config
from clavitor_host.endpoint import HOST
from clavitor_host.host import Host
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.tokens import create_token
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import FrozenPlugin, settings
from clavitor_host.vault.models import Write, WriteSet
from clavitor_host.vault.routes import HOT, HOT_PREFIX
from clavitor_host.web.gateway import Gateway
from tests.simulation.chance import seeded
from tests.simulation.database import Disk, Engine
from tests.simulation.loop import EPOCH, Loop, Process, WallClock
from tests.simulation.network import Network

BUNDLE = BundleInfo(
    "clavitor-commercial",
    "commercial",
    (
        FrozenPlugin("clavitor-commercial", CommercialEdition),
        FrozenPlugin("clavitor-commercial-replication", CommercialReplication),
    ),
)
SECRET = "0123456789abcdef0123456789abcdef"
PRIMARY, BACKUP = "calgary", "zurich"
HEARTBEAT = 10.0
COMPARE = 8.0

BEFORE: Mapping[str, str | None] = {"e0": "YmVmb3Jl", "e1": None, "e2": "YmVmb3Jl", "f0": "b25jZQ=="}
"""Entries from before there was replication."""

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class Crashed(Exception):
    """The process that was asked is no more; nobody knows what it has done."""


class Template(NamedTuple):
    """Databases that runs start from, made once by the real migrations. The tokens are of users who may
    write at the one or the other. `entries`: what is in the primary's vault, written before there was replication;
    None: deleted."""

    primary: Path
    backup: Path
    primary_token: str
    backup_token: str
    entries: Mapping[str, str | None]


class Pop:
    """One machine. `up`: its process runs. `label`: it, and the epoch since which it takes writes."""

    def __init__(self, name: str, *, disk: Disk, network: Network, loop: Loop, folder: Path) -> None:
        self.name = self.label = name
        self.disk = disk
        self.network = network
        self.clock = WallClock(loop)
        self.app: App | None = None
        self._config = _config(name, folder)
        self._routes = routes(name, folder)
        self._web: Any = None
        self._engine: Engine | None = None
        self._process: Process | None = None
        network.join(self)

    @property
    def host_name(self) -> str:
        return f"{self.name}.example"

    @property
    def up(self) -> bool:
        return self.app is not None

    @property
    def host(self) -> Host:
        assert self.app is not None
        return self.app.host

    @property
    def service(self) -> Replication:
        return service_of(self.host)

    @property
    def running(self) -> bool:
        """Whether there is a process, ready or not."""
        return self._process is not None and self._process.alive

    async def start(self) -> None:
        """Start the process. Raises `Crashed` when it ends before it is ready."""
        self._process = Process(self.name)
        await self.run(self._start())

    async def run(self, work: Any) -> Any:
        """Have the process do something, and return what comes of it. Raises `Crashed`."""
        assert self._process is not None
        process = self._process
        task = process.spawn(work)
        await asyncio.wait({task})
        if task.cancelled() or not process.alive:
            if not task.cancelled():
                task.exception()
            raise Crashed(self.name)
        return task.result()

    async def _start(self) -> None:
        app = create_host(self._config, BUNDLE, clock=self.clock)
        host = app.host
        host.db.engine = self._engine = Engine(self.disk)
        made, transport = host.outbound.client, self.network.transport(self)

        def client(**options: Any) -> httpx.AsyncClient:
            for name in ("verify", "cert", "http2", "limits"):
                options.pop(name, None)
            return made(**{**options, "transport": transport})

        host.outbound.client = client  # type: ignore[method-assign]
        self._web = self._routes.around(host)
        await app.start()
        self.app = app

    def crash(self) -> None:
        """End the process where it stands, as `kill -9` does."""
        if self._process is not None and self._process.alive:
            if self._engine is not None:
                self._engine.kill()
            self._process.kill()
        self.app = self._engine = None

    async def stop(self) -> None:
        """Stop the process in an orderly way."""
        app = self.app
        if app is not None:
            self.app = None
            await self.run(app.stop())
            assert self._process is not None
            self._process.kill()

    def take(self, request: httpx.Request, body: bytes) -> asyncio.Task[Answer]:
        """Have the process answer a request; the task is cancelled when the process ends before."""
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        path = request.url.raw_path
        assert self._process is not None
        return self._process.spawn(self._serve(request.method, path, headers, body))

    async def ask(self, method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Answer:
        """Answer a client. Raises `Crashed`."""
        if not self.up:
            raise Crashed(self.name)
        answer: Answer = await self.run(self._serve(method, path.encode(), headers, body))
        return answer

    async def _serve(self, method: str, raw_path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> Answer:
        path, _, query = raw_path.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path.decode(),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("192.0.2.1", 50000),
            "server": (self.host_name, 443),
            "state": {},
            "extensions": {},
        }
        received = False
        status, given, parts = 0, [], []

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:
                await asyncio.get_running_loop().create_future()
            received = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, given
            if message["type"] == "http.response.start":
                status, given = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        await self._web(scope, receive, send)
        return status, given, b"".join(parts)


class Routes:
    """The web application of one POP. Making it takes longer than much of a run, and nothing in it is a process's own
    but the host and the gateway: those are new at every start."""

    def __init__(self, web: Quart) -> None:
        self._web = web
        gateway: Any = web.asgi_app
        self._framework = gateway._app

    def around(self, host: Host) -> Gateway:
        """Return the application for a process that starts."""
        self._web.extensions[HOST] = host
        return Gateway(host, self._framework, prefix=HOT_PREFIX, hot=HOT)


@cache
def routes(name: str, folder: Path) -> Routes:
    """Return the web application of a POP, made once."""
    return Routes(around(create_host(_config(name, folder), BUNDLE)))


def prepare(folder: Path) -> None:
    """Make what all runs share, so that the first is as any other."""
    for name in (PRIMARY, BACKUP):
        routes(name, folder)
    for before in (False, True):
        template(folder, before=before)


@cache
def template(folder: Path, *, before: bool) -> Template:
    """Make the databases that runs start from. before: with entries in the primary's."""
    folder = folder / f"template-{before}"
    folder.mkdir(parents=True, exist_ok=True)
    given = BEFORE if before else {}

    async def make(file: Path, entries: Mapping[str, str | None]) -> str:
        config = settings(folder / "data", BUNDLE, {"CLAVITOR_DATABASE_URL": f"sqlite:///{file}"})
        app = create_host(config, BUNDLE, clock=_Stopped())
        await app.start(offline=True)
        made = await create_user(app.host, name=file.stem, role=Role.OPERATOR, requested_by=SYSTEM)
        _, secret = await create_token(app.host, name="test", user_id=made.id, requested_by=SYSTEM)
        for entry_id, data in entries.items():
            await app.host.entries.write(WriteSet((Write("put", entry_id, data or "AAAA"),), "test", "test"))
            if data is None:
                await app.host.entries.write(WriteSet((Write("delete", entry_id),), "test", "test"))
        await app.stop()
        return secret

    primary, backup = folder / "primary.db", folder / "backup.db"
    with seeded(0):
        ours = asyncio.run(make(primary, given))
        theirs = asyncio.run(make(backup, {}))
    return Template(primary, backup, ours, theirs, given)


class _Stopped:
    """A clock that does not move, for what every run starts from."""

    def now_us(self) -> int:
        return EPOCH - 1_000_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@cache
def _config(name: str, folder: Path) -> Config:
    other = BACKUP if name == PRIMARY else PRIMARY
    given = {
        "role": "primary" if name == PRIMARY else "backup",
        "source_pop": name,
        "backup_url": f"https://{other}.example",
        "primary_location": f"https://{PRIMARY}.example",
        "authorized_primaries": other,
        "secret": SECRET,
        "heartbeat_interval": str(HEARTBEAT),
        "compare_interval": str(COMPARE),
    }
    environ = {f"CLAVITOR_COMMERCIAL_REPLICATION_{key.upper()}": value for key, value in given.items()}
    environ["CLAVITOR_DATABASE_URL"] = f"sqlite:///{folder}/unused.db"
    return settings(folder / "data", BUNDLE, environ)
