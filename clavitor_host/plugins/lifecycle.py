"""Steps 4 and 5 of a plugin's life: start-up in load order, shutdown in reverse, also after a partial start."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from clavitor_host import log
from clavitor_host.plugins.records import STATES, PluginRecord

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.metrics import Metrics
    from clavitor_host.plugins.dispatch import Hooks


class AlertOperator(Protocol):
    """`Edition.alert_operator`."""

    def __call__(self, type: str, message: str, details: Mapping[str, Any] | None = None) -> Awaitable[None]: ...


class Lifecycle:
    """Starts and stops the plugins of one app, once each."""

    def __init__(self, hooks: Hooks, metrics: Metrics, alert: AlertOperator) -> None:
        """alert: told of every plugin that is quarantined, whenever that happened."""
        self._hooks = hooks
        self._registry = hooks.registry
        self._alert = alert
        self._started: list[PluginRecord] = []
        self._alerted: set[str] = set()
        self._gauge = metrics.gauge(
            "clavitor_plugin_state",
            "Whether a plugin is in a state (1) or not (0).",
            ("plugin", "state"),
            mode="livemax",
        )
        self._registry.on_quarantine(self._show_state)

    async def start(self, host: Host) -> None:
        """Start every plugin in load order.

        An optional plugin that fails is quarantined. For a required one the plugins started so far, the failed
        one too, are shut down and `PluginError` is raised.
        """
        try:
            for record in self._registry.records:
                if not record.quarantined:
                    await self._start(record, host)
                self._show_state(record)
            await self.alert_quarantined()
        except BaseException:
            await self.stop(host)
            raise

    async def stop(self, host: Host) -> None:
        """Shut down, in reverse order, every plugin whose turn to start had come. A second call does nothing."""
        while self._started:
            record = self._started.pop()
            implementation = self._registry.implementation(record, "shutdown")
            if implementation is None:
                continue
            try:
                await self._hooks.call(implementation, host=host)
            except Exception as error:  # noqa: BLE001 - the others still have to be shut down
                self._hooks.report(implementation, error)

    async def alert_quarantined(self) -> None:
        """Tell the operator of every quarantined plugin that was not told of yet."""
        for record in self._registry.records:
            if record.quarantined and record.name not in self._alerted:
                self._alerted.add(record.name)
                await self._alert(
                    "plugin_quarantined",
                    f"The plugin {record.name} failed and is switched off; the rest runs.",
                    {"plugin": record.name, "version": record.version, "error": record.last_error or ""},
                )

    async def _start(self, record: PluginRecord, host: Host) -> None:
        self._started.append(record)
        implementation = self._registry.implementation(record, "startup")
        if implementation is not None:
            try:
                await self._hooks.call(implementation, host=host)
            except Exception as error:  # noqa: BLE001 - whatever a plugin's code raises
                self._hooks.report(implementation, error)
                self._registry.fail(record, "startup", error)
                return
        record.state = "active"
        log.debug("A plugin is active", plugin=record.name, version=record.version)

    def _show_state(self, record: PluginRecord) -> None:
        for state in STATES:
            self._gauge.labels(record.name, state).set(1.0 if record.state == state else 0.0)
