"""The rows that agents send, by stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from clavitor_fleet.telemetry.columns import LARGEST_REAL
from clavitor_fleet.telemetry.store import Stream

MAX_NUMBER = 2**63 - 1

Time = Annotated[int, Field(ge=0, le=MAX_NUMBER, description="µs since the epoch")]
Word = Annotated[str, Field(min_length=1, max_length=256)]
Number = Annotated[float, Field(ge=-LARGEST_REAL, le=LARGEST_REAL, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0, le=LARGEST_REAL, allow_inf_nan=False, description="Milliseconds.")]
Attributes = Annotated[dict[str, Any], Field(description="At most 16 KiB.")]


class TelemetryRow(BaseModel):
    """Base of what agents send: unknown members are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    ts: Annotated[
        int | None,
        Field(ge=0, le=MAX_NUMBER, description="When, in µs since the epoch: at most a day ahead. Not given: now."),
    ] = None


class Execution(TelemetryRow):
    execution_id: Word
    route: Word | None = None
    status: Annotated[Word, Field(examples=["COMPLETED", "FAILED", "RUNNING"])]
    started_at: Time | None = None
    duration_ms: Duration | None = None
    error: Annotated[str, Field(max_length=65_536)] | None = None
    attributes: Attributes | None = None


class Processor(TelemetryRow):
    """A step of an execution."""

    execution_id: Word
    processor_id: Word
    type: Word | None = None
    position: Annotated[int, Field(ge=0, le=MAX_NUMBER)]
    duration_ms: Duration
    status: Word


class RouteDiagram(TelemetryRow):
    route: Word
    diagram: Annotated[str | dict[str, Any] | list[Any], Field(description="Text or JSON, at most 256 KiB.")]
    version: Word | None = None


class AgentEvent(TelemetryRow):
    type: Word
    message: Annotated[str, Field(max_length=65_536)] | None = None
    attributes: Attributes | None = None


class LogLine(TelemetryRow):
    level: Annotated[Word, Field(examples=["INFO"])]
    message: Annotated[str, Field(max_length=65_536)]
    logger: Word | None = None
    attributes: Attributes | None = None


class MetricValue(TelemetryRow):
    name: Annotated[Word, Field(examples=["jvm.heap.used"])]
    value: Number
    labels: Annotated[dict[str, str], Field(description="At most 16 KiB.")] | None = None


MODELS: Final[Mapping[Stream, type[TelemetryRow]]] = {
    "executions": Execution,
    "processors": Processor,
    "route_diagrams": RouteDiagram,
    "agent_events": AgentEvent,
    "logs": LogLine,
    "metrics": MetricValue,
}
LARGEST_JSON: Final[Mapping[str, int]] = {"diagram": 262_144, "attributes": 16_384, "labels": 16_384}
"""Bytes of the values that are kept as JSON text."""
