"""Telemetry on its way: rows wait until there are enough of them, or long enough, and are sent as batches.

A batch has a name; sent again with the same name it is not kept twice, so a batch is repeated until it is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from clavitor_host import strict_json
from clavitor_host.client.connection import Backoff
from clavitor_host.client.errors import Refused, ServerUnavailable
from clavitor_host.client.lines import log

BATCH = 1000
"""Rows that the server takes at once."""
MOST_WAITING = 20_000
"""Rows that wait; beyond it the oldest are dropped."""
PAUSE = 1.0
"""Seconds that rows wait for more."""

Send = Callable[[str, Sequence[Mapping[str, Any]], str], Awaitable[None]]
"""Sends the rows of a stream under the name of a batch. Raises `ServerUnavailable` and `Refused`."""


class _Batch(NamedTuple):
    stream: str
    rows: Sequence[Mapping[str, Any]]
    name: str


class Reports:
    """`dropped`: rows that found no room; `refused`: rows that cannot be sent, or that the server did not take, then
    `last_refusal` says why."""

    def __init__(self, send: Send) -> None:
        self.dropped = 0
        self.refused = 0
        self.last_refusal: Refused | None = None
        self._send = send
        self._waiting: dict[str, deque[Mapping[str, Any]]] = {}
        self._count = 0
        self._unsent: deque[_Batch] = deque()
        self._full = asyncio.Event()
        self._sending = asyncio.Lock()

    def add(self, stream: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Have rows sent soon. Raises `ValueError`, and takes none of them, when one cannot be sent as JSON."""
        wanted = list(rows)
        try:
            for row in wanted:
                strict_json.dumps(row)
        except (TypeError, ValueError, RecursionError) as error:
            self.refused += len(wanted)
            raise ValueError(f"{stream}: a row is not JSON: {error}") from error
        for row in wanted:
            if self._count >= MOST_WAITING:
                self._drop_oldest(stream)
            self._waiting.setdefault(stream, deque()).append(row)
            self._count += 1
        if self._count >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Send what comes, for ever."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(PAUSE):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            try:
                await self.flush()
                backoff.reset()
            except ServerUnavailable as error:
                await backoff.wait(error.retry_after)
            except Exception:  # noqa: BLE001 - sending outlives every error
                log.exception("Telemetry could not be sent; it is tried again")
                await backoff.wait()

    async def flush(self) -> None:
        """Send everything that waits. Raises `ServerUnavailable`: then it waits on."""
        async with self._sending:
            while batch := self._next():
                try:
                    await self._send(*batch)
                except Refused as error:
                    if error.status == 413 and len(batch.rows) > 1:
                        self._halve(batch)
                        continue
                    self.refused += len(batch.rows)
                    self.last_refusal = error
                except (TypeError, ValueError, RecursionError):
                    log.exception("Telemetry that was changed after it was reported cannot be sent")
                    self.refused += len(batch.rows)
                self._unsent.popleft()

    def _next(self) -> _Batch | None:
        if not self._unsent:
            for stream, rows in self._waiting.items():
                if rows:
                    taken = [rows.popleft() for _ in range(min(BATCH, len(rows)))]
                    self._count -= len(taken)
                    self._unsent.append(_Batch(stream, taken, uuid4().hex))
                    break
        return self._unsent[0] if self._unsent else None

    def _halve(self, batch: _Batch) -> None:
        """Have a batch of too many bytes sent as two."""
        middle = len(batch.rows) // 2
        self._unsent.popleft()
        for rows in (batch.rows[middle:], batch.rows[:middle]):
            self._unsent.appendleft(_Batch(batch.stream, rows, uuid4().hex))

    def _drop_oldest(self, stream: str) -> None:
        rows = self._waiting.get(stream) or max(self._waiting.values(), key=len)
        rows.popleft()
        self._count -= 1
        self.dropped += 1
