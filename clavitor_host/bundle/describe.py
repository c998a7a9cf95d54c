"""What this program is made of, as its plugins say it when they are put together: for a frozen manifest and reviewers.

The same checks run as at a start: two owners of a hook, an edition or an API range that does not fit, clashing routes
raise here what they would raise there. Nothing is opened, and no configuration is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clavitor_host.errors import PluginError

if TYPE_CHECKING:
    from quart import Quart

    from clavitor_host.host import Host
    from clavitor_host.plugins.frozen import BundleInfo
    from clavitor_host.plugins.models import Plugin
    from clavitor_host.plugins.registry import PluginRegistry

_AUTOMATIC = frozenset({"HEAD", "OPTIONS"})
_HOST = "host"


def describe(bundle: BundleInfo, commands: Iterable[str]) -> dict[str, Any]:
    """Return the description of a program as plain JSON values.

    `plugins` in load order, `hooks` in call order, `routes` as [method, path, owner], `outbound_hosts` by plugin.
    commands: the names of its subcommands. Raises `PluginError` when its plugins cannot run together; a plugin that
    would be quarantined counts as that, also an optional one.
    """
    from clavitor_host.app import around, create_host
    from clavitor_host.config.sources import load
    from clavitor_host.plugins.configure import config_models
    from clavitor_host.plugins.registry import PluginRegistry

    registry = PluginRegistry(bundle.plugins, bundle.edition)
    _refuse_quarantined(registry)
    config = load({}, config_models(registry), {}, Path("/nonexistent"))
    app = create_host(config, bundle, registry=registry)
    web = around(app)
    _refuse_quarantined(registry)
    outbound = {item.plugin.name: _outbound_hosts(item.plugin) for item in bundle.plugins}
    return {
        "name": bundle.name,
        "edition": registry.edition,
        "plugins": [
            {
                "distribution": record.distribution,
                "name": record.name,
                "version": record.version,
                "clavitor_api": record.clavitor_api,
                "optional": record.optional,
                "hooks": list(record.hooks),
            }
            for record in registry.records
        ],
        "hooks": registry.call_order(),
        "routes": _routes(web, app.host),
        "commands": sorted(commands),
        "outbound_hosts": {name: hosts for name, hosts in outbound.items() if hosts},
    }


def _refuse_quarantined(registry: PluginRegistry) -> None:
    for record in registry.records:
        if record.quarantined:
            raise PluginError(record.last_error or f"plugin {record.name} is quarantined")


def _outbound_hosts(plugin: type[Plugin]) -> list[str]:
    hosts = plugin.outbound_hosts
    if not isinstance(hosts, tuple) or not all(isinstance(host, str) and host for host in hosts):
        raise PluginError(f"plugin {plugin.name}: outbound_hosts must be a tuple of host names")
    return sorted(hosts)


def _routes(web: Quart, host: Host) -> list[list[str]]:
    from quart import Blueprint

    from clavitor_host.plugins.contributions import collect

    contributed = collect(host.hooks, "blueprints", Blueprint, host=host)
    owners = {blueprint.name: record.name for record, blueprint in contributed}
    routes = []
    for rule in web.url_map.iter_rules():
        owner = owners.get(rule.endpoint.partition(".")[0], _HOST)
        methods = rule.methods or set()
        words = {"WEBSOCKET"} if rule.websocket else methods - _AUTOMATIC or methods
        routes += [[method, rule.rule, owner] for method in words]
    return sorted(routes)
