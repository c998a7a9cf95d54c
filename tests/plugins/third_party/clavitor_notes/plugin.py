"""Notes on entries: a plugin that uses every way to add something."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, Field
from quart import Blueprint, Response

from clavitor_host.api import (
    AdminPage,
    AuditEvent,
    CapsChange,
    Change,
    HealthCheck,
    Host,
    Identity,
    Job,
    Metrics,
    Migrations,
    Plugin,
    Request,
    Resource,
    Transaction,
    Visit,
    endpoint,
    every,
    forbidden,
    hookimpl,
    invalid_field,
    page,
    problem,
)

metadata = sa.MetaData()
notes = sa.Table("notes", metadata, sa.Column("entry_id", sa.Text, primary_key=True), sa.Column("text", sa.Text))
seen = sa.Table(
    "notes_seen", metadata, sa.Column("rev", sa.BigInteger, primary_key=True), sa.Column("entry_id", sa.Text)
)


class Config(BaseModel):
    """`[plugins.notes]`"""

    longest: int = Field(10, description="Longest note, in characters.")


class Note(BaseModel):
    text: str


class NotesPlugin(Plugin):
    name = "notes"
    version = "0.1.0"
    clavitor_api = ">=1.0,<2"

    def __init__(self) -> None:
        self.ticked = asyncio.Event()
        self.stopped = False
        self.changed: list[Change] = []
        self.audited: list[AuditEvent] = []
        self.caps: list[CapsChange] = []

    @hookimpl
    def config_model(self) -> type[BaseModel]:
        return Config

    @hookimpl
    def migrations(self) -> Migrations:
        return Migrations(
            name="notes", package="clavitor_notes.migrations", revisions=("r1_notes",), tables=("notes", "notes_seen")
        )

    @hookimpl
    def metrics(self, registry: Metrics) -> None:
        self.written = registry.counter("clavitor_notes_written_total", "Notes written.")

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        routes = Blueprint("notes", __name__)

        @routes.put("/api/v1/notes/<entry_id>")
        @endpoint(action="entries.write", summary="Write a note", body=Note, tag="notes")
        async def write(request: Request, body: Note, entry_id: str) -> dict[str, Any]:
            config = request.host.plugin_config("notes")
            assert isinstance(config, Config)
            if len(body.text) > config.longest:
                raise problem(422, "note_too_long", f"text: expected at most {config.longest} characters.")
            async with request.host.db.transaction() as tx:
                await tx.insert_many(
                    notes, [{"entry_id": entry_id, "text": body.text}], upsert_on=("entry_id",), update=("text",)
                )
            self.written.inc()
            return {"entry_id": entry_id, "text": body.text}

        @routes.get("/api/v1/notes/<entry_id>")
        @endpoint(action="entries.read", summary="Read a note", tag="notes")
        async def read(request: Request, entry_id: str) -> dict[str, Any]:
            row = await request.host.db.fetch_one(sa.select(notes).where(notes.c.entry_id == entry_id))
            if row is None:
                raise problem(404, "no_note", "There is no note.")
            return dict(row)

        @routes.get("/admin/notes")
        @page(action="plugins.read", notices={"written": "The note was written."})
        async def show(visit: Visit) -> Response:
            rows = await visit.host.db.fetch_all(sa.select(notes).order_by(notes.c.entry_id))
            return visit.render("clavitor_notes:notes.html", notes=rows)

        @routes.post("/admin/notes")
        @page(action="plugins.read", again=show)
        async def write_on_page(visit: Visit) -> Response:
            text = (await visit.form()).get("text", "")
            if not text:
                raise invalid_field("text", "a note")
            async with visit.host.db.transaction() as tx:
                await tx.insert_many(
                    notes, [{"entry_id": "page", "text": text}], upsert_on=("entry_id",), update=("text",)
                )
            return visit.redirect("/admin/notes", done="written")

        return [routes]

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        async def tick() -> None:
            self.ticked.set()

        return [every(3600, tick, name="tick", first_after=0, exclusive=True)]

    @hookimpl
    def admin_pages(self, host: Host) -> Sequence[AdminPage]:
        return [AdminPage("Notes", "/admin/notes", "N")]

    @hookimpl
    def health_checks(self, host: Host) -> Sequence[HealthCheck]:
        async def check() -> str | None:
            return None

        return [HealthCheck("notes", check, critical=False)]

    @hookimpl
    async def authorize(self, identity: Identity, action: str, resource: Resource) -> None:
        if action == "entries.write" and resource.id == "sealed":
            raise forbidden("This entry is sealed.", code="sealed")

    @hookimpl
    async def entry_changing(self, tx: Transaction, change: Change) -> None:
        if change.entry_id == "vetoed":
            raise problem(422, "vetoed", "The notes plugin does not like it.")
        tx.defer(seen, {"rev": change.rev, "entry_id": change.entry_id})

    @hookimpl
    async def entry_changed(self, change: Change) -> None:
        self.changed.append(change)

    @hookimpl
    async def audit_recorded(self, event: AuditEvent) -> None:
        self.audited.append(event)

    @hookimpl
    async def caps_changed(self, change: CapsChange) -> None:
        self.caps.append(change)

    @hookimpl
    async def status_report(self, host: Host) -> Mapping[str, Any]:
        return {"notes": await host.db.fetch_val(sa.select(sa.func.count()).select_from(notes))}

    @hookimpl
    async def shutdown(self) -> None:
        self.stopped = True


plugin = NotesPlugin
