"""Several servers that stand in for each other: a primary, and backups that answer reads while it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from clavitor_host.client.connection import Answer, Connection
from clavitor_host.client.errors import (
    Behind,
    ClientError,
    OutcomeUnknown,
    ReadOnly,
    Refused,
    ServerUnavailable,
    Unauthorized,
    Unreachable,
    Unreadable,
)
from clavitor_host.client.lines import Outage
from clavitor_host.client.values import Origin

FIRST_REST = 2.0
LONGEST_REST = 60.0
"""Seconds for which a server that did not answer is asked last: the first time, and at most."""
_DOWN = frozenset({0, 502, 503, 504})
"""Statuses of a server that others should stand in for; 0: no answer."""
_UNDONE = frozenset({408, 425, 429})
"""Statuses that say that nothing was done."""

T = TypeVar("T")
Parse = Callable[[Any, Origin], T]
"""Reads the JSON of an answer. Raises `KeyError`, `TypeError` or `ValueError` for what cannot be read."""


class Server:
    """One of them, and how long it is left alone."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url.rstrip("/")
        self.connection = Connection(url, **options)
        self._rest = 0.0
        self._until = 0.0
        self._outage = Outage(f"No answer from {self.url}, others are asked: %s", f"{self.url} answers again")

    def failed(self, error: Exception) -> None:
        """It did not answer: have it asked last for a while, longer each time."""
        asked = getattr(error, "retry_after", None) or 0.0
        self._rest = min(max(FIRST_REST, self._rest * 2, asked), LONGEST_REST)
        self._until = monotonic() + self._rest
        self._outage.begin(error)

    def answered(self) -> None:
        """It is there."""
        self._rest = 0.0
        self._outage.end()

    def rests(self) -> bool:
        """Whether it is to be asked last. Whoever hears that its rest is over asks it; the others wait for that."""
        if not self._rest:
            return False
        now = monotonic()
        if now < self._until:
            return True
        self._until = now + self._rest
        return False


class Servers:
    """As a context it holds connections to all. urls: the one that takes writes first, as far as that is known."""

    def __init__(self, urls: str | Sequence[str], options: Mapping[str, Any]) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise ValueError("give the URL of a server")
        self.all = [Server(url, options) for url in given]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._stack:
            for server in self.all:
                await self._stack.enter_async_context(server.connection)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def read(self, parse: Parse[T], path: str, **request: Any) -> T:
        """Return what the first server that answers a GET says.

        Raises `Refused` as that one says, with its `origin`; `Behind` when it has not got what `X-Min-Rev` asks for and
        no other has; `ServerUnavailable` when none answers.
        """
        failures: list[tuple[Server, ClientError]] = []
        for server in self._in_order():
            try:
                told = await server.connection.exchange("GET", path, **request)
                value = _value(server, told)
                with _readable():
                    found = parse(value, Origin.of(server.url, told.headers))
            except Behind as error:
                server.answered()
                failures.append((server, error))
            except Unauthorized as error:
                if server is self.all[0]:
                    raise
                server.answered()  # a stand-in may not have heard of the token yet
                failures.append((server, error))
            except ServerUnavailable as error:
                if error.status in _UNDONE:
                    raise
                if error.status in _DOWN:
                    server.failed(error)
                failures.append((server, error))
            except Unreadable as error:
                server.failed(error)
                failures.append((server, error))
            else:
                server.answered()
                return found
        _give_up(failures)

    async def write(self, method: str, parse: Callable[[Answer], T], path: str, **request: Any) -> T:
        """Have the server that takes writes do one, and return what `parse` makes of its answer; it is asked first the
        next time.

        Another is asked only when the one before has certainly not done it: it was not reached at all, or refuses as
        read-only. Nothing is ever sent twice after a failure that leaves that open, be it idempotent or not.

        Raises `Refused`; `ReadOnly` when those that are reached are read-only; `OutcomeUnknown` when a server may have
        done it; `ServerUnavailable` when none has.
        """
        failures: list[tuple[Server, ClientError]] = []
        waiting = self._in_order()
        while waiting:
            server = waiting.pop(0)
            try:
                told = await server.connection.exchange(method, path, **request)
                with _readable():
                    done = parse(told)
            except ReadOnly as error:
                server.answered()
                failures.append((server, error))
                waiting = _first(error.primary_location, waiting)
            except Unauthorized as error:
                if server is self.all[0]:
                    raise
                server.answered()  # a stand-in may not have heard of the token yet
                failures.append((server, error))
            except (ServerUnavailable, Unreadable) as error:
                if isinstance(error, Unreadable) or error.status in _DOWN:
                    server.failed(error)
                if isinstance(error, Unreadable) or _leaves_open(error):
                    detail = f"{server.url}: {error} Whether it was written is not known: read before writing again."
                    raise OutcomeUnknown(detail) from error
                if not isinstance(error, Unreachable):
                    raise
                failures.append((server, error))
            else:
                server.answered()
                self._prefer(server)
                return done
        _give_up(failures)

    def _in_order(self) -> list[Server]:
        return sorted(self.all, key=Server.rests)

    def _prefer(self, server: Server) -> None:
        if self.all[0] is not server:
            self.all.sort(key=lambda other: other is not server)


def _value(server: Server, told: Answer) -> Any:
    """Return the JSON of an answer to a read. A refusal tells whose it is."""
    try:
        return told.value()
    except Refused as error:
        with suppress(ValueError):
            error.origin = Origin.of(server.url, told.headers)
        raise


@contextmanager
def _readable() -> Iterator[None]:
    """Raise `Unreadable` for an answer of another shape."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"The server's answer cannot be read: {type(error).__name__}: {error}.") from error


def _leaves_open(error: ServerUnavailable) -> bool:
    """Whether the server may have done the write nevertheless."""
    if isinstance(error, Unreachable):
        return error.sent
    if error.status == 503:  # without a code it is of something in between, which may have lost the answer
        return error.code in ("", "storage_outcome_unknown")
    return error.status not in _UNDONE


def _give_up(failures: Sequence[tuple[Server, ClientError]]) -> NoReturn:
    """Raise what says most of why no server did it."""
    errors = [error for _, error in failures]
    detail = "; ".join(f"{server.url}: {error}" for server, error in failures)
    for error in errors:
        if isinstance(error, Behind):
            raise Behind(detail) from error
    for error in errors:
        if isinstance(error, ReadOnly):
            location = error.primary_location
            where = "" if location is None else f"; the primary is at {location}"
            raise ReadOnly(f"{detail}{where}", primary_location=location) from error
    pauses = [error.retry_after for error in errors if isinstance(error, ServerUnavailable) and error.retry_after]
    raise ServerUnavailable(detail, retry_after=min(pauses, default=None)) from errors[0]


def _first(url: str | None, servers: Sequence[Server]) -> list[Server]:
    """Return the servers with the one at `url` first, if it is one of them."""
    return sorted(servers, key=lambda server: url is None or _key(server.url) != _key(url))


def _key(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", url, None, "")
    return (parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))
