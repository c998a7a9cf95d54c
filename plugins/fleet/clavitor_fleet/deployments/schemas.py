"""The JSON bodies of `/api/v1/deployments`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from clavitor_fleet.deployments.models import Status
from clavitor_fleet.schemas import Body, Id, Micros, Result

Replicas = Annotated[int, Field(ge=1, le=10_000)]
CpuMillis = Annotated[int, Field(ge=1, le=1_000_000, description="Thousandths of a processor, of each replica.")]
MemoryMb = Annotated[int, Field(ge=1, le=16_777_216, description="Megabytes of memory, of each replica.")]


class CreateDeployment(Body):
    app_id: Id
    artifact_id: Annotated[Id | None, Field(description="What it runs: an artifact of the app.")] = None
    replicas: Replicas
    cpu_millis: Annotated[CpuMillis | None, Field(description="Not given: the deployment fails.")] = None
    memory_mb: Annotated[MemoryMb | None, Field(description="Not given: the deployment fails.")] = None


class ChangeDeployment(Body):
    """What is null or not given stays."""

    artifact_id: Annotated[Id | None, Field(description="What it runs from now on: an artifact of the app.")] = None
    replicas: Replicas | None = None
    cpu_millis: CpuMillis | None = None
    memory_mb: MemoryMb | None = None


class DeploymentOut(Result):
    id: str
    app_id: str
    environment_id: str
    artifact_id: str | None
    replicas: int
    ready_replicas: Annotated[int, Field(description="How many of its agents are LIVE now.")]
    cpu_millis: int | None
    memory_mb: int | None
    status: Status
    failure: Annotated[
        dict[str, Any] | None,
        Field(
            description="Why it FAILED: `error`, `message`; of a cap also `limit`, `current`, `cap`, `state`; of "
            "compute that is not set also `fields`."
        ),
    ]
    runtime: Annotated[dict[str, Any] | None, Field(description="What the plugin that runs it tells.")]
    created_at: Micros
    created_by: str
    updated_at: Micros
    running_at: Micros | None
    ended_at: Micros | None


class DeploymentPage(Result):
    deployments: list[DeploymentOut]
    next_cursor: str | None
