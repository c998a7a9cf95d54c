"""A real `clavitor serve` for tests: a process of its own, over a real socket, on a real database.

    with ServerProcess(folder) as server:
        httpx.get(f"{server.url}/api/v1/me", headers=server.authorization)

`running_app` is quicker where the test does not need a process: this one is for what only a process shows.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

from clavitor_host.app import create_host
from clavitor_host.config.sources import load
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.tokens import create_token
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.configure import config_models
from clavitor_host.plugins.frozen import BundleInfo, frozen_set
from clavitor_host.plugins.registry import PluginRegistry

PROGRAM = (sys.executable, "-m", "clavitor_host")
"""The program from source, in the environment of the tests."""

PATIENCE = 60.0
"""Seconds to wait for what must come: a start on a busy machine."""

_POLL = 0.01
_LISTENING = re.compile(r'Listening on (https?://[^\s"]+|unix:[^\s"]+)')


class ServerProcess:
    """One server on one folder. `start` and `kill` it as often as you like; leaving the context ends it.

    folder: holds `data`, `clavitor.toml` (when `config` is given) and `server.log` (of all runs together).
    database_url: PostgreSQL in place of SQLite in the folder. config: text of `clavitor.toml`.
    environ: added to this process's environment, of which no `CLAVITOR_` variable is passed on.
    bind: where to listen; every start on port 0 gets another port. program: what to run, such as
    `(sys.executable, "clavitor.pyz")`. prefix: what to run it under, such as strace. bundle: the plugins of
    `program`, when they are not those of this checkout; they take part in making the first user.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str | None = None,
        workers: int = 1,
        config: str | None = None,
        environ: Mapping[str, str] | None = None,
        bind: str = "127.0.0.1:0",
        data_dir: Path | None = None,
        program: Sequence[str] = PROGRAM,
        prefix: Sequence[str] = (),
        bundle: BundleInfo | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = data_dir or folder / "data"
        self.log_file = folder / "server.log"
        self.workers = workers
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("CLAVITOR_")}
        self.environ |= {**({"CLAVITOR_DATABASE_URL": database_url} if database_url else {}), **(environ or {})}
        self._bind = bind
        self._program = program
        self._prefix = prefix
        self._bundle = bundle
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, int] = {}  # worker pid → its pidfd
        self._seen = 0  # bytes of the log that belong to earlier runs
        self._url = ""
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / "clavitor.toml").write_text(config, "utf-8")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *args: object) -> None:
        self.end()

    # --- life

    def start(self, *, ready: bool = True) -> Self:
        """Start it, and wait until `/readyz` says yes. Raises RuntimeError with its log when it ends instead."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self._seen = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*self._prefix, *self._program, "serve", *self.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environ,
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, within: float = PATIENCE) -> None:
        """Wait until the server listens and `/readyz` answers 200."""
        deadline = time.monotonic() + within
        while (found := _LISTENING.search(self.last_log)) is None:
            self._wait_for(deadline, "it does not listen")
        self._url = found[1]
        while self._url.startswith("http:") and self.status("/readyz") != 200:
            self._wait_for(deadline, "it is not ready")
        self.worker_pids()

    def kill(self) -> None:
        """End it as a crash does (SIGKILL), its workers too, and wait until it is gone."""
        self._signal_all(signal.SIGKILL)
        self.wait()

    def terminate(self) -> float:
        """End it in order (SIGTERM) and return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.wait()
        return time.monotonic() - began

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(within)

    def end(self) -> None:
        """End everything that was started here, at whatever stage it is."""
        if self._process is not None and self._process.poll() is None:
            self.worker_pids()
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._signal_all(signal.SIGKILL)
        for pidfd in self._known.values():
            os.close(pidfd)
        self._known.clear()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process; with several workers, their supervisor."""
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def worker_pids(self) -> list[int]:
        """Return the process ids of its children: the workers, when there are several."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        pids = [int(pid) for pid in children.split()]
        for pid in pids:
            if pid not in self._known:
                with suppress(ProcessLookupError):
                    self._known[pid] = os.pidfd_open(pid)
        return pids

    def wait_workers_gone(self, within: float = PATIENCE) -> bool:
        """Wait for the end of every worker seen so far; False when one is left."""
        deadline = time.monotonic() + within
        return all(select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0] for fd in self._known.values())

    # --- reaching it

    @property
    def flags(self) -> list[str]:
        """The flags with which any `clavitor` command works on this server's data."""
        workers = ["--workers", str(self.workers)] if self.workers > 1 else []
        return ["--data-dir", str(self.data_dir), "--bind", self._bind, *workers]

    @property
    def url(self) -> str:
        """Where it listens, as the start-up line of its last start says: `http://127.0.0.1:40123`."""
        return self._url

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `url`."""
        host, _, port = self._url.partition("://")[2].rpartition(":")
        return host, int(port)

    @cached_property
    def token(self) -> str:
        """A token of an administrator `admin`, made when first asked for. It survives restarts."""
        return self.create_token("ADMIN", "admin")

    @property
    def authorization(self) -> dict[str, str]:
        """The request header that carries `token`."""
        return {"Authorization": f"Bearer {self.token}"}

    def create_token(self, role: str, name: str) -> str:
        """Make a user and return a token of it. Works on the database itself, while the server runs or not."""

        async def create() -> str:
            bundle = self._bundle or frozen_set()
            models = config_models(PluginRegistry(bundle.plugins, bundle.edition))
            flags = {"data_dir": str(self.data_dir)}
            app = create_host(load(flags, models, _only_clavitor(self.environ), self.folder), bundle)
            await app.start(offline=True)
            try:
                user = await create_user(app.host, name=name, role=Role(role), requested_by=SYSTEM)
                _, secret = await create_token(app.host, name="test", user_id=user.id, requested_by=SYSTEM)
                return secret
            finally:
                await app.stop()

        with ThreadPoolExecutor(1) as thread:  # also under a running event loop
            return thread.submit(asyncio.run, create()).result()

    def status(self, path: str) -> int:
        """GET a path without a token; return the status, 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=5) as answer:  # noqa: S310 - our own http: URL
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another `clavitor` command on the same data."""
        return subprocess.run(  # noqa: S603 - our own program
            [*self._program, *arguments, *self.flags],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ,
            timeout=PATIENCE,
            check=False,
        )

    @property
    def log(self) -> str:
        """What all its runs wrote to standard output and error."""
        return self.log_file.read_text("utf-8", "backslashreplace") if self.log_file.exists() else ""

    @property
    def last_log(self) -> str:
        """What its last run wrote."""
        with self.log_file.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode("utf-8", "backslashreplace")

    def _wait_for(self, deadline: float, trouble: str) -> None:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_POLL)
            raise RuntimeError(f"the server ended with {code}:\n{self.last_log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{trouble}:\n{self.last_log}")

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self.worker_pids()
            self._process.send_signal(number)
        for pidfd in self._known.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)


def _only_clavitor(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("CLAVITOR_")}
