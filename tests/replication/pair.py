"""Two POPs as two real processes: a primary that sends to a backup, directly or through a proxy that can fail.

    with Pair(folder) as pair:
        pair.start()
        httpx.put(f"{pair.primary.url}/api/entries/one", headers=pair.primary.authorization, json=...)

Both listen at fixed addresses, so they find each other again after a restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.storage.database import Database, sqlite_url
from clavitor_host.testing.process import ServerProcess
from tests.replication.program import commercial
from tests.replication.proxy import Proxy

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
PRIMARY, BACKUP = "calgary-01", "zurich-01"
SECRET = "between calgary and zurich, and nobody else"
QUICK = {"heartbeat_interval": 0.5, "compare_interval": 1.0, "stalled_after": 5.0}
"""Configured so that tests see in seconds what an operator sees in a minute."""

_PORTS = count(18_400)  # below the ports that a kernel gives to clients


def new_address() -> tuple[str, int]:
    """Return an address that no other test process uses: the host part is made of this process's number."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}", next(_PORTS)


def _free_port() -> int:
    """Return a port that nobody listens at just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _table(name: str, values: Mapping[str, Any] | None) -> str:
    if values is None:
        return ""
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), "", ""])


@cache
def bundle() -> BundleInfo:
    """Return the plugins that both processes run."""
    return commercial()


class Place(NamedTuple):
    """Where and how one POP runs. database_url: None for SQLite in its folder; the next three as in `ServerProcess`.

    tls: the table `[tls]`; it is then reached at https://localhost. own: values of this POP's table alone.
    """

    database_url: str | None = None
    workers: int = 1
    environ: Mapping[str, str] = {}
    data_dir: Path | None = None
    tls: Mapping[str, str] | None = None
    own: Mapping[str, str] = {}


class Pop(ServerProcess):
    """One POP. `location`: its URL, which stays when it is started again.

    A killed server holds its leases for 30 s more; here they are free when it starts again, as if it had been away.
    """

    def __init__(self, folder: Path, name: str, place: Place, program: tuple[str, ...]) -> None:
        self.name = name
        self.at = new_address() if place.tls is None else ("127.0.0.1", _free_port())
        self.location = f"http://{self.at[0]}:{self.at[1]}" if place.tls is None else f"https://localhost:{self.at[1]}"
        self.secret_file = folder / "secret"
        self._place = place
        self._killed = False
        super().__init__(
            folder,
            database_url=place.database_url,
            workers=place.workers,
            environ=place.environ,
            bind=f"{self.at[0]}:{self.at[1]}",
            data_dir=place.data_dir,
            program=program,
            bundle=bundle(),
        )

    def start(self, *, ready: bool = True) -> Self:
        if self._killed:
            self.free_leases()
            self._killed = False
        return super().start(ready=ready)

    def kill(self) -> None:
        super().kill()
        self._killed = True

    def free_leases(self, pid: int | None = None) -> None:
        """Have 30 s pass for the leases that dead processes hold. pid: of one process alone."""

        async def free() -> None:
            db = Database(self.database)
            await db.open()
            holders = "%" if pid is None else f"%:{pid}:%"
            await db.execute("UPDATE leases SET expires_at = 0 WHERE holder LIKE :holders", {"holders": holders})
            await db.close()

        with ThreadPoolExecutor(1) as thread:  # also under a running event loop
            thread.submit(asyncio.run, free()).result()

    @property
    def database(self) -> str:
        """The URL of its database."""
        return self.environ.get("CLAVITOR_DATABASE_URL") or sqlite_url(self.data_dir / "vault.db")

    @property
    def file(self) -> Path | None:
        """Its SQLite file, None on PostgreSQL."""
        return None if "CLAVITOR_DATABASE_URL" in self.environ else self.data_dir / "vault.db"

    def configure(self, **values: Any) -> None:
        """Write its `clavitor.toml`: the table of replication, with what is its own, and that of TLS."""
        if "tls_cert" not in self._place.own:
            values["secret_file"] = str(self.secret_file)
        text = _table("plugins.commercial_replication", {**values, **self._place.own}) + _table("tls", self._place.tls)
        (self.folder / "clavitor.toml").write_text(text, "utf-8")

    def share(self, *secrets: str) -> None:
        """Write its secret file: the secret in force, and others that are accepted too."""
        draft = self.secret_file.with_suffix(".draft")
        draft.write_text("".join(f"{secret}\n" for secret in secrets), "utf-8")
        draft.chmod(0o600)
        draft.rename(self.secret_file)

    def command(self, *arguments: str, stdin: str | None = None, code: int | None = 0) -> dict[str, Any]:
        """Run `clavitor replication …` beside it with `--json`; return what it says. code: the exit code expected."""
        done = self.run("replication", *arguments, "--json", stdin=stdin)
        assert code is None or done.returncode == code, (arguments, done)
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return found


class Pair:
    """A primary and its backup, neither started yet. proxied: the primary reaches the backup through `proxy`.

    more: further values of both configurations.
    """

    def __init__(
        self,
        folder: Path,
        *,
        primary: Place = Place(),  # noqa: B008 - a constant
        backup: Place = Place(),  # noqa: B008 - a constant
        proxied: bool = False,
        program: tuple[str, ...] = PROGRAM,
        **more: Any,
    ) -> None:
        self.primary = Pop(folder / PRIMARY, PRIMARY, primary, program)
        self.backup = Pop(folder / BACKUP, BACKUP, backup, program)
        self._stack = ExitStack()
        self._proxied = proxied
        self._proxy: Proxy | None = None
        self._more = {**QUICK, **more}
        self.seen: dict[str, dict[str, tuple[int, int]]] = {}
        """By POP and entry: the highest write that was ever seen there. See `invariants.check`."""

    def __enter__(self) -> Self:
        if self._proxied:
            self._proxy = self._stack.enter_context(Proxy(self.backup.at, new_address()))
        for pop in self.pops:
            pop.share(SECRET)
            self._stack.callback(pop.end)
        self.configure()
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    @property
    def pops(self) -> Iterator[Pop]:
        """Both."""
        yield self.primary
        yield self.backup

    @property
    def proxy(self) -> Proxy:
        """What is between them."""
        assert self._proxy is not None, "they are connected directly"
        return self._proxy

    def configure(self, **more: Any) -> None:
        """Write both configurations. They hold after a start."""
        shared = {**self._more, **more}
        link = self.proxy.url if self._proxied else self.backup.location
        self.primary.configure(
            role="primary",
            source_pop=self.primary.name,
            backup_url=link,
            primary_location=self.backup.location,
            authorized_primaries=[self.backup.name],
            **shared,
        )
        self.backup.configure(
            role="backup",
            source_pop=self.backup.name,
            backup_url=self.primary.location,
            primary_location=self.primary.location,
            authorized_primaries=[self.primary.name],
            **shared,
        )

    def start(self) -> Self:
        """Start both at once, and give both the token of the primary's administrator."""
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda pop: pop.start(), self.pops))
        self.backup.token = self.primary.token
        return self

    def kill(self) -> None:
        """End both as a power cut does."""
        for pop in self.pops:
            pop.kill()
