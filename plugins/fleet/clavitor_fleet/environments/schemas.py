"""The JSON bodies of `/api/v1/environments`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clavitor_fleet.environments.models import USUAL_JARS
from clavitor_fleet.schemas import Body, ExternalId, Micros, Name, Result

MAX_DAYS = 3650
MAX_COUNT = 10_000
Days = Annotated[int, Field(ge=1, le=MAX_DAYS, description="Days; at most what the license allows (else 422).")]
Count = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_COUNT,
        description="How many artifacts of an app are kept; at most what the license allows (else 422).",
    ),
]


class CreateEnvironment(Body):
    id: Annotated[
        ExternalId | None,
        Field(description="What entries name as `environment_id`; not given: the server makes one."),
    ] = None
    name: Name
    execution_retention_days: Days = 1
    log_retention_days: Days = 1
    metric_retention_days: Days = 1
    jar_retention_count: Annotated[
        Count | None, Field(description=f"Not given: {USUAL_JARS}, or what the license allows where that is less.")
    ] = None


class UpdateEnvironment(Body):
    """What is null or not given stays."""

    name: Name | None = None
    execution_retention_days: Days | None = None
    log_retention_days: Days | None = None
    metric_retention_days: Days | None = None
    jar_retention_count: Count | None = None


class JarRetention(Body):
    jar_retention_count: Count


class EnvironmentOut(Result):
    id: str
    name: Name
    execution_retention_days: int
    log_retention_days: int
    metric_retention_days: int
    jar_retention_count: int
    created_at: Micros
    updated_at: Micros


class EnvironmentPage(Result):
    environments: list[EnvironmentOut]
    next_cursor: str | None
