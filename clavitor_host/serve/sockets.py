"""Listening sockets: bound from an address, inherited from our supervisor, or handed over by systemd."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clavitor_host.errors import ConfigError, StartError

SYSTEMD_FIRST_FD = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""


@contextmanager
def listening(binds: Sequence[str], *, backlog: int = 1024, unix_mode: int = 0o660) -> Iterator[list[socket.socket]]:
    """Open listening sockets; at the end close them and remove the unix socket files that are still ours.

    `binds`: `host:port`, `[v6]:port` or `unix:PATH`; port 0 takes a free one. `unix_mode`: permissions of socket
    files. Raises `ConfigError` for an address that cannot be read, `StartError` for one that cannot be taken.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for bind in binds:
            for sock in _open(bind, backlog, unix_mode):
                sockets.append(stack.enter_context(sock))
                if sock.family == socket.AF_UNIX:
                    stack.callback(_remove_if_ours, Path(bind.removeprefix("unix:")), _identity(bind))
        yield sockets


def describe(sock: socket.socket, *, tls: bool = False) -> str:
    """Return a socket's address as a person types it: `http://127.0.0.1:8400`, `unix:/run/clavitor.sock`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"


def from_systemd(environ: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """Return the sockets of systemd's socket activation, taking its variables out of `environ`; [] without it."""
    variables = os.environ if environ is None else environ
    pid, count = variables.get("LISTEN_PID", ""), variables.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        variables.pop(name, None)
    return [_adopt(fd, "systemd") for fd in range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + int(count))]


def from_fds(fds: Sequence[int]) -> list[socket.socket]:
    """Return the listening sockets behind inherited file descriptors."""
    return [_adopt(fd, "the supervisor") for fd in fds]


def _adopt(fd: int, giver: str) -> socket.socket:
    refusal = StartError(f"File descriptor {fd} from {giver} is not a listening stream socket.")
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        raise refusal from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise refusal
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _open(bind: str, backlog: int, unix_mode: int) -> list[socket.socket]:
    if bind.startswith("unix:"):
        return [_open_unix(bind, backlog, unix_mode)]
    host, port = parse_address(bind)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise StartError(f"{bind}: the host name cannot be resolved.") from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if port == 0 and sockets:
            break  # each would get another free port
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(backlog)
        except OSError as error:
            for opened in (sock, *sockets):
                opened.close()
            raise StartError(_refusal(bind, error)) from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def parse_address(bind: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`. Raises `ConfigError`."""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed or not port.isdecimal() or not port.isascii():
        raise ConfigError(f"bind: {bind!r} is not an address; expected host:port, [IPv6]:port or unix:PATH.")
    if int(port) > 65_535:
        raise ConfigError(f"bind: {bind!r} has a port above 65535.")
    return host, int(port)


def _refusal(bind: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{bind} is already in use; stop the other server or choose another address with --bind."
    if error.errno == errno.EACCES:
        return f"{bind} may not be used by this user; ports below 1024 need a privilege."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{bind} is not an address of this machine."
    return f"{bind} cannot be bound: {error.strerror or error}."


def _open_unix(bind: str, backlog: int, mode: int) -> socket.socket:
    path = Path(bind.removeprefix("unix:"))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # two servers starting at once must not both take a stale file
            _remove_if_stale(bind, path)
            umask = os.umask(0o777 & ~mode)
            try:
                sock.bind(str(path))
            finally:
                os.umask(umask)
            sock.listen(backlog)
        finally:
            os.close(folder)
    except StartError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise StartError(f"{bind} cannot be bound: {error.strerror or error}.") from None
    sock.setblocking(False)
    return sock


def _remove_if_stale(bind: str, path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{bind} exists and is not a socket; remove it or choose another path.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # somebody listens and is busy, or we may not ask: in use
    raise StartError(f"{bind} is already in use; stop the other server or choose another path with --bind.")


def _identity(bind: str) -> tuple[int, int]:
    status = Path(bind.removeprefix("unix:")).stat()
    return status.st_dev, status.st_ino


def _remove_if_ours(path: Path, identity: tuple[int, int]) -> None:
    try:
        status = path.stat()
        if (status.st_dev, status.st_ino) == identity:
            path.unlink()
    except OSError:
        pass
