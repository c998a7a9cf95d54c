"""The plugins of one app: made, checked, registered, and quarantined when they fail.

An error of a required plugin stops the start; an optional one is quarantined and the rest runs without it
(editions.md section 2). One registry, and one pluggy manager in it, per app.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pluggy

from clavitor_host import API_VERSION, hookspecs, log
from clavitor_host.errors import PluginError
from clavitor_host.hookspecs import PROJECT
from clavitor_host.plugins import checks
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.plugins.records import HookStats, Implementation, PluginRecord, describe_error

__all__ = ["PluginRecord", "PluginRegistry"]

EDITIONS = ("community", "commercial")


class PluginRegistry:
    """Every plugin of an app, in load order.

    `live` is `{hook: implementations in call order}` without those of quarantined plugins: what `Hooks` calls.
    `edition` is what `edition_name` returned.
    """

    def __init__(
        self,
        frozen: Sequence[FrozenPlugin],
        expected_edition: str | None = None,
        *,
        api_version: str = API_VERSION,
        specs: ModuleType = hookspecs,
    ) -> None:
        """Register `frozen` in order. Raises `PluginError` naming the plugin and the cause.

        expected_edition: what the bundle's manifest says; None takes the plugins' word for it.
        """
        self.specs = checks.read_specs(specs)
        self.live: dict[str, tuple[Implementation, ...]] = dict.fromkeys(self.specs, ())
        self._api_version = api_version
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(specs)
        self._records: dict[str, PluginRecord] = {}
        self._arguments: dict[tuple[str, str], tuple[str, ...]] = {}
        self._implementations: dict[str, tuple[Implementation, ...]] = {}
        self._observers: list[Callable[[PluginRecord], None]] = []
        for index, item in enumerate(frozen):
            self._add(index, item)
        self._order()
        self._check_single_owners()
        self.edition = self._edition(expected_edition)

    @property
    def records(self) -> list[PluginRecord]:
        """Every plugin in load order, quarantined ones too."""
        return list(self._records.values())

    def get(self, name: str) -> PluginRecord | None:
        """Return a plugin by name."""
        return self._records.get(name)

    def config(self, name: str) -> Any:
        """Return the filled configuration model of a plugin (None when it declares none)."""
        return self._records[name].config

    def configured(self, name: str) -> bool:
        """Return whether a plugin's table or one of its variables was given at all."""
        return self._records[name].configured

    def call_order(self) -> dict[str, list[str]]:
        """Return `{hook: names of the plugins that implement it, first called first}`."""
        return {hook: [item.record.name for item in items] for hook, items in self.live.items() if items}

    def implementation(self, record: PluginRecord, hook: str) -> Implementation | None:
        """Return a plugin's implementation of a hook, also when it is quarantined."""
        for item in self._implementations[hook]:
            if item.record is record:
                return item
        return None

    def on_quarantine(self, observer: Callable[[PluginRecord], None]) -> None:
        """Call `observer` with each plugin that is quarantined from now on."""
        self._observers.append(observer)

    def fail(self, record: PluginRecord, doing: str, error: BaseException) -> None:
        """Quarantine an optional plugin because of `error`; raise `PluginError` for a required one.

        doing: what failed, such as "startup".
        """
        cause = str(error) if isinstance(error, checks.Refused | PluginError) else describe_error(error)
        message = f"plugin {record.name}: {doing} failed: {cause}"
        if not record.optional:
            record.last_error = message
            raise PluginError(message) from error
        self.quarantine(record, message)

    def quarantine(self, record: PluginRecord, message: str) -> None:
        """Run on without a plugin: none of its hooks is called again, its observers make the rest stop."""
        record.last_error = message
        if record.quarantined:
            return
        record.state = "quarantined"
        self._refresh_live()
        for observer in self._observers:
            observer(record)

    def _add(self, index: int, item: FrozenPlugin) -> None:
        try:
            checks.check_class(item.plugin, self._api_version)
        except ValueError as error:
            self._refuse_class(index, item, error)
            return
        record = self._record(index, item)
        try:
            plugin = item.plugin()
            arguments = checks.check_hooks(plugin, self.specs)
            self._manager.register(plugin, name=record.name)
        except Exception as error:  # noqa: BLE001 - whatever a plugin's code raises
            self._forget(record.name)
            self.fail(record, "registration", error)
            return
        record.plugin = plugin
        record.stats = {hook: HookStats() for hook in arguments}
        for hook, names in arguments.items():
            self._arguments[record.name, hook] = names
            self._warn_when_deprecated(record, hook)

    def _warn_when_deprecated(self, record: PluginRecord, hook: str) -> None:
        contract = self.specs[hook].contract
        if contract.deprecated_in is not None:
            log.warning(
                "A plugin implements a deprecated hook",
                plugin=record.name,
                hook=hook,
                deprecated_in=contract.deprecated_in,
                removed_in=contract.removed_in,
            )

    def _record(self, index: int, item: FrozenPlugin) -> PluginRecord:
        cls = item.plugin
        other = self._records.get(cls.name)
        if other is not None:
            raise PluginError(f'two plugins are named "{cls.name}": {other.distribution} and {item.distribution}')
        record = PluginRecord(index, cls.name, item.distribution, cls.version, cls.clavitor_api, optional=item.optional)
        self._records[cls.name] = record
        return record

    def _refuse_class(self, index: int, item: FrozenPlugin, error: ValueError) -> None:
        name = getattr(item.plugin, "name", None)
        if not (isinstance(name, str) and checks.NAME.fullmatch(name)) or name == checks.HOST:
            raise PluginError(f"plugin of {item.distribution}: registration failed: {error}") from error
        if not isinstance(getattr(item.plugin, "version", None), str):
            item.plugin.version = ""
        self.fail(self._record(index, item), "registration", checks.Refused(str(error)))

    def _forget(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _order(self) -> None:
        """Fix the call order of every hook: pluggy's, last loaded first, tryfirst and trylast respected."""
        for name, spec in self.specs.items():
            items: list[Implementation] = []
            for impl in reversed(getattr(self._manager.hook, name).get_hookimpls()):
                record = self._records[impl.plugin_name]
                stats = record.stats[name]
                stats.position = len(items) + 1
                arguments = self._arguments[record.name, name]
                items.append(Implementation(name, record, impl.function, arguments, spec.contract.timeout, stats))
            self._implementations[name] = tuple(items)
        self._refresh_live()

    def _refresh_live(self) -> None:
        for name, items in self._implementations.items():
            self.live[name] = tuple(item for item in items if not item.record.quarantined)

    def _check_single_owners(self) -> None:
        for name, spec in self.specs.items():
            if spec.contract.kind != "single owner":
                continue
            owners = [item.record.name for item in self.live[name]]
            if not owners:
                loaded = ", ".join(self._records) or "none"
                raise PluginError(f'no plugin implements "{name}"; one must (loaded: {loaded})')
            if len(owners) > 1:
                raise PluginError(f'more than one plugin implements "{name}": {", ".join(sorted(owners))}')

    def _edition(self, expected: str | None) -> str:
        (owner,) = self.live["edition_name"]
        try:
            edition = owner.function()
        except Exception as error:
            raise PluginError(f"plugin {owner.record.name}: edition_name failed: {describe_error(error)}") from error
        if edition not in EDITIONS:
            raise PluginError(f"plugin {owner.record.name}: {edition!r} is not an edition ({', '.join(EDITIONS)})")
        if expected is not None and edition != expected:
            raise PluginError(f"plugin {owner.record.name} makes this the {edition} edition, its bundle is {expected}")
        return str(edition)
