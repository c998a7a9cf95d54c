"""The JSON bodies of `/api/v1/outbound-connections`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clavitor_fleet.connections.models import DeliveryState, Kind
from clavitor_fleet.schemas import Body, Micros, Name, Result

Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="http or https; a public address, or one in a network that the operator allows.",
        examples=["https://hooks.example.com/clavitor"],
    ),
]
Secret = Annotated[
    str,
    Field(
        min_length=16,
        max_length=256,
        pattern=r"^[!-~]+$",
        description="The key of the signatures: visible ASCII characters. It is never shown again.",
    ),
]


class CreateConnection(Body):
    name: Name
    kind: Kind = "webhook"
    url: Url
    secret: Annotated[Secret | None, Field(description="Not given: the server makes one and answers it, once.")] = None
    enabled: bool = True


class UpdateConnection(Body):
    """What is null or not given stays."""

    name: Name | None = None
    url: Url | None = None
    secret: Secret | None = None
    enabled: bool | None = None


class ConnectionOut(Result):
    id: str
    name: Name
    kind: Kind
    url: Annotated[str, Field(description="Who may not change it sees no more than `https://host/…`.")]
    enabled: bool
    created_at: Micros
    updated_at: Micros
    failing_since: Annotated[int | None, Field(description="µs since the epoch; null while all is well")]
    next_attempt_at: Annotated[int | None, Field(description="µs since the epoch; nothing is sent before")]
    last_error: Annotated[str | None, Field(description="Why the last attempt failed.")]
    last_delivered_at: Annotated[int | None, Field(description="When the last delivery was, µs since the epoch")]


class CreatedConnection(ConnectionOut):
    secret: Annotated[str | None, Field(description="The secret that the server has made; null when one was given.")]


class ConnectionPage(Result):
    outbound_connections: list[ConnectionOut]
    next_cursor: str | None


class TrialResult(Result):
    """What came of a test event; nothing of the receiver's body is ever shown."""

    delivered: bool
    status: Annotated[int | None, Field(description="The HTTP status of the answer; null when there was none.")]
    duration_ms: int
    reason: Annotated[str | None, Field(description="Why it was not delivered.")]


class DeliveryOut(Result):
    id: Annotated[str, Field(description="`X-Clavitor-Delivery` of every attempt.")]
    event: str
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    created_at: Micros
    attempted_at: int | None
    settled_at: int | None


class DeliveryPage(Result):
    deliveries: list[DeliveryOut]
    next_cursor: str | None
