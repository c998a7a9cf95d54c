"""Where the server of a test is: the process of a built artifact, on either database.

A place is started once and emptied before every test. Nothing a test leaves behind reaches the next one: the rows go,
and what the server remembers of a client by address does not matter, as every test comes from an address of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import count
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing_testing.support import GOOD, TENANT, private_key, public_pem, signed

from clavitor_host.testing.postgres import PostgresServer
from clavitor_host.testing.process import ServerProcess
from tests.bundles import usage

ROOT = Path(__file__).resolve().parents[2]
"""In place of an artifact's name: the program from this checkout."""

INTERPRETER = str(Path(sys.executable).resolve())
"""Of the machine, not of a virtual environment: `python3` alone is what an artifact needs."""

KEEPER = "keeper"
"""The administrator of every place. No test calls a user so."""

EMPTIED = (
    *("entries", "vault_head", "audit_log", "audit_head", "audit_checkpoints", "users", "tokens", "sessions"),
    *("entry_departures", "login_failures", "oidc_logins", "setup_tokens"),
)
"""Tables that tests fill. Leases, job runs and schema versions stay: the running server relies on them."""

IN_PROCESS = "in_process"
"""The marker of tests that look inside the app, so cannot run against a process."""

Command = tuple[str, ...]
Built = Callable[[str], Path]


def program(name: str, built: Built) -> Command:
    """Return how to run the artifact `name`."""
    return (INTERPRETER, str(built(name)))


def shared_tests(folder: Path) -> dict[str, Callable[..., Any]]:
    """Return the test functions of `folder`, given by path from the checkout, that are not marked as in-process."""
    found: dict[str, Callable[..., Any]] = {}
    for name, function in _tests(folder):
        if IN_PROCESS not in _marks(function):
            assert name not in found, f"two tests in {folder} are called {name}"
            found[name] = function
    return found


def fixtures_of(function: Callable[..., Any]) -> set[str]:
    """Return the names of the fixtures that a test function asks for."""
    given = {name for mark in _parametrized(function) for name in _names(mark.args[0])}
    return set(inspect.signature(function).parameters) - given


def cases_of(function: Callable[..., Any]) -> int:
    """Return how many tests a test function stands for."""
    return prod(len(mark.args[1]) for mark in _parametrized(function))


def _tests(folder: Path) -> Iterator[tuple[str, Callable[..., Any]]]:
    for file in sorted((ROOT / folder).glob("test_*.py")):
        module = import_module(".".join((*folder.parts, file.stem)))
        for name, value in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(value):
                yield name, value


def _marks(function: Callable[..., Any]) -> set[str]:
    of_module = getattr(import_module(function.__module__), "pytestmark", ())
    marks = [*getattr(function, "pytestmark", ()), *(of_module if isinstance(of_module, list | tuple) else [of_module])]
    return {mark.name for mark in marks}


def _parametrized(function: Callable[..., Any]) -> list[Any]:
    return [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]


def _names(given: str | tuple[str, ...]) -> list[str]:
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)


@dataclass
class Place:
    """A running server, and how to make its database empty again."""

    server: ServerProcess
    token: str
    empty: Callable[[], None]
    addresses: Iterator[int] = field(default_factory=lambda: count(1))

    def visitor(self) -> Visitor:
        """Return what one test uses: the emptied place, from a new address."""
        self.empty()
        number = next(self.addresses)
        return Visitor(self, f"127.1.{number >> 8}.{number & 255}")


