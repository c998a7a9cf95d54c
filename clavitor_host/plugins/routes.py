"""Contributed blueprints: checked for clashes, put on the app, and answering 503 once their plugin is quarantined."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clavitor_host import strict_json
from clavitor_host.errors import problem
from clavitor_host.plugins.checks import HOST, Refused
from clavitor_host.plugins.claims import Claims
from clavitor_host.plugins.contributions import collect

if TYPE_CHECKING:
    from quart import Blueprint, Quart, Response
    from werkzeug.routing import Rule

    from clavitor_host.host import Host
    from clavitor_host.plugins.dispatch import Hooks
    from clavitor_host.plugins.records import PluginRecord

_VARIABLE = re.compile(r"<(?:(?P<converter>[a-zA-Z_]\w*)(?:\([^>]*\))?:)?[a-zA-Z_]\w*>")
_AUTOMATIC = {"HEAD", "OPTIONS"}
_APP_WIDE = (
    "before_request_funcs",
    "after_request_funcs",
    "teardown_request_funcs",
    "before_websocket_funcs",
    "after_websocket_funcs",
    "teardown_websocket_funcs",
    "url_value_preprocessors",
    "url_default_functions",
)
_APP_LISTS = ("before_serving_funcs", "after_serving_funcs", "while_serving_gens", "teardown_appcontext_funcs")


def add_blueprints(app: Quart, hooks: Hooks, host: Host) -> None:
    """Put the routes of every plugin on the app, which has the host's own already.

    Raises `PluginError` naming both owners when two routes take the same method and overlapping paths, and for
    a blueprint that reaches beyond its own routes.
    """
    from quart import Blueprint

    routes: Claims[tuple[str, str]] = Claims("route")
    names: Claims[str] = Claims("blueprint")
    _claim_rules(list(app.url_map.iter_rules()), routes, HOST)
    for name in app.blueprints:
        names.claim_once(name, HOST)
    for record, blueprint in collect(hooks, "blueprints", Blueprint, host=host):
        if record.quarantined:
            continue
        names.claim_once(blueprint.name, record.name)
        known = {id(rule) for rule in app.url_map.iter_rules()}
        registered = _register(app, hooks, record, blueprint)
        _claim_rules([rule for rule in app.url_map.iter_rules() if id(rule) not in known], routes, record.name)
        _answer_503_when_quarantined(app, hooks, record, registered)


def overlap_key(rule: str) -> str:
    """Return what a URL rule matches, with the names and types of its variables left out.

    Two rules with the same key can match the same path, so `/a/<x>`, `/a/<int:y>` and `/a/<z>/` are one.
    """
    key = _VARIABLE.sub(lambda match: "<path>" if match["converter"] == "path" else "<>", rule)
    return key.rstrip("/") or "/"


def _register(app: Quart, hooks: Hooks, record: PluginRecord, blueprint: Blueprint) -> list[str]:
    before = set(app.blueprints)
    reach = _reach(app)
    try:
        app.register_blueprint(blueprint)
        if _reach(app) != reach:
            raise Refused(f"blueprint {blueprint.name} registers app-wide handlers; use the blueprint's own")
    except Exception as error:  # noqa: BLE001 - whatever a plugin's blueprint does
        hooks.registry.fail(record, "blueprints", error)
    return [name for name in app.blueprints if name not in before]


def _reach(app: Quart) -> tuple[int, ...]:
    """Count what is registered for all requests of the app."""
    tables: list[dict[str | None, list[Any]]] = [getattr(app, name) for name in _APP_WIDE]
    lists: list[list[Any]] = [getattr(app, name) for name in _APP_LISTS]
    errors = app.error_handler_spec.get(None, {})
    return (
        *(len(table.get(None, ())) for table in tables),
        *(len(items) for items in lists),
        sum(len(handlers) for handlers in errors.values()),
    )


def _claim_rules(rules: list[Rule], routes: Claims[tuple[str, str]], owner: str) -> None:
    for rule in rules:
        methods = {"WEBSOCKET"} if rule.websocket else (rule.methods or set()) - _AUTOMATIC or (rule.methods or set())
        for method in sorted(methods):
            routes.claim((method, overlap_key(rule.rule)), owner, f"{method} {rule.rule}")


def _answer_503_when_quarantined(app: Quart, hooks: Hooks, record: PluginRecord, names: list[str]) -> None:
    """Cut off a plugin's code the moment it is quarantined; until then its routes pay nothing for this."""

    def cut(failed: PluginRecord) -> None:
        if failed is not record:
            return
        tables: list[dict[str | None, list[Any]]] = [getattr(app, table) for table in _APP_WIDE]
        for name in names:
            for table in tables:
                table.pop(name, None)
            app.before_request_funcs[name] = [_unavailable]
            app.before_websocket_funcs[name] = [_unavailable]

    hooks.registry.on_quarantine(cut)
    if record.quarantined:
        cut(record)


async def _unavailable() -> Response:
    from quart import Response

    error = problem(503, "plugin_quarantined", "The plugin behind this address failed and is switched off.")
    return Response(strict_json.dumps(error.body()), 503, content_type="application/problem+json")
