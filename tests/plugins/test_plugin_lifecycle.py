"""Start-up in load order, shutdown in reverse, also after a partial start (editions.md section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from clavitor_host.errors import PluginError
from clavitor_host.hookspecs import hookimpl
from clavitor_host.metrics import Metrics
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.lifecycle import Lifecycle
from clavitor_host.plugins.models import Plugin
from clavitor_host.plugins.registry import PluginRegistry

Register = Callable[..., PluginRegistry]
HOST: Any = None


class Story:
    """What happened, in order, and the alerts raised."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.alerts: list[tuple[str, Mapping[str, Any]]] = []
        self.metrics = Metrics()
        self.hanging = asyncio.Event()

    def plugin(self, called: str, *, fails: str = "", hangs: str = "") -> type[Plugin]:
        story = self

        class Living(Plugin):
            name = called
            version = "1"

            async def act(self, step: str) -> None:
                story.events.append(f"{called} {step}")
                if step == hangs:
                    story.hanging.set()
                    await asyncio.Event().wait()
                if step == fails:
                    raise OSError("port taken")

            @hookimpl
            async def startup(self) -> None:
                await self.act("startup")

            @hookimpl
            async def shutdown(self) -> None:
                await self.act("shutdown")

        return Living

    async def alert(self, type: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.alerts.append((type, dict(details or {})))

    def lifecycle(self, registry: PluginRegistry) -> Lifecycle:
        for hook in ("startup", "shutdown"):
            for implementation in registry.live[hook]:
                implementation.timeout = 0.05
        return Lifecycle(Hooks(registry), self.metrics, self.alert)


@pytest.fixture
def story() -> Story:
    return Story()


async def test_startup_in_load_order_and_shutdown_in_reverse(register: Register, story: Story) -> None:
    registry = register(story.plugin("a"), story.plugin("b"))
    life = story.lifecycle(registry)
    await life.start(HOST)
    assert {record.state for record in registry.records} == {"active"}
    await life.stop(HOST)
    await life.stop(HOST)
    assert story.events == ["a startup", "b startup", "b shutdown", "a shutdown"]


async def test_a_required_failure_shuts_down_what_was_started_itself_too(register: Register, story: Story) -> None:
    life = story.lifecycle(register(story.plugin("a"), story.plugin("b", fails="startup"), story.plugin("c")))
    with pytest.raises(PluginError, match="plugin b: startup failed: OSError: port taken"):
        await life.start(HOST)
    assert story.events == ["a startup", "b startup", "b shutdown", "a shutdown"]


@pytest.mark.parametrize("how", [{"fails": "startup"}, {"hangs": "startup"}])
async def test_an_optional_failure_is_quarantined_alerted_and_measured(
    register: Register, story: Story, how: dict[str, str]
) -> None:
    b = story.plugin("b", **how)
    registry = register(story.plugin("a"), b, story.plugin("c"), optional=(b,))
    life = story.lifecycle(registry)
    await life.start(HOST)
    states = {record.name: record.state for record in registry.records}
    assert states == {"edition": "active", "a": "active", "b": "quarantined", "c": "active"}
    ((type_, details),) = story.alerts
    assert type_ == "plugin_quarantined"
    assert details["plugin"] == "b"
    assert "startup failed" in details["error"]
    text = (await story.metrics.render()).decode()
    assert 'clavitor_plugin_state{plugin="b",state="quarantined"} 1.0' in text
    assert 'clavitor_plugin_state{plugin="b",state="loaded"} 0.0' in text
    assert 'clavitor_plugin_state{plugin="c",state="active"} 1.0' in text
    await life.stop(HOST)
    assert story.events[-3:] == ["c shutdown", "b shutdown", "a shutdown"]


async def test_a_plugin_quarantined_earlier_is_alerted_and_not_started(register: Register, story: Story) -> None:
    b = story.plugin("b")
    registry = register(b, optional=(b,))
    life = story.lifecycle(registry)
    record = registry.get("b")
    assert record is not None
    registry.quarantine(record, "plugin b: jobs failed: ValueError")
    await life.start(HOST)
    assert story.events == []
    assert [details["error"] for _, details in story.alerts] == ["plugin b: jobs failed: ValueError"]


@pytest.mark.parametrize("how", [{"fails": "shutdown"}, {"hangs": "shutdown"}])
async def test_an_error_in_shutdown_is_reported_and_the_others_still_run(
    register: Register, story: Story, how: dict[str, str]
) -> None:
    registry = register(story.plugin("a"), story.plugin("b", **how))
    life = story.lifecycle(registry)
    await life.start(HOST)
    await life.stop(HOST)
    assert story.events[-2:] == ["b shutdown", "a shutdown"]
    record = registry.get("b")
    assert record is not None
    assert str(record.last_error).startswith("shutdown: ")


async def test_a_start_that_is_cancelled_shuts_down_what_was_started(register: Register, story: Story) -> None:
    registry = register(story.plugin("a"), story.plugin("b", hangs="startup"))
    life = Lifecycle(Hooks(registry), story.metrics, story.alert)
    task = asyncio.create_task(life.start(HOST))
    await story.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story.events[-2:] == ["b shutdown", "a shutdown"]
