"""The JSON body of `/api/v1/admin/retention`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clavitor_fleet.schemas import Micros, Result


class DaysOut(Result):
    configured: int
    cap: Annotated[int | None, Field(description="Null: there is no cap.")]
    effective: Annotated[int, Field(description="What is to hold: the lesser of the two, 1 to 3650.")]
    applied: Annotated[int | None, Field(description="What holds now; null: not applied yet.")]


class EnvironmentRetention(Result):
    environment_id: str
    name: str
    applied_at: Annotated[Micros | None, Field(description="Since when what is applied holds, in µs since the epoch.")]
    execution: Annotated[DaysOut, Field(description="Of executions, processors, route diagrams and agent events.")]
    log: DaysOut
    metric: DaysOut


class RetentionOut(Result):
    environments: list[EnvironmentRetention]
    error: Annotated[str | None, Field(description="Why what is to hold could not be applied; null: it was.")]
    failed_at: Micros | None