@dataclass
class Visitor:
    """The clients of one test. Every answer must come from the place's own process; `answered` counts them."""

    place: Place
    address: str
    answered: int = 0
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    users: dict[str, str] = field(default_factory=dict)
    keeper: httpx.AsyncClient | None = None

    async def client(self, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
        """Return an HTTP client without a credential."""
        return await self.stack.enter_async_context(
            httpx.AsyncClient(
                transport=_Wire(local_address=self.address, verify=False),  # no time for certificates: it is plain HTTP
                base_url=self.place.server.url,
                headers=headers,
                timeout=30,
                event_hooks={"response": [self._check]},
            )
        )

    async def client_for(self, role: str, **token: str) -> httpx.AsyncClient:
        """Return a client with a new token of a user of `role`, as `Harness.client_for` does, over the API."""
        if self.keeper is None:
            self.keeper = await self.client(_bearer(self.place.token))
        keeper = self.keeper
        if role not in self.users:
            made = await _made(keeper, "/api/v1/admin/users", {"name": role.lower(), "role": role})
            self.users[role] = made["id"]
        wanted = {"name": "test", "user_id": self.users[role], **token}
        secret = (await _made(keeper, "/api/v1/admin/tokens", wanted))["token"]
        return await self.client(_bearer(secret))

    async def _check(self, response: httpx.Response) -> None:
        """Fail for an answer of another process than the place's: request ids begin with the number of theirs."""
        process = int(response.headers["X-Request-Id"].partition("-")[0], 16)
        assert process == self.place.server.pid, f"process {process} answered"
        self.answered += 1


class _Wire(httpx.AsyncHTTPTransport):
    """Sends what a test asks for. Space around a header's value is not part of it (RFC 9110, 5.5): h11 refuses it."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers = httpx.Headers([(name, value.strip(b" \t")) for name, value in request.headers.raw])
        return await super().handle_async_request(request)


async def _made(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def running(folder: Path, command: Command, kind: str) -> Iterator[Place]:
    """Start a server on a fresh database of `kind`, `sqlite` or `postgresql`; it has one administrator, `KEEPER`."""
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database()) if kind == "postgresql" else None
        server = stack.enter_context(ServerProcess(folder, program=command, database_url=url, environ=licensed()))
        token = _keepers_token(server)
        empty = _emptied_sqlite(server.data_dir / "vault.db") if url is None else _emptied_postgresql(url)
        yield Place(server, token, empty)


def licensed() -> dict[str, str]:
    """Return the variables of a license that caps nothing which the tests reach."""
    now = int(time.time())
    limits = dict.fromkeys(LIMITS, 1_000_000)
    payload = {**GOOD, "iat": now - 60, "exp": now + 86_400, "limits": limits}
    return {
        "CLAVITOR_TENANT_ID": TENANT,
        "CLAVITOR_LICENSE_PUBLIC_KEY": public_pem(private_key(0)),
        "CLAVITOR_LICENSE_TOKEN": signed(payload),
    }


def _keepers_token(server: ServerProcess) -> str:
    """Make the first administrator as a person would, over the setup link; return a token of theirs."""
    with httpx.Client(base_url=server.url, timeout=60) as browser:
        usage.set_up(browser, server.log, KEEPER)
        made = browser.post("/api/v1/admin/tokens", json={"name": "test"})
        assert made.status_code == 201, made.text
        token: str = made.json()["token"]
        return token


def _emptied_sqlite(file: Path) -> Callable[[], None]:
    kept = file.with_name("kept.db")

    def copy() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("VACUUM INTO ?", (str(kept),))

    def empty() -> None:
        with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as database:
            database.execute("ATTACH ? AS kept", (str(kept),))
            database.execute("BEGIN IMMEDIATE")
            for table in EMPTIED:
                database.execute(f"DELETE FROM main.{table}")
                database.execute(f"INSERT INTO main.{table} SELECT * FROM kept.{table}")
            database.execute("COMMIT")

    copy()
    return empty


def _emptied_postgresql(url: str) -> Callable[[], None]:
    run = partial(_postgresql, url=url)
    copies = "".join(f"CREATE TABLE kept.{table} AS TABLE {table}; " for table in EMPTIED)
    run(f"DO $$ BEGIN CREATE SCHEMA kept; {copies} END $$")
    back = "".join(f"INSERT INTO {table} SELECT * FROM kept.{table}; " for table in EMPTIED)
    return partial(run, f"DO $$ BEGIN TRUNCATE {', '.join(EMPTIED)} RESTART IDENTITY; {back} END $$")


@contextmanager
def fresh_database() -> Iterator[str]:
    """Make an empty PostgreSQL database, give its URL, and drop it in the end."""
    name = f"place_{uuid4().hex}"
    _postgresql(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield PostgresServer.shared().database_url(name)
    finally:
        _postgresql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _postgresql(statement: str, url: str | None = None) -> None:
    asyncio.run(PostgresServer.shared().run(statement, url))
