"""Typed values of outbound connections."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["webhook"]
DeliveryState = Literal["waiting", "delivered", "given_up", "dropped"]
DELIVERY_STATES: Final[tuple[DeliveryState, ...]] = ("waiting", "delivered", "given_up", "dropped")
"""`waiting` to be sent, `delivered`, `given_up` after a day of failures, `dropped` because too many waited."""


class Connection(NamedTuple):
    """An outbound connection without its secret. Times are µs since the epoch.

    `failing_since`: when the first of the failures in a row was, None while all is well. `next_attempt_at`: nothing
    is sent before. `last_error`: why the last attempt failed. `last_delivered_at`: when the last delivery was.
    """

    id: str
    name: str
    kind: str
    url: str
    enabled: bool
    created_at: int
    updated_at: int
    failing_since: int | None = None
    next_attempt_at: int | None = None
    last_error: str | None = None
    last_delivered_at: int | None = None


class Message(NamedTuple):
    """What is sent: `event` names what happened, `body` is compact JSON. `id` stays the same over all attempts."""

    id: str
    event: str
    body: bytes


class Delivery(NamedTuple):
    """A message and what became of it. `status`: the last HTTP status, `error`: why the last attempt failed."""

    id: str
    event: str
    state: str
    attempts: int
    status: int | None
    error: str | None
    created_at: int
    attempted_at: int | None
    settled_at: int | None
