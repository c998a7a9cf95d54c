"""`/admin`, `/admin/audit`, `/admin/plugins`, `/api/docs` and the static files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from clavitor_host.api import HealthCheck, Plugin, hookimpl
from clavitor_host.audit.models import AuditEntry
from clavitor_host.audit.tables import audit_log
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.testing import Harness, running_app, settings
from clavitor_host.web.pages.assets import assets
from clavitor_host.web.pages.render import duration, seconds
from tests.web.visitor import PASSWORD, Visitor

LogIn = Callable[..., Awaitable[Visitor]]


async def test_the_overview_tells_how_the_server_is(harness: Harness, ada: Visitor) -> None:
    async def fine() -> None:
        return None

    async def late() -> str:
        return "3 minutes behind"

    async def broken() -> str:
        raise RuntimeError("no")

    checks = harness.host.health_checks
    more = [HealthCheck("lag", late, critical=False), HealthCheck("disk", broken), HealthCheck("peer", fine)]
    harness.host.health_checks = [*checks, *more]
    writer = await harness.client_for("OPERATOR")
    await writer.put("/api/entries/a", json={"encrypted_data": "AAAA"})
    page = await ada.open("/admin")
    assert "1 entry 1 latest rev" in page.text
    assert f"Version {harness.host.version} Edition Community Database SQLite" in page.text
    head = await harness.host.db.fetch_val(sa.text("select hash from audit_head"))
    assert head in page.text
    assert "ok database" in page.text
    assert "degraded lag 3 minutes behind" in page.text
    assert "failing disk failed; the log says why" in page.text
    assert "ok peer" in page.text


class Quota(Plugin):
    name = "quota"
    version = "2.5"

    @hookimpl
    async def status_report(self) -> dict[str, object]:
        return {"users_left": 3, "state": "<active>", "limits": {"max_users": 5}}


class Broken(Plugin):
    name = "broken"
    version = "0.1"

    @hookimpl
    async def startup(self) -> None:
        raise RuntimeError("cannot reach the <far> side")

    @hookimpl
    async def status_report(self) -> dict[str, object]:
        return {}


async def test_plugins_report_and_their_state_shows(
    tmp_path: Path, bundle: BundleInfo, visitors: Callable[[Harness], Visitor]
) -> None:
    added = FrozenPlugin("clavitor-quota", Quota), FrozenPlugin("clavitor-broken", Broken, optional=True)
    more = replace(bundle, plugins=(*bundle.plugins, *added))
    async with running_app(settings(tmp_path / "data", more, {}), more) as harness:
        await create_user(harness.host, name="ada", role=Role.ADMIN, password=PASSWORD, requested_by=SYSTEM)
        ada = visitors(harness)
        page = await ada.log_in("ada")
        assert 'Users left 3 State <active> Limits {"max_users": 5}' in page.text
        page = await ada.open("/admin/plugins")
        assert "quota clavitor-quota 2.5 active" in page.text
        assert "cannot reach the <far> side quarantined optional" in page.text
        assert "status_report broken → quota 1 0" in page.text
        assert "startup broken 1 1" in page.text


async def note(harness: Harness, **fields: str) -> None:
    given = {"category": "TEST", "action": "try", "actor": "robot", "title": "tried"} | fields
    await harness.host.audit.note(AuditEntry(**given))  # type: ignore[arg-type]


async def test_the_audit_page_filters(harness: Harness, ada: Visitor) -> None:
    await note(harness, title="first of robot", entry_id="entry-1", source="203.0.113.5")
    await note(harness, title="of someone else", actor="someone", category="OTHER", action="other")
    at = await harness.host.db.fetch_val(sa.select(audit_log.c.at).where(audit_log.c.actor == "robot"))
    await harness.host.db.execute(sa.update(audit_log).where(audit_log.c.actor == "robot").values(at=1_000_000_000))
    assert at
    for query in (
        "actor=robot",
        "category=TEST&action=try",
        "entry_id=entry-1&actor=",
        "since=1970-01-01T00:16:40&until=1970-01-01T00:16:41",
    ):
        page = await ada.open(f"/admin/audit?{query}")
        assert "first of robot" in page.text, query
        assert "203.0.113.5" in page.text
        assert "1970-01-01 00:16:40" in page.text
        assert "of someone else" not in page.text
        assert "logged in" not in page.text
    page = await ada.open("/admin/audit?until=1970-01-01T00:16:40")
    assert "No row fits the filter." in page.text
    page = await ada.open("/admin/audit?actor=robot")
    export = next(link for link in page.links if "format=jsonl" in link)
    lines = (await ada.client.get(export)).text.splitlines()
    assert len(lines) == 1
    assert "first of robot" in lines[0]
    export = next(link for link in (await ada.open("/admin/audit")).links if "format=csv" in link)
    assert len((await ada.client.get(export)).text.splitlines()) > 4


async def test_a_time_that_is_none_is_said_in_place(ada: Visitor) -> None:
    for text in ("yesterday", "1960-01-01T00:00"):
        page = await ada.open("/admin/audit", params={"since": text, "actor": "ada"})
        assert ada.response.status_code == 400
        assert "From: expected" in page.text
        assert page.by_id("since")["aria-invalid"] == "true"
        assert page.by_id("actor")["value"] == "ada"


async def test_audit_rows_come_in_pages_and_keep_the_filter(harness: Harness, ada: Visitor) -> None:
    for number in range(120):
        await note(harness, title=f"try {number:03}")
    path, seen = "/admin/audit?actor=robot", []
    while path:
        page = await ada.open(path)
        seen.append([number for number in range(120) if f"try {number:03}" in page.text])
        path = next((link for link in page.links if "cursor=" in link), "")
        assert not path or "actor=robot" in path
    assert [len(numbers) for numbers in seen] == [50, 50, 20]
    assert sorted(number for numbers in seen for number in numbers) == list(range(120))
    assert "/admin/audit?actor=robot" in page.links


async def test_the_chain_check_names_the_first_broken_row(harness: Harness, ada: Visitor) -> None:
    for number in range(5):
        await note(harness, title=f"try {number}")
    page = await ada.open("/admin/audit")
    assert "/admin/audit/check" in page.forms
    page = await ada.open("/admin/audit/check")
    assert "The chain is whole." in page.text
    await harness.host.db.execute(sa.update(audit_log).where(audit_log.c.id == 5).values(actor="mallory"))
    await harness.host.db.execute(sa.update(audit_log).where(audit_log.c.id == 6).values(actor="mallory"))
    page = await ada.open("/admin/audit/check")
    assert "The chain is broken at row 5 : the content does not match its hash." in page.text
    assert "The 4 rows before it are whole." in page.text
    page = await ada.open(next(link for link in page.links if "broken=5" in link))
    assert [attrs["id"] for tag, attrs in page.tags if attrs.get("class") == "broken"] == ["row-5"]


async def test_the_api_page_shows_every_operation(harness: Harness, stranger: Visitor) -> None:
    page = await stranger.open("/api/docs")
    assert stranger.response.status_code == 200
    document = (await stranger.client.get("/api/v1/openapi.json")).json()
    ids = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path} {operation['summary']}" in page.text
            assert operation["operationId"] in ids
    for name in document["components"]["schemas"]:
        assert f"schema-{name}" in ids
    assert all(link[1:] in ids for link in page.links if link.startswith("#"))


async def test_static_files_are_kept_for_ever_under_their_hash(stranger: Visitor) -> None:
    assert set(assets()) >= {"site.css", "mark.svg"}
    page = await stranger.open("/api/docs")
    (sheet,) = [str(attrs["href"]) for tag, attrs in page.tags if tag == "link" and attrs["rel"] == "stylesheet"]
    answer = await stranger.client.get(sheet)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers.get("set-cookie") is None
    for name in ("site.css", "site.0000000000000000.css", "..%2f__init__.py"):
        assert (await stranger.client.get(f"/static/{name}")).status_code == 404


def test_durations_and_times_are_readable() -> None:
    assert [duration(value) for value in (None, 0, 59, 61, 3_600, 90_061, 864_000)] == [
        "unknown",
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 d 1 h",
        "10 d",
    ]
    assert [seconds(value) for value in (0, 0.0123, 2.5)] == ["0 ms", "12.3 ms", "2.50 s"]
