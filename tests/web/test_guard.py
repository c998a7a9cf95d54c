"""What holds for every page: who may see it, what it may load, how it fails."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.api import AdminPage, Identity, Plugin, Resource, forbidden, hookimpl
from clavitor_host.audit.tables import audit_log
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user, list_users
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.testing import Harness, running_app, settings
from tests.web.visitor import PASSWORD, Html, Visitor

OPEN_TO_ALL = {"/", "/setup", "/login", "/api/docs", "/static/<name>"}
ID = "01890000-0000-7000-8000-000000000000"
LogIn = Callable[..., Awaitable[Visitor]]


def guarded(harness: Harness, method: str) -> Iterator[str]:
    """Yield the path of every page that needs a login, with some id in it."""
    rules = [rule for rule in harness.web.url_map.iter_rules() if rule.endpoint.startswith("pages.")]
    assert len(rules) > 20
    for rule in rules:
        if method in (rule.methods or ()) and rule.rule not in OPEN_TO_ALL:
            yield re.sub(r"<[^>]+>", ID, rule.rule)


async def test_every_page_sends_strangers_to_the_login(harness: Harness, stranger: Visitor) -> None:
    for path in guarded(harness, "GET"):
        answer = await stranger.client.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login"), path
    for path in guarded(harness, "POST"):
        answer = await stranger.client.post(path, data={"name": "eve"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path


async def test_every_form_needs_the_sessions_csrf_token(harness: Harness, ada: Visitor, log_in: LogIn) -> None:
    eve = await log_in("eve", "ADMIN")
    before = await harness.host.db.fetch_val(sa.select(sa.func.count()).select_from(audit_log))
    for path in guarded(harness, "POST"):
        for token in ({}, {"csrf_token": ""}, {"csrf_token": eve.page.forms["/logout"]["csrf_token"]}):
            answer = await ada.client.post(path, data={"sure": "yes", "disabled": "yes", "name": "x", **token})
            assert answer.status_code == 403, path
            assert answer.headers["content-type"].startswith("text/html")
    assert before == await harness.host.db.fetch_val(sa.select(sa.func.count()).select_from(audit_log))
    assert ada.client.cookies
    await ada.open("/admin")
    assert ada.at == "/admin"


async def test_every_form_of_every_page_carries_it(harness: Harness, ada: Visitor) -> None:
    for path in guarded(harness, "GET"):
        page = await ada.open(path.replace(ID, (await list_users(harness.host))[0][0].id))
        for action, fields in page.forms.items():
            posts = any(tag == "form" and a["action"] == action and a["method"] == "post" for tag, a in page.tags)
            assert ("csrf_token" in fields) == posts, (path, action)


async def test_forms_of_another_site_are_refused(harness: Harness, ada: Visitor) -> None:
    page = await ada.open("/admin/users/new")
    data = page.forms["/admin/users/new"] | {"name": "eve", "password": PASSWORD}
    for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "same-site"}):
        answer = await ada.client.post("/admin/users/new", data=data, headers=headers)
        assert answer.status_code == 403
    assert len((await list_users(harness.host))[0]) == 1


async def test_a_link_on_another_site_finds_the_session(ada: Visitor, stranger: Visitor) -> None:
    """SameSite=Strict keeps the cookie back on the first request from elsewhere; our own page then goes on."""
    elsewhere = {"sec-fetch-site": "cross-site"}
    page = await stranger.open("/admin/audit?actor=ada", headers=elsewhere)
    refresh = next(attrs for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert refresh["content"] == "0;url=/admin/audit?actor=ada"
    assert "/admin/audit?actor=ada" in page.links
    assert (await stranger.client.get("/admin", headers={"sec-fetch-site": "same-origin"})).status_code == 303
    assert (await stranger.client.get("/admin")).status_code == 303
    page = await ada.open("/admin", headers=elsewhere)
    assert ada.at == "/admin"


async def test_a_token_opens_no_page(harness: Harness) -> None:
    client = await harness.client_for("ADMIN")
    answer = await client.get("/admin/users")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fadmin%2Fusers")


async def test_an_ended_session_goes_to_the_login(ada: Visitor, harness: Harness) -> None:
    await ada.open("/account")
    await harness.host.db.execute(sa.text("delete from sessions"))
    answer = await ada.client.get("/account")
    assert answer.headers["location"] == "/login?next=%2Faccount"
    answer = await ada.client.post("/admin/users/new", data=ada.page.forms["/logout"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_pages_load_and_run_nothing_foreign(harness: Harness, ada: Visitor, stranger: Visitor) -> None:
    user = (await list_users(harness.host))[0][0]
    paths = [path.replace(ID, user.id) for path in guarded(harness, "GET")]
    answers = [await ada.client.get(path) for path in (*paths, "/api/docs", f"/admin/users/{ID}")]
    answers += [await stranger.client.get(path) for path in ("/login", "/setup?token=x")]
    assert len(answers) > 12
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy == (
            "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; "
            "base-uri 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] in ("same-origin", "strict-origin")
        for tag, attributes in Html(answer.text).tags:
            assert tag not in ("script", "style", "iframe", "object", "base"), answer.url
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("href", "src", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#")), (answer.url, attributes)


async def test_a_viewer_sees_what_they_may_and_a_readable_refusal(harness: Harness, log_in: LogIn) -> None:
    victor = await log_in("victor", "VIEWER")
    assert [link for link in victor.page.links if link.startswith("/admin/")] == ["/admin/tokens", "/admin/tokens"]
    assert "Hello, victor" in victor.page.text
    rows = sa.select(sa.func.count()).select_from(audit_log).where(audit_log.c.action == "refuse")
    assert await harness.host.db.fetch_val(rows) == 0
    for path in ("/admin/users", "/admin/users/new", "/admin/audit", "/admin/audit/check", "/admin/plugins"):
        page = await victor.open(path)
        assert victor.response.status_code == 403
        assert "You may not do this" in page.text
        assert victor.response.headers["content-type"].startswith("text/html")
    assert await harness.host.db.fetch_val(rows) > 0


async def test_an_operator_is_offered_no_form_they_may_not_send(harness: Harness, log_in: LogIn) -> None:
    otto = await log_in("otto", "OPERATOR")
    page = await otto.open("/admin/users")
    assert "/admin/users/new" not in page.links
    page = await otto.open(next(link for link in page.links if link.startswith("/admin/users/")))
    assert list(page.forms) == ["/logout"]
    await otto.open("/admin/users/new")
    assert otto.response.status_code == 403


async def test_errors_are_pages_here_and_problems_on_the_api(harness: Harness, ada: Visitor) -> None:
    page = await ada.open(f"/admin/users/{ID}")
    assert ada.response.status_code == 404
    assert "There is no such user." in page.text
    await ada.open("/admin/users/not-an-id")
    assert ada.response.status_code == 404
    answer = await ada.client.get(f"/api/v1/admin/users/{ID}")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_bug_shows_its_request_id_and_nothing_else(ada: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*args: Any) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("clavitor_host.web.pages.overview.report", fail)
    page = await ada.open("/admin", headers={"x-request-id": "find-me"})
    assert ada.response.status_code == 500
    assert "find-me" in page.text
    assert "secret cause" not in ada.response.text


async def test_a_query_that_no_page_makes_is_a_readable_error(ada: Visitor) -> None:
    for path in ("/admin/audit?cursor=x", "/admin?done=a&done=b", "/admin/tokens?user=x", "/login?next=%ff"):
        await ada.open(path)
        assert ada.response.status_code in (200, 400), path
        assert ada.response.headers["content-type"].startswith("text/html")


async def test_names_are_text_and_never_markup(harness: Harness, ada: Visitor) -> None:
    name = "<b onmouseover=alert(1)>&\"'"
    await create_user(harness.host, name=name, role=Role.VIEWER, requested_by=SYSTEM)
    page = await ada.open("/admin/users")
    assert name in page.text
    await ada.open(next(link for link in page.links if link.startswith("/admin/users/0") and link.count("/") == 3))
    for path in ("/admin/audit", f"/admin/audit?actor={name}", f"/admin/tokens/new?owner={name}"):
        page = await ada.open(path)
        assert not [attrs for tag, attrs in page.tags if "onmouseover" in attrs]


async def test_pages_are_no_part_of_the_api_document(ada: Visitor) -> None:
    paths = (await ada.client.get("/api/v1/openapi.json")).json()["paths"]
    assert not [path for path in paths if path.startswith(("/admin", "/account", "/static", "/setup"))]


class Forbidding(Plugin):
    """Adds pages, and keeps everybody from the audit log."""

    name = "forbidding"
    version = "1.0"

    @hookimpl
    def admin_pages(self) -> list[AdminPage]:
        return [
            AdminPage("Quota", "/admin/quota", "%", "license.read"),
            AdminPage("Keys", "/admin/keys", "k", "license.write"),
        ]

    @hookimpl
    async def authorize(self, identity: Identity, action: str, resource: Resource) -> None:
        if action == "audit.read":
            raise forbidden("Not today.")


async def test_plugins_add_to_the_navigation_for_those_who_may(
    tmp_path: Path, bundle: BundleInfo, visitors: Callable[[Harness], Visitor]
) -> None:
    more = replace(bundle, plugins=(*bundle.plugins, FrozenPlugin("clavitor-forbidding", Forbidding)))
    async with running_app(settings(tmp_path / "data", more, {}), more) as harness:
        for name, role, seen in (
            ("ada", Role.ADMIN, ["/admin/quota", "/admin/keys"]),
            ("otto", Role.OPERATOR, ["/admin/quota"]),
            ("victor", Role.VIEWER, []),
        ):
            await create_user(harness.host, name=name, role=role, password=PASSWORD, requested_by=SYSTEM)
            visitor = visitors(harness)
            page = await visitor.log_in(name)
            assert [link for link in page.links if link in ("/admin/quota", "/admin/keys")] == seen
            assert "/admin/audit" not in page.links
            assert visitor.at == "/admin"
            await visitor.open("/admin/audit")
            assert visitor.response.status_code == 403
