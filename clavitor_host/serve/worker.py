"""The worker's side of the supervisor: what it inherits, and how it ends when the supervisor is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

from clavitor_host.serve.sockets import from_fds

PREFIX = "CLAVITOR_INTERNAL_"
INDEX = PREFIX + "WORKER"
SOCKETS = PREFIX + "SOCKETS"
READY_FD = PREFIX + "READY_FD"
SUPERVISOR_FD = PREFIX + "SUPERVISOR_FD"
BUNDLE = PREFIX + "BUNDLE"
BOOT_ID = PREFIX + "BOOT_ID"

EXIT_REPLACED = 79
"""Of a worker that is another program than its supervisor: the supervisor says so."""


@dataclass(frozen=True, slots=True)
class Worker:
    """This process as one of several workers. `index` counts from 0; a replacement keeps its predecessor's.

    `boot_id` names the start of the server: the same for all its workers and their replacements.
    """

    index: int
    sockets: list[socket.socket]
    _ready_fd: int
    boot_id: str

    def ready(self) -> None:
        """Tell the supervisor that this worker accepts connections."""
        try:
            os.write(self._ready_fd, b"1")
            os.close(self._ready_fd)
        except OSError:
            pass  # the supervisor has gone; the other pipe ends this process


def as_worker(environ: MutableMapping[str, str] | None = None, *, bundle: str = "") -> Worker | None:
    """Return what the supervisor handed to this process, None when it is not a worker.

    bundle: what tells this program from others; a worker that is another than its supervisor ends here, before it
    touches anything.

    Takes the `CLAVITOR_INTERNAL_` variables out of `environ`, so call it before the configuration is read, and
    begins to watch the supervisor: when that dies, this process gets SIGTERM, and SIGKILL when it does not go.
    """
    variables = os.environ if environ is None else environ
    values = {name: variables.pop(name) for name in list(variables) if name.startswith(PREFIX)}
    if INDEX not in values:
        return None
    if values.get(BUNDLE, "") != bundle:
        raise SystemExit(EXIT_REPLACED)
    ready_fd, supervisor_fd = int(values[READY_FD]), int(values[SUPERVISOR_FD])
    for fd in (ready_fd, supervisor_fd):
        os.set_inheritable(fd, False)
    threading.Thread(target=_follow, args=(supervisor_fd,), name="supervisor", daemon=True).start()
    sockets = from_fds([int(fd) for fd in values[SOCKETS].split(",") if fd])
    return Worker(int(values[INDEX]), sockets, ready_fd, values[BOOT_ID])


def _follow(fd: int, patience: float = 12.0) -> None:
    """Wait for the supervisor's end of the pipe to close. A thread: it works before and beside the event loop."""
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os.kill(os.getpid(), signal.SIGKILL)
