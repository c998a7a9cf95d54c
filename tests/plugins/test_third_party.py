"""A plugin that knows only `clavitor_host.api` adds to the server without the host being touched."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.errors import ConfigError
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import CapsChange, FrozenPlugin
from clavitor_host.testing import Harness, running_app, settings
from tests.web.visitor import PASSWORD, Visitor

BLOB = base64.b64encode(b"sealed by the client").decode()
FOLDER = Path(__file__).parent / "third_party"


@pytest.fixture
def with_notes(bundle: BundleInfo, monkeypatch: pytest.MonkeyPatch) -> BundleInfo:
    monkeypatch.syspath_prepend(str(FOLDER))
    from clavitor_broken.plugin import BrokenPlugin
    from clavitor_notes.plugin import NotesPlugin

    added = (FrozenPlugin("clavitor-notes", NotesPlugin), FrozenPlugin("clavitor-broken", BrokenPlugin, optional=True))
    return replace(bundle, plugins=(*bundle.plugins, *added))


@pytest.fixture
async def running(database_url: str, tmp_path: Path, with_notes: BundleInfo) -> AsyncIterator[Harness]:
    environ = {"CLAVITOR_DATABASE_URL": database_url, "CLAVITOR_NOTES_LONGEST": "5"}
    async with running_app(settings(tmp_path / "data", with_notes, environ), with_notes) as harness:
        yield harness


def notes_of(harness: Harness) -> Any:
    record = harness.host.registry.get("notes")
    assert record is not None
    return record.plugin


async def test_its_routes_use_its_tables_config_and_metrics(running: Harness) -> None:
    writer = await running.client_for("OPERATOR")
    assert (await writer.put("/api/v1/notes/a", json={"text": "short"})).json() == {"entry_id": "a", "text": "short"}
    assert (await writer.get("/api/v1/notes/a")).json()["text"] == "short"
    assert (await writer.put("/api/v1/notes/a", json={"text": "longer"})).status_code == 422
    assert (await writer.put("/api/v1/notes/a", json={"text": 7})).json()["field"] == "text"
    client = await running.client()
    assert (await client.get("/api/v1/notes/a")).status_code == 401
    metrics = (await client.get("/api/v1/prometheus")).text
    assert "clavitor_notes_written_total 1.0" in metrics
    document = (await client.get("/api/v1/openapi.json")).json()
    assert "put" in document["paths"]["/api/v1/notes/{entry_id}"]


async def test_its_admin_page_is_a_page_like_the_hosts(running: Harness) -> None:
    await create_user(running.host, name="ada", role=Role.ADMIN, password=PASSWORD, requested_by=SYSTEM)
    ada = Visitor(running)
    await ada.open("/admin/notes")
    assert ada.at == "/login?next=%2Fadmin%2Fnotes"
    await ada.log_in("ada")
    page = await ada.open("/admin/notes")
    assert "/admin/notes" in page.links
    page = await ada.submit("/admin/notes", text="")
    assert (ada.response.status_code, "Text: expected a note." in page.text) == (400, True)
    page = await ada.submit("/admin/notes", text="<b>bold</b>")
    assert (ada.at, "The note was written." in page.text) == ("/admin/notes?done=written", True)
    assert "&lt;b&gt;bold" in ada.response.text
    assert (await ada.client.post("/admin/notes", data={"text": "forged"})).status_code == 403
    await ada.client.aclose()


async def test_its_job_ran(running: Harness) -> None:
    await asyncio.wait_for(notes_of(running).ticked.wait(), 10)


async def test_its_policy_refuses_on_the_hot_path(running: Harness) -> None:
    writer = await running.client_for("OPERATOR")
    reply = await writer.put("/api/entries/sealed", json={"encrypted_data": BLOB})
    assert (reply.status_code, reply.json()["code"]) == (403, "sealed")


async def test_it_takes_part_in_the_writes_transaction(running: Harness) -> None:
    writer = await running.client_for("OPERATOR")
    tasks = [
        writer.put(f"/api/entries/{'vetoed' if n == 7 else f'e{n}'}", json={"encrypted_data": BLOB}) for n in range(20)
    ]
    replies = await asyncio.gather(*tasks)
    assert [reply.status_code for reply in replies] == [422 if n == 7 else 201 for n in range(20)]
    written = sorted(reply.json()["rev"] for n, reply in enumerate(replies) if n != 7)
    rows = await running.host.db.fetch_all("SELECT rev FROM notes_seen ORDER BY rev")
    assert [row["rev"] for row in rows] == written
    assert {change.rev for change in notes_of(running).changed} == set(written)
    stored = await running.host.db.fetch_val(sa.text("SELECT count(*) FROM entries WHERE entry_id = 'vetoed'"))
    assert stored == 0


async def test_it_hears_of_audit_rows_and_of_caps_after_the_fact(running: Harness) -> None:
    writer = await running.client_for("OPERATOR")
    await writer.put("/api/entries/one", json={"encrypted_data": BLOB})
    heard = notes_of(running).audited
    assert [event.action for event in heard][-1] == "create_entry"
    rows = await running.host.db.fetch_all("SELECT id, hash FROM audit_log ORDER BY id")
    assert [(event.id, event.hash) for event in heard] == [(row["id"], row["hash"]) for row in rows]
    change = CapsChange("installed", "ACTIVE", {"max_users": 3})
    await running.host.hooks.broadcast("caps_changed", host=running.host, change=change)
    assert notes_of(running).caps == [change]


async def test_it_shows_where_operators_look(running: Harness) -> None:
    admin = await running.client_for("ADMIN")
    plugins = {item["name"]: item for item in (await admin.get("/api/v1/admin/plugins")).json()["plugins"]}
    assert plugins["notes"]["state"] == "active"
    assert "entry_changing" in [hook["name"] for hook in plugins["notes"]["hooks"]]
    assert (await admin.get("/api/v1/status")).json()["plugins"]["notes"] == {"notes": 0}
    assert (await admin.get("/readyz")).json()["checks"]["notes"] == "ok"
    assert "/admin/notes" in [page.path for page in running.host.admin_pages]


async def test_a_broken_optional_plugin_is_quarantined_and_the_server_serves(running: Harness) -> None:
    admin = await running.client_for("ADMIN")
    plugins = {item["name"]: item for item in (await admin.get("/api/v1/admin/plugins")).json()["plugins"]}
    assert plugins["broken"]["state"] == "quarantined"
    assert "no luck today" in plugins["broken"]["last_error"]
    reply = await admin.get("/api/v1/broken")
    assert (reply.status_code, reply.json()["code"]) == (503, "plugin_quarantined")
    assert (await admin.get("/readyz")).status_code == 200
    assert (
        'clavitor_plugin_state{plugin="broken",state="quarantined"} 1.0'
        in (await (await running.client()).get("/api/v1/prometheus")).text
    )


async def test_it_is_shut_down(database_url: str, tmp_path: Path, with_notes: BundleInfo) -> None:
    config = settings(tmp_path / "data", with_notes, {"CLAVITOR_DATABASE_URL": database_url})
    async with running_app(config, with_notes) as harness:
        plugin = notes_of(harness)
        assert not plugin.stopped
    assert plugin.stopped


async def test_a_required_broken_plugin_stops_the_start(tmp_path: Path, with_notes: BundleInfo) -> None:
    *others, broken = with_notes.plugins
    required = replace(with_notes, plugins=(*others, replace(broken, optional=False)))
    with pytest.raises(Exception, match=r"plugin broken: startup failed: .*no luck today"):
        async with running_app(settings(tmp_path / "data", required), required):
            pass


def test_an_unknown_key_of_its_table_is_an_error(tmp_path: Path, with_notes: BundleInfo) -> None:
    (tmp_path / "clavitor.toml").write_text("[plugins.notes]\nlongst = 3\n")
    with pytest.raises(ConfigError, match="longest"):
        settings(tmp_path, with_notes)


def test_it_imports_nothing_but_the_api() -> None:
    for file in FOLDER.rglob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("from clavitor_host", "import clavitor_host")):
                assert line.startswith("from clavitor_host.api import"), (file, line)
