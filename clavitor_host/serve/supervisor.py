"""Several worker processes behind the same sockets: started, watched, replaced, stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from loguru import logger

from clavitor_host.serve import notify
from clavitor_host.serve.worker import (
    BOOT_ID,
    BUNDLE,
    EXIT_REPLACED,
    INDEX,
    PREFIX,
    READY_FD,
    SOCKETS,
    SUPERVISOR_FD,
)

NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """Times are seconds."""

    stop_timeout: float = 0.9
    """From a stop signal to SIGKILL for the workers that are left."""

    healthy_after: float = 5.0
    """A worker that lived this long is replaced at once; one that did not, after a pause."""

    backoff: float = 0.5
    """The first pause; it doubles with every early death in a row."""

    backoff_most: float = 30.0
    """The longest pause."""


def supervise(
    command: Sequence[str],
    sockets: Sequence[socket.socket],
    workers: int,
    *,
    bundle: str = "",
    ready: Callable[[], None] | None = None,
    settings: SupervisorSettings = SupervisorSettings(),
) -> int:
    """Run `workers` processes of `command` on `sockets` until SIGTERM or SIGINT; return the exit code.

    The first worker starts alone (it migrates the database); the others follow when it is ready. When it ends
    before it is ready, so does this, with its exit code: the worker has said why on standard error. `ready` is
    called once, when the first worker accepts connections.

    `bundle` tells this program from others. When the file that `command` names was replaced by another program's,
    a worker that ends is not replaced, and this ends with the last one, with 1: nothing new runs before a restart.
    """
    return asyncio.run(Supervisor(command, sockets, workers, bundle, ready, settings).run())


class Supervisor:
    """The parent process. Holds the sockets open, so that no connection is refused while a worker is replaced."""

    def __init__(
        self,
        command: Sequence[str],
        sockets: Sequence[socket.socket],
        workers: int,
        bundle: str,
        ready: Callable[[], None] | None,
        settings: SupervisorSettings,
    ) -> None:
        self._command = command
        self._sockets = sockets
        self._workers = workers
        self._bundle = bundle
        self._boot_id = uuid4().hex
        self._ready = ready
        self._settings = settings
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[asyncio.subprocess.Process] = set()
        self._stop = asyncio.Event()
        self._alive_read, self._alive_write = os.pipe()  # workers see its end when this process dies
        self._metrics = tempfile.mkdtemp(prefix="clavitor-metrics-")

    async def run(self) -> int:
        """See `supervise`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        watchdog = asyncio.create_task(notify.watchdog())
        slots: list[asyncio.Task[None]] = []
        try:
            first, became_ready = await self._spawn(0)
            if not await became_ready:
                return 0 if self._stop.is_set() else _exit_code(await self._reap(0, first))
            notify.notify("READY=1")
            if self._ready is not None:
                self._ready()
            slots.append(loop.create_task(self._keep(0, first)))
            slots += [loop.create_task(self._keep(index, None)) for index in range(1, self._workers)]
            return 0 if await self._stopped_before(slots) else 1
        finally:
            notify.notify("STOPPING=1")
            self._stop.set()
            await self._end(slots)
            watchdog.cancel()
            os.close(self._alive_read)
            os.close(self._alive_write)
            shutil.rmtree(self._metrics, ignore_errors=True)

    async def _stopped_before(self, slots: list[asyncio.Task[None]]) -> bool:
        """Wait for the stop, or until no worker can be kept; return whether it was the stop."""
        stopped = asyncio.create_task(self._stop.wait())
        ended = asyncio.create_task(asyncio.wait(slots))
        try:
            await asyncio.wait((stopped, ended), return_when=asyncio.FIRST_COMPLETED)
            return self._stop.is_set()
        finally:
            stopped.cancel()
            ended.cancel()

    async def _keep(self, index: int, process: asyncio.subprocess.Process | None) -> None:
        """Keep one worker running until the stop, or until it could only be replaced by another program."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._stop.is_set():
            started = loop.time()
            try:
                if process is None:
                    process, _ = await self._spawn(index)
                code = await self._reap(index, process)
            except OSError as error:  # no process or descriptor to be had just now
                code = error.errno or 1
            process = None
            if self._stop.is_set() or code == EXIT_REPLACED:
                return
            deaths = 0 if loop.time() - started >= self._settings.healthy_after else deaths + 1
            # the first early death is replaced at once too: most are one-off (a kill, the OOM killer)
            pause = 0.0 if deaths < 2 else min(self._settings.backoff * 2 ** (deaths - 2), self._settings.backoff_most)
            logger.bind(component="serve", worker=index, exit=code, pause=pause).warning("Worker died; replacing it")
            await self._stopped_within(pause)

    async def _spawn(self, index: int) -> tuple[asyncio.subprocess.Process, asyncio.Task[bool]]:
        """Start a worker. The task is true when it became ready, false when it ended or the stop came before."""
        ready_read, ready_write = os.pipe()
        fds = [sock.fileno() for sock in self._sockets]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        for name in NOT_INHERITED:
            environ.pop(name, None)
        environ |= {
            INDEX: str(index),
            SOCKETS: ",".join(map(str, fds)),
            READY_FD: str(ready_write),
            SUPERVISOR_FD: str(self._alive_read),
            BUNDLE: self._bundle,
            BOOT_ID: self._boot_id,
            "PROMETHEUS_MULTIPROC_DIR": self._metrics,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                env=environ,
                pass_fds=[*fds, ready_write, self._alive_read],
                start_new_session=True,  # Ctrl-C reaches this process alone, which forwards it once
            )
        finally:
            os.close(ready_write)
        self._processes[index] = process
        return process, asyncio.create_task(self._await_ready(process, ready_read))

    async def _await_ready(self, process: asyncio.subprocess.Process, fd: int) -> bool:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        stopped = asyncio.create_task(self._stop.wait())
        ready = asyncio.create_task(readable.wait())
        try:
            await asyncio.wait([stopped, ready], return_when=asyncio.FIRST_COMPLETED)
            if not ready.done() or os.read(fd, 1) != b"1":
                return False
            self._serving.add(process)
            return True
        finally:
            loop.remove_reader(fd)
            os.close(fd)
            stopped.cancel()
            ready.cancel()

    async def _reap(self, index: int, process: asyncio.subprocess.Process) -> int:
        code = await process.wait()
        self._serving.discard(process)
        if code == EXIT_REPLACED:
            log = logger.bind(component="serve", worker=index)
            log.error("The file was replaced while the server runs, no worker starts from it: restart the server")
        if self._processes.get(index) is process:
            del self._processes[index]
        from prometheus_client import multiprocess  # slow to import, and not needed before a worker ends

        multiprocess.mark_process_dead(process.pid, self._metrics)  # type: ignore[no-untyped-call]
        return code

    async def _end(self, slots: list[asyncio.Task[None]]) -> None:
        """Stop every worker: SIGTERM, and SIGKILL after `stop_timeout`."""
        for slot in slots:
            slot.cancel()
        await asyncio.gather(*slots, return_exceptions=True)
        self._forward(signal.SIGTERM)
        waits = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if waits:
            await asyncio.wait(waits, timeout=self._settings.stop_timeout)
            self._forward(signal.SIGKILL)
            await asyncio.wait(waits)

    def _reload(self) -> None:
        """Let the workers that serve read their files again; one that starts reads them anyway."""
        notify.reloading()
        for process in self._serving:
            _signal(process, signal.SIGHUP)
        notify.notify("READY=1")

    def _forward(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            _signal(process, number)

    async def _stopped_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


def _exit_code(code: int) -> int:
    """Return a shell's exit code: 128 + n for a process ended by signal n, which cannot say so itself."""
    if code == EXIT_REPLACED:
        return 1
    if code >= 0:
        return code or 1
    logger.bind(component="serve", signal=-code).error("The first worker was killed before it was ready")
    return 128 - code
