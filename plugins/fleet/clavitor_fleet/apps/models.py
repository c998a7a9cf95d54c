"""Typed values of apps."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class App(NamedTuple):
    """An app. Times are µs since the epoch."""

    id: str
    environment_id: str
    name: str
    created_at: int
    updated_at: int


class Placed(NamedTuple, Generic[_T]):
    """A thing of an app, and the environment that the app is in."""

    thing: _T
    environment_id: str
