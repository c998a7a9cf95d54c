"""The JSON bodies of `/api/v1/apps`."""

from __future__ import annotations

from clavitor_fleet.schemas import Body, Id, Micros, Name, Result


class CreateApp(Body):
    environment_id: Id
    name: Name


class UpdateApp(Body):
    name: Name


class AppOut(Result):
    id: str
    environment_id: str
    name: Name
    created_at: Micros
    updated_at: Micros


class AppPage(Result):
    apps: list[AppOut]
    next_cursor: str | None
