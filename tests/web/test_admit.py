"""The hook `admit`: a plugin refuses requests by the state of the server, on every kind of route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import quart
import sqlalchemy as sa
from quart import Blueprint

from clavitor_host.api import Host, Identity, Plugin, Problem, Request, Visit, endpoint, hookimpl, page, problem
from clavitor_host.audit.tables import audit_log
from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.testing import Harness, running_app, settings
from tests.web.visitor import PASSWORD, Visitor

BODY = {"encrypted_data": "QUJD"}
AWAY = Problem(503, "away", "Not now.", headers={"X-Elsewhere": "https://there.test"})


class Asked(NamedTuple):
    """What the plugin was asked. `who`: the actor of the identity, None without one."""

    method: str
    path: str
    action: str | None
    who: str | None


class Gate(Plugin):
    """Refuses with `error`; and has a route of every kind."""

    name = "gate"
    version = "1.0"

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.error: Exception | None = None
        self.ran: list[str] = []

    @hookimpl
    async def admit(self, request: Request, action: str | None) -> None:
        who = request.identity.actor if request.identity is not None else None
        self.asked.append(Asked(request.method, request.path, action, who))
        request.reply_headers["X-Age"] = "7"
        if self.error is not None:
            raise self.error

    @hookimpl
    async def authenticate(self, request: Request) -> Identity | None:
        if request.header(b"authorization") == "Bearer peer":
            return Identity(kind="peer", actor="peer:one", via="plugin")
        return None

    @hookimpl
    def blueprints(self, host: Host) -> list[Blueprint]:
        routes = Blueprint("gate", __name__)

        @routes.post("/api/v1/gate/peers")
        @endpoint(action="peer", summary="Something among servers")
        async def peers(request: Request) -> dict[str, str]:
            self.ran.append("peers")
            return {"done": "yes"}

        @routes.post("/api/v1/gate/open")
        @endpoint(action=None, summary="Something public")
        async def open_to_all(request: Request) -> dict[str, str]:
            self.ran.append("open")
            return {"done": "yes"}

        @routes.get("/admin/gate")
        @page(action="plugins.read")
        async def show(visit: Visit) -> quart.Response:
            self.ran.append("page")
            return visit.redirect("/admin")

        @routes.route("/gate/foreign", methods=["GET", "POST"])
        async def foreign() -> str:
            self.ran.append("foreign")
            return "a route of Quart alone"

        return [routes]


@pytest.fixture
async def harness(tmp_path: Path, bundle: BundleInfo, vault_url: str, both_paths: str) -> AsyncIterator[Harness]:
    with_gate = replace(bundle, plugins=(*bundle.plugins, FrozenPlugin("gate", Gate)))
    config = settings(tmp_path / "data", with_gate, {"CLAVITOR_DATABASE_URL": vault_url})
    async with running_app(config, with_gate, hot_routes=both_paths == "hot") as started:
        yield started


@pytest.fixture
def gate(harness: Harness) -> Gate:
    record = harness.host.registry.get("gate")
    assert record is not None and isinstance(record.plugin, Gate)
    return record.plugin


@pytest.fixture
def log_in(
    harness: Harness, visitors: Callable[[Harness], Visitor], gate: Gate
) -> Callable[[str, str], Awaitable[Visitor]]:
    """Makes a user and logs them in; the plugin then has forgotten what it was asked."""

    async def make(name: str, role: str) -> Visitor:
        await create_user(harness.host, name=name, role=Role(role), password=PASSWORD, requested_by=SYSTEM)
        visitor = visitors(harness)
        await visitor.log_in(name)
        gate.asked.clear()
        return visitor

    return make


LogIn = Callable[[str, str], Awaitable[Visitor]]


def refused(reply: httpx.Response) -> tuple[int, str, str | None, str | None]:
    """Return the status and code of a refusal, and the headers that the plugin gave it."""
    return reply.status_code, reply.json()["code"], reply.headers.get("X-Elsewhere"), reply.headers.get("X-Age")


async def refusals(harness: Harness) -> list[str]:
    query = sa.select(audit_log.c.actor).where(audit_log.c.action == "refuse").order_by(audit_log.c.id)
    return [row["actor"] for row in await harness.host.db.fetch_all(query)]


async def test_a_refused_write_writes_nothing_and_says_what_the_plugin_says(
    gate: Gate, writer: httpx.AsyncClient
) -> None:
    assert (await writer.put("/api/entries/one", json=BODY)).status_code == 201
    gate.error = AWAY
    expected = (503, "away", "https://there.test", "7")
    for method, path, body in (
        ("PUT", "/api/entries/one", BODY),
        ("PUT", "/api/entries/two", BODY),
        ("POST", "/api/entries", BODY),
        ("POST", "/api/entries/batch", {"operations": [{"operation": "delete", "entry_id": "one"}]}),
        ("DELETE", "/api/entries/one", None),
    ):
        assert refused(await writer.request(method, path, json=body)) == expected, (method, path)
        assert gate.asked[-1] == Asked(method, path, "entries.write", "operator")
    gate.error = None
    assert [entry["entry_id"] for entry in (await writer.get("/api/entries")).json()["entries"]] == ["one"]
    assert gate.asked[-1] == Asked("GET", "/api/entries", "entries.read", "operator")


async def test_what_it_adds_to_a_reply_goes_out_with_answers_and_refusals_of_others(
    gate: Gate, writer: httpx.AsyncClient, client_for: Callable[..., Awaitable[httpx.AsyncClient]]
) -> None:
    viewer = await client_for("VIEWER")
    replies = [
        await writer.put("/api/entries/one", json=BODY),
        await writer.get("/api/entries/one"),
        await writer.get("/api/entries/one", headers={"If-None-Match": "*"}),
        await writer.get("/api/entries/none"),
        await writer.get("/api/changes?sinec=1"),
        await viewer.put("/api/entries/one", json=BODY),
        await writer.delete("/api/entries/one"),
    ]
    assert [reply.status_code for reply in replies] == [201, 200, 304, 404, 400, 403, 204]
    assert {reply.headers.get("X-Age") for reply in replies} == {"7"}


async def test_strangers_are_refused_before_it_is_asked_and_roles_after(
    gate: Gate,
    client: httpx.AsyncClient,
    client_for: Callable[..., Awaitable[httpx.AsyncClient]],
    harness: Harness,
) -> None:
    gate.error = AWAY
    for path in ("/api/entries/one", "/api/v1/admin/users"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers={"Authorization": "Bearer clv_user_wrong"})).status_code == 401
    assert gate.asked == []
    viewer = await client_for("VIEWER")
    assert (await viewer.put("/api/entries/one", json=BODY)).status_code == 503
    assert gate.asked == [Asked("PUT", "/api/entries/one", "entries.write", "viewer")]
    assert "viewer" not in await refusals(harness)
    gate.error = None
    assert (await viewer.put("/api/entries/one", json=BODY)).status_code == 403


async def test_it_knows_whom_a_plugin_authenticated(gate: Gate, client: httpx.AsyncClient) -> None:
    peer = {"Authorization": "Bearer peer"}
    assert (await client.post("/api/v1/gate/peers", headers=peer)).json() == {"done": "yes"}
    assert (await client.get("/api/entries/one", headers=peer)).status_code == 403
    assert gate.asked == [
        Asked("POST", "/api/v1/gate/peers", "peer", "peer:one"),
        Asked("GET", "/api/entries/one", "entries.read", "peer:one"),
    ]
    gate.error = AWAY
    assert refused(await client.post("/api/v1/gate/peers", headers=peer))[:2] == (503, "away")
    assert gate.ran == ["peers"]


async def test_public_routes_are_asked_about_without_an_action(gate: Gate, client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/v1/gate/open")).headers["X-Age"] == "7"
    assert (await client.get("/healthz")).status_code == 200
    gate.error = AWAY
    assert refused(await client.post("/api/v1/gate/open")) == (503, "away", "https://there.test", "7")
    credentials = {"name": "nobody", "password": PASSWORD}
    assert refused(await client.post("/api/v1/login", json=credentials))[:2] == (503, "away")
    assert gate.asked == [
        Asked("POST", "/api/v1/gate/open", None, None),
        Asked("GET", "/healthz", None, None),
        Asked("POST", "/api/v1/gate/open", None, None),
        Asked("POST", "/api/v1/login", None, None),
    ]
    assert gate.ran == ["open"]


async def test_pages_are_refused_as_pages(gate: Gate, log_in: LogIn, harness: Harness, stranger: Visitor) -> None:
    ada = await log_in("ada", "ADMIN")
    answer = await ada.client.get("/admin/gate")
    assert (answer.status_code, answer.headers["X-Age"]) == (303, "7")
    await ada.open("/admin/users")
    assert gate.asked[-1] == Asked("GET", "/admin/users", "users.read", "ada")
    await ada.open("/admin/users/new")
    gate.error = AWAY
    await ada.submit("/admin/users/new", name="bob", role="VIEWER")
    assert gate.asked[-1] == Asked("POST", "/admin/users/new", "users.write", "ada")
    for shown in (ada.response, await ada.client.get("/admin/gate")):
        assert (shown.status_code, shown.headers["X-Age"]) == (503, "7")
        assert shown.headers["X-Elsewhere"] == "https://there.test"
        assert shown.headers["Content-Type"].startswith("text/html")
        assert "Not now." in shown.text
    assert gate.ran == ["page"]
    gate.asked.clear()
    assert (await stranger.client.get("/admin/gate")).status_code == 303, "who is not logged in is asked to"
    assert gate.asked == []


async def test_public_pages_say_who_looks_if_they_know(gate: Gate, log_in: LogIn, stranger: Visitor) -> None:
    bob = await log_in("bob", "VIEWER")
    assert (await stranger.client.get("/login")).headers["X-Age"] == "7"
    await bob.client.get("/login")
    await stranger.client.post("/login", data={"name": "x", "password": "y"})
    await bob.client.get("/admin/gate")
    assert gate.asked == [
        Asked("GET", "/login", None, None),
        Asked("GET", "/login", None, "bob"),
        Asked("POST", "/login", None, None),
        Asked("GET", "/admin/gate", "plugins.read", "bob"),
    ]


async def test_routes_that_plugins_wrote_without_the_hosts_help_are_asked_about_too(
    gate: Gate, client: httpx.AsyncClient
) -> None:
    reply = await client.get("/gate/foreign")
    assert (reply.status_code, reply.headers["X-Age"]) == (200, "7")
    assert reply.text == "a route of Quart alone"
    gate.error = AWAY
    assert refused(await client.post("/gate/foreign")) == (503, "away", "https://there.test", "7")
    assert gate.asked == [Asked("GET", "/gate/foreign", None, None), Asked("POST", "/gate/foreign", None, None)]
    assert gate.ran == ["foreign"]


async def test_what_no_route_takes_is_not_asked_about(gate: Gate, client: httpx.AsyncClient) -> None:
    assert (await client.get("/nowhere")).status_code == 404
    assert (await client.delete("/gate/foreign")).status_code == 405
    assert gate.asked == []


@pytest.mark.parametrize("error", [RuntimeError("cable"), KeyError("x"), TimeoutError()])
async def test_any_other_error_is_a_refusal(
    gate: Gate, client: httpx.AsyncClient, writer: httpx.AsyncClient, log_in: LogIn, error: Exception, harness: Harness
) -> None:
    ada = await log_in("ada", "ADMIN")
    gate.error = error
    for reply in (
        await writer.put("/api/entries/one", json=BODY),
        await writer.get("/api/entries/one"),
        await client.post("/api/v1/gate/open"),
        await client.get("/gate/foreign"),
    ):
        assert refused(reply) == (403, "forbidden", None, "7")
        assert "cable" not in reply.text
    shown = await ada.client.get("/admin/gate")
    assert (shown.status_code, shown.headers["X-Age"]) == (403, "7")
    assert gate.ran == []
    assert await refusals(harness) == ["operator"]


async def test_several_plugins_are_asked_until_one_refuses(tmp_path: Path, bundle: BundleInfo, vault_url: str) -> None:
    class Second(Plugin):
        name = "second"
        version = "1.0"

        @hookimpl
        async def admit(self, request: Request) -> None:
            request.reply_headers["X-Second"] = "yes"
            if request.method == "PUT":
                raise problem(409, "busy", "Later.")

    plugins = (*bundle.plugins, FrozenPlugin("gate", Gate), FrozenPlugin("second", Second))
    both = replace(bundle, plugins=plugins)
    config = settings(tmp_path / "data", both, {"CLAVITOR_DATABASE_URL": vault_url})
    async with running_app(config, both) as harness:
        writer = await harness.client_for("OPERATOR")
        read = await writer.get("/api/entries")
        assert (read.status_code, read.headers["X-Age"], read.headers["X-Second"]) == (200, "7", "yes")
        assert (await writer.put("/api/entries/one", json=BODY)).json()["code"] == "busy"
