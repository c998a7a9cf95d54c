"""What a telemetry store does: the default one keeps rows in the vault's own database, another in ClickHouse.

A row that is inserted has `ts` (µs since the epoch) and every column of its stream (`columns.COLUMNS`), None where a
client left it out; values of kind json are compact JSON text. All rows of an insert may name an `agent_id` of their own
instead of the origin's. A row that is found has these and also `id` (text, the
store's own: unique within a stream, and what orders rows of one `ts`), `environment_id`, `app_id` and `agent_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from clavitor_host.api import Problem, problem

Stream = Literal["executions", "processors", "route_diagrams", "agent_events", "logs", "metrics"]
STREAMS: Final[tuple[Stream, ...]] = (
    "executions",
    "processors",
    "route_diagrams",
    "agent_events",
    "logs",
    "metrics",
)


class Origin(NamedTuple):
    """Where rows come from."""

    environment_id: str
    app_id: str
    agent_id: str


class BatchKey(NamedTuple):
    """How an agent names a batch of rows, and the digest (hex) of the body that brought it."""

    name: str
    digest: str


SOUGHT: Final[Mapping[Stream, str]] = {
    "executions": "execution_id",
    "processors": "execution_id",
    "route_diagrams": "route",
    "agent_events": "type",
    "logs": "level",
    "metrics": "name",
}
"""The column of each stream whose exact value may be asked for."""


class Wanted(NamedTuple):
    """Which rows are asked for. since, until: µs since the epoch, `since` included. cursor: `(ts, id)` of the last row
    of the page before, of whatever form a client likes to send its id; newest first, by ts and then id. value: of the
    column in `SOUGHT`."""

    stream: Stream
    environment_id: str | None = None
    app_id: str | None = None
    agent_id: str | None = None
    since: int = 0
    until: int = 2**63 - 1
    cursor: tuple[int, str] | None = None
    limit: int = 100
    value: str | None = None


PAGE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of text after which a page ends, however many rows are wanted; it always holds one row at least."""


class Found(NamedTuple):
    """A page of rows, and the cursor of the next, None on the last."""

    rows: Sequence[Mapping[str, Any]]
    cursor: tuple[int, str] | None


def fitting(sizes: Sequence[int]) -> int:
    """Return how many rows of these sizes, in bytes, a page has room for."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if total > PAGE_BYTES and number:
            return number
    return len(sizes)


Aggregation = Literal["avg", "sum", "min", "max", "last", "count"]


class Measurement(NamedTuple):
    """What an alert rule asks about a window of time: an aggregate of the values of the metric `name`, or how many
    agent events of the type `name` there were. since, until: µs, `since` included. last: the newest row's value."""

    kind: Literal["metric", "event"]
    name: str
    environment_id: str | None
    app_id: str | None
    since: int
    until: int
    aggregation: Aggregation = "avg"


SHORTEST_DAYS: Final = 1
LONGEST_DAYS: Final = 3650
"""Within what retention is clamped: a store that was told 0 would delete everything."""


class RetentionDays(NamedTuple):
    """Effective days of one environment."""

    execution: int
    log: int
    metric: int

    def of(self, stream: Stream) -> int:
        """Return the days of a stream: all but logs and metrics follow the executions."""
        return self.log if stream == "logs" else self.metric if stream == "metrics" else self.execution

    def clamped(self) -> RetentionDays:
        """Return days that can be kept: from `SHORTEST_DAYS` to `LONGEST_DAYS`."""
        return RetentionDays(*(min(max(days, SHORTEST_DAYS), LONGEST_DAYS) for days in self))


Retention = Mapping[str, RetentionDays]
"""By environment. What is in no environment any more is kept for a day."""


class TelemetryStore(Protocol):
    """Keeps telemetry. Its errors are `StorageUnavailable`."""

    name: str

    async def start(self) -> None:
        """Prepare to be used."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def insert(
        self, stream: Stream, origin: Origin, rows: Sequence[Mapping[str, Any]], batch: BatchKey | None = None
    ) -> bool:
        """Keep rows, all or none; returns once they are durable, whether they had been kept before.

        A batch of that agent, stream and name that was kept within the last day is not kept again: a client that has
        not got its answer sends it once more. Raises `key_reused` for another body under the name.
        """

    async def find(self, wanted: Wanted) -> Found:
        """Return rows that are not expired, newest first. Raises a 400 for a cursor that cannot be."""

    async def measure(self, asked: Sequence[Measurement]) -> Sequence[float | None]:
        """Return one value for each, of rows that are not expired: None where there is nothing to aggregate, but 0
        for a count. There is no sum and no average either of values beyond `LARGEST_REAL`; no other measurement is hurt
        by them."""

    async def apply_retention(self, retention: Retention) -> None:
        """Keep rows for that long from now on. Does nothing when it is so already. Raises when it cannot be applied;
        then what was applied before stays."""

    async def expire(self) -> bool:
        """Delete a short batch of expired rows; return whether there may be more."""


def key_reused() -> Problem:
    """Return the 409 for another body under the name of a batch that is kept."""
    return problem(
        409,
        "idempotency_key_reused",
        "Another body was sent under this Idempotency-Key; nothing of this one is kept.",
        field="Idempotency-Key",
    )
