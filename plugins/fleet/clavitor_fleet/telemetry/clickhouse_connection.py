"""The connection to ClickHouse: opened when it is first needed, and again after an outage.

The server starts and serves without it. What needs it meanwhile is refused at once (503 with Retry-After), and once a
pause is over the next caller tries again.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from clavitor_fleet.telemetry.clickhouse_schema import create_tables
from clavitor_host.api import StartError, StorageUnavailable, log

if TYPE_CHECKING:
    from clavitor_fleet.telemetry.clickhouse_target import Target
    from clavitor_host.api import Clock

_T = TypeVar("_T")

Client = Any
"""A `clickhouse_connect` client."""

CONNECT_SECONDS: Final = 5
CALL_SECONDS: Final = 15
CHANGE_SECONDS: Final = 300
"""How long a change of a table's TTL may take."""
_PAUSES: Final = (1.0, 2.0, 5.0, 10.0)
"""Seconds after the first, second, … failure in a row."""
_GONE: Final = frozenset({60, 81})
"""Codes of ClickHouse: no such table, no such database."""


class Connection:
    """Clients of one ClickHouse. Its methods block: call them from threads. What goes wrong with ClickHouse is a
    `StorageUnavailable`; other errors of the work pass.

    prepare: what else is to be done with a new connection, whose tables are in place.
    """

    def __init__(self, target: Target, clock: Clock, prepare: Callable[[Client], None]) -> None:
        self._target = target
        self._clock = clock
        self._prepare = prepare
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why ClickHouse cannot be used now, None when it can, as far as is known."""
        return self._reason

    def load_library(self) -> None:
        """Raise StartError when the library is not installed."""
        try:
            import clickhouse_connect  # noqa: F401
        except ImportError:
            raise StartError(
                "plugins.fleet.telemetry_url: the library for ClickHouse is missing; install clavitor-fleet[clickhouse]"
            ) from None
        for name in ("clickhouse_connect", "urllib3.connectionpool"):  # what they warn of is raised as well
            logging.getLogger(name).setLevel(logging.ERROR)

    def call(self, work: Callable[[Client], _T]) -> _T:
        """Return what `work` makes of a client. It is called twice when the tables turn out to be gone."""
        try:
            result = work(self._opened())
        except Exception as error:  # noqa: BLE001 - whatever the library raises
            if getattr(error, "code", None) not in _GONE:
                self._raise(error)
            self.close()
            try:
                result = work(self._opened())
            except Exception as again:  # noqa: BLE001 - the same
                self._raise(again)
        self._worked()
        return result

    def change(self, work: Callable[[Client], _T]) -> _T:
        """Return what `work` makes of a client that waits longer for an answer."""
        self.call(lambda client: client.command("SELECT 1"))
        try:
            client = self._open(CHANGE_SECONDS)
            try:
                return work(client)
            finally:
                client.close()
        except Exception as error:  # noqa: BLE001 - whatever the library raises
            self._raise(error)

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> Client:
        """Return the client, opened and with its tables in place."""
        with self._lock:
            left = self._retry_at - self._clock.monotonic()
            if left > 0:
                raise self._unavailable(left)
            if self._client is None:
                self._client = self._prepared()
            return self._client

    def _prepared(self) -> Client:
        database = self._target.database
        first = self._open(CALL_SECONDS, database=None)
        try:
            if not first.command(f"EXISTS DATABASE {database}"):
                first.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        finally:
            first.close()
        client = self._open(CALL_SECONDS)
        try:
            for statement in create_tables():
                client.command(statement)
            self._prepare(client)
        except BaseException:
            client.close()
            raise
        return client

    def _open(self, seconds: int, database: str | None = "") -> Client:
        """Return a new client. seconds: how long it waits for an answer. database: the target's when empty."""
        from clickhouse_connect import get_client
        from clickhouse_connect.driver.httputil import get_pool_manager

        target = self._target
        named = target.database if database == "" else database
        if target.path is not None:
            return get_client(dsn=f"chdb://{target.path}", database=named)
        pool = get_pool_manager(ca_cert=target.ca_file)
        try:
            client = get_client(
                host=target.host,
                port=target.port,
                interface="https" if target.secure else "http",
                username=target.user,
                password=target.password,
                database=named,
                pool_mgr=pool,
                connect_timeout=CONNECT_SECONDS,
                send_receive_timeout=seconds,
                query_retries=0,
                autogenerate_session_id=False,
                headers={"User-Agent": "clavitor"},
            )
        except BaseException:
            pool.clear()
            raise
        return _Pooled(client, pool)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise an error as what it means: of ClickHouse, or of what it was given."""
        from clickhouse_connect.driver.exceptions import ClickHouseError, DataError
        from urllib3.exceptions import HTTPError

        given = isinstance(error, DataError) and error.code is None
        if given or not isinstance(error, ClickHouseError | HTTPError | OSError):
            raise error
        raise self._failed(error) from error

    def _failed(self, error: Exception) -> StorageUnavailable:
        """Note a failure, and return what to raise: after a refusal by a ClickHouse that answers, the next call may
        try at once; after silence, callers are spared a while."""
        code = getattr(error, "code", None)
        known = self._reason
        self._reason = reason = reason_of(error)
        if known != reason:
            detail = str(error).splitlines()[:1]
            password = self._target.password
            said = "".join(detail).replace(password, "***") if password else "".join(detail)
            log.warning("The telemetry store cannot be used", reason=reason, said=said[:300])
        pause = 1.0
        if code is None:
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            self._failures += 1
            self._retry_at = self._clock.monotonic() + pause
        return self._unavailable(pause)

    def _worked(self) -> None:
        if self._reason is not None:
            log.info("The telemetry store can be used again")
        self._reason = None
        self._failures = 0

    def _unavailable(self, seconds: float) -> StorageUnavailable:
        return StorageUnavailable(
            f"The telemetry store cannot be used: {self._reason}.",
            code="telemetry_unavailable",
            retry_after=max(1, math.ceil(seconds)),
        )


class _Pooled:
    """A client and the sockets that are its own."""

    def __init__(self, client: Client, pool: Any) -> None:
        self._client = client
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def close(self) -> None:
        self._client.close()
        self._pool.clear()


def reason_of(error: Exception) -> str:
    """Return why, in words that hold nothing of the connection or of the query."""
    code, name = getattr(error, "code", None), getattr(error, "name", None)
    if code is not None:
        return f"ClickHouse answered {name} ({code})" if name else f"ClickHouse answered with error {code}"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
            return "ClickHouse does not answer"
        seen = seen.__cause__ or seen.__context__
    return "ClickHouse cannot be reached"
