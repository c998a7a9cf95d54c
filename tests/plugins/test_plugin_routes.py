"""Contributed routes: clashes stop the start, a quarantined plugin's routes answer 503 (editions.md section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from quart import Blueprint, Quart

from clavitor_host.errors import PluginError
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.models import Plugin
from clavitor_host.plugins.registry import PluginRegistry
from clavitor_host.plugins.routes import add_blueprints, overlap_key

Register = Callable[..., PluginRegistry]


async def answer(**path: str) -> str:
    return "here"


def blueprint(name: str, *rules: tuple[str, str], prefix: str | None = None) -> Blueprint:
    made = Blueprint(name, __name__, url_prefix=prefix)
    for number, (method, rule) in enumerate(rules):
        made.add_url_rule(rule, f"e{number}", answer, methods=[method])
    return made


def plugin(called: str, *make: Callable[[], Any]) -> type[Plugin]:
    class Routed(Plugin):
        name = called
        version = "1"

        @hookimpl
        def blueprints(self) -> list[Any]:
            return [one() for one in make]

    return Routed


def routes(called: str, *rules: tuple[str, str], prefix: str | None = None) -> type[Plugin]:
    return plugin(called, lambda: blueprint(called, *rules, prefix=prefix))


def build(registry: PluginRegistry) -> Quart:
    app = Quart(__name__)
    app.add_url_rule("/healthz", "healthz", answer, methods=["GET"])
    add_blueprints(app, Hooks(registry), None)  # type: ignore[arg-type]
    return app


async def test_routes_of_plugins_are_served(register: Register) -> None:
    app = build(register(routes("a", ("GET", "/x")), routes("b", ("POST", "/x"), ("GET", "/y/<id>"))))
    client = app.test_client()
    assert (await client.get("/x")).status_code == 200
    assert (await client.post("/x")).status_code == 200
    assert (await client.get("/y/1")).status_code == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/x", "/x"),
        ("/x", "/x/"),
        ("/a/<x>", "/a/<y>"),
        ("/a/<x>", "/a/<int:y>"),
        ("/a/<int(min=1):x>/b", "/a/<uuid:y>/b"),
        ("/a/<path:x>", "/a/<path:rest>"),
    ],
)
def test_a_clash_names_both_plugins(register: Register, one: str, other: str) -> None:
    with pytest.raises(PluginError, match=r"route GET /.* is given by both plugin a and plugin b"):
        build(register(routes("a", ("GET", one)), routes("b", ("GET", other))))


def test_a_clash_stops_the_start_for_an_optional_plugin_too(register: Register) -> None:
    b = routes("b", ("GET", "/x"))
    with pytest.raises(PluginError, match="both plugin a and plugin b"):
        build(register(routes("a", ("GET", "/x")), b, optional=(b,)))


def test_a_clash_across_prefixes_is_seen(register: Register) -> None:
    with pytest.raises(PluginError, match="route GET /p/x is given by both plugin a and plugin b"):
        build(register(routes("a", ("GET", "/x"), prefix="/p"), routes("b", ("GET", "/p/x"))))


def test_a_clash_with_the_host_names_it(register: Register) -> None:
    with pytest.raises(PluginError, match="route GET /healthz is given by both the host and plugin a"):
        build(register(routes("a", ("GET", "/healthz"))))


@pytest.mark.parametrize(
    ("one", "other"), [("/a/<x>", "/a/<x>/b"), ("/a/<x>", "/a/<path:x>"), ("/a/<x>", "/a/b"), ("/a", "/b")]
)
def test_different_paths_do_not_clash(register: Register, one: str, other: str) -> None:
    build(register(routes("a", ("GET", one)), routes("b", ("GET", other))))


def test_overlap_key() -> None:
    assert overlap_key("/a/<int(min=1):x>/<path:rest>/") == "/a/<>/<path>"
    assert overlap_key("/") == "/"


def test_two_blueprints_of_one_name_name_both_plugins(register: Register) -> None:
    one = plugin("a", lambda: blueprint("same", ("GET", "/x")))
    other = plugin("b", lambda: blueprint("same", ("GET", "/y")))
    with pytest.raises(PluginError, match="blueprint same is given by both plugin a and plugin b"):
        build(register(one, other))


def test_something_else_than_blueprints_is_the_plugins_failure(register: Register) -> None:
    wrong = plugin("a", lambda: "no blueprint")
    with pytest.raises(PluginError, match="plugin a: blueprints failed: it must return a sequence of Blueprint"):
        build(register(wrong))
    registry = register(wrong, optional=(wrong,))
    build(registry)
    record = registry.get("a")
    assert record is not None
    assert record.quarantined


def app_wide(kind: str) -> Blueprint:
    made = blueprint("wide", ("GET", "/x"))
    if kind == "error":
        made.app_errorhandler(404)(answer)  # type: ignore[type-var]
    elif kind == "before":
        made.before_app_request(answer)
    else:
        made.after_app_request(answer)  # type: ignore[type-var]
    return made


@pytest.mark.parametrize("kind", ["error", "before", "after"])
def test_a_blueprint_may_not_reach_beyond_its_own_routes(register: Register, kind: str) -> None:
    wide = plugin("a", lambda: app_wide(kind))
    with pytest.raises(PluginError, match="plugin a: blueprints failed: blueprint wide registers app-wide handlers"):
        build(register(wide))


async def test_a_quarantined_plugins_routes_answer_503_and_run_none_of_its_code(register: Register) -> None:
    ran: list[str] = []

    def with_hooks() -> Blueprint:
        made = blueprint("a", ("GET", "/x"))
        inner = blueprint("inner", ("GET", "/deep"))

        async def note(response: Any = None) -> Any:
            ran.append("code")
            return response

        made.before_request(note)
        made.after_request(note)
        made.register_blueprint(inner)
        return made

    a = plugin("a", with_hooks)
    registry = register(a, routes("b", ("GET", "/y")), optional=(a,))
    app = build(registry)
    client = app.test_client()
    assert (await client.get("/x")).status_code == 200
    assert ran == ["code", "code"]
    record = registry.get("a")
    assert record is not None
    registry.quarantine(record, "gone")
    for path in ("/x", "/deep"):
        reply = await client.get(path)
        assert reply.status_code == 503
        assert reply.content_type == "application/problem+json"
        assert (await reply.get_json(force=True))["code"] == "plugin_quarantined"
    assert ran == ["code", "code"]
    assert (await client.get("/y")).status_code == 200


async def test_two_apps_in_one_process_do_not_share_a_quarantine(register: Register) -> None:
    shared = blueprint("a", ("GET", "/x"))
    a = plugin("a", lambda: shared)
    registries = [register(a, optional=(a,)) for _ in range(2)]
    apps = [build(registry) for registry in registries]
    record = registries[0].get("a")
    assert record is not None
    registries[0].quarantine(record, "gone")
    statuses = [(await app.test_client().get("/x")).status_code for app in apps]
    assert statuses == [503, 200]
