"""What plugins add at start is validated; a clash names both owners (editions.md section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clavitor_host.errors import PluginError
from clavitor_host.hookspecs import hookimpl
from clavitor_host.jobs.contributions import add_plugin_jobs
from clavitor_host.jobs.models import cron, every
from clavitor_host.jobs.runner import JobRunner
from clavitor_host.metrics import Metrics
from clavitor_host.plugins.contributions import (
    collect_admin_pages,
    collect_health_checks,
    collect_metrics,
    collect_migrations,
)
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.models import AdminPage, HealthCheck, Plugin
from clavitor_host.plugins.registry import PluginRegistry
from clavitor_host.storage.migrations import Migrations

Register = Callable[..., PluginRegistry]
NO_HOST: Any = None


def plugin(called: str, hook: str, value: Any) -> type[Plugin]:
    return type(called.title(), (Plugin,), {"name": called, "version": "1", hook: hookimpl(lambda self: value)})


async def works() -> None: ...


def history(name: str, *tables: str) -> Migrations:
    return Migrations(name, "some.package", revisions=("0001",), tables=tables)


HOST = history("host", "entries", "leases")


def test_histories_come_in_load_order_the_hosts_first(register: Register) -> None:
    hooks = Hooks(
        register(plugin("a", "migrations", history("a", "t1")), plugin("b", "migrations", history("b", "t2")))
    )
    assert [one.name for one in collect_migrations(hooks, HOST)] == ["host", "a", "b"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (history("a", "t"), history("b", "t"), "table t is given by both plugin a and plugin b"),
        (history("a", "entries"), history("b", "t"), "table entries is given by both the host and plugin a"),
        (history("x", "t"), history("x", "u"), "schema history x is given by both plugin a and plugin b"),
        (history("host", "t"), history("b", "u"), "schema history host is given by both the host and plugin a"),
        (history("a", "t", "t"), history("b", "u"), "table t is given twice by plugin a"),
        (history("a", "alembic_version_b"), history("b", "u"), "plugin a: .*'alembic_version_b' cannot be used"),
        ("text", history("b", "u"), "plugin a: .*must return Migrations"),
    ],
)
def test_schema_clashes_stop_the_start(register: Register, first: Any, second: Any, message: str) -> None:
    hooks = Hooks(register(plugin("a", "migrations", first), plugin("b", "migrations", second)))
    with pytest.raises(PluginError, match=message):
        collect_migrations(hooks, HOST)


def page(path: str = "/admin/x", title: str = "X", icon: str = "x") -> AdminPage:
    return AdminPage(title, path, icon)


def test_admin_pages_are_the_hosts_then_the_plugins(register: Register) -> None:
    hooks = Hooks(register(plugin("a", "admin_pages", [page()]), plugin("b", "admin_pages", (page("/admin/y"),))))
    pages = collect_admin_pages(hooks, NO_HOST, [page("/admin/own")])
    assert [one.path for one in pages] == ["/admin/own", "/admin/x", "/admin/y"]


@pytest.mark.parametrize(
    "wrong",
    [[page("/x")], [page("/admin/../x")], [page(title="")], [page(icon="ab")], [page(icon="")], page(), ["text"], 7],
)
def test_a_wrong_admin_page_is_its_plugins_failure(register: Register, wrong: Any) -> None:
    broken = plugin("a", "admin_pages", wrong)
    with pytest.raises(PluginError, match="plugin a: admin_pages failed"):
        collect_admin_pages(Hooks(register(broken)), NO_HOST)
    registry = register(broken, plugin("b", "admin_pages", [page()]), optional=(broken,))
    assert len(collect_admin_pages(Hooks(registry), NO_HOST)) == 1


def test_an_admin_page_clash_names_both(register: Register) -> None:
    hooks = Hooks(register(plugin("a", "admin_pages", [page()]), plugin("b", "admin_pages", [page()])))
    with pytest.raises(PluginError, match="admin page /admin/x is given by both plugin a and plugin b"):
        collect_admin_pages(hooks, NO_HOST)
    with pytest.raises(PluginError, match="admin page /admin/x is given by both the host and plugin a"):
        collect_admin_pages(hooks, NO_HOST, [page()])


async def test_a_quarantined_plugins_health_check_is_silent(register: Register) -> None:
    async def ill() -> str:
        return "The disk is nearly full."

    a = plugin("a", "health_checks", [HealthCheck("a_disk", ill)])
    registry = register(a, optional=(a,))
    own, contributed = collect_health_checks(Hooks(registry), NO_HOST, [HealthCheck("database", works)])
    assert await own.check() is None
    assert await contributed.check() == "The disk is nearly full."
    record = registry.get("a")
    assert record is not None
    registry.quarantine(record, "gone")
    assert await contributed.check() is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("database", "health check database is given by both the host and plugin a"), ("Two words", "lower-case name")],
)
def test_a_wrong_health_check_stops_the_start(register: Register, name: str, message: str) -> None:
    hooks = Hooks(register(plugin("a", "health_checks", [HealthCheck(name, works)])))
    with pytest.raises(PluginError, match=message):
        collect_health_checks(hooks, NO_HOST, [HealthCheck("database", works)])


def measuring(called: str, metric: str) -> type[Plugin]:
    class Measuring(Plugin):
        name = called
        version = "1"

        @hookimpl
        def metrics(self, registry: Metrics) -> None:
            registry.counter(metric, "Things.")

    return Measuring


def test_metrics_belong_to_their_plugin(register: Register) -> None:
    metrics = Metrics()
    collect_metrics(Hooks(register(measuring("a", "clavitor_a_total"))), metrics)
    assert [(info.name, info.owner) for info in metrics.describe()] == [("clavitor_a_total", "a")]


def test_a_metric_clash_names_both(register: Register) -> None:
    a, b = measuring("a", "clavitor_x_total"), measuring("b", "clavitor_x_total")
    with pytest.raises(PluginError, match=r"plugin b: .*metric clavitor_x_total of b: a has clavitor_x_total already"):
        collect_metrics(Hooks(register(a, b)), Metrics())
    registry = register(a, b, optional=(b,))
    collect_metrics(Hooks(registry), Metrics())
    assert [record.state for record in registry.records] == ["loaded", "loaded", "quarantined"]


def runner() -> JobRunner:
    nothing: Any = None
    return JobRunner(nothing, nothing, nothing)


def test_jobs_are_named_after_their_plugin(register: Register) -> None:
    jobs = runner()
    tidy = every(10, works, name="tidy")
    add_plugin_jobs(jobs, Hooks(register(plugin("a", "jobs", [tidy]), plugin("b", "jobs", [tidy]))), NO_HOST)
    assert [status.name for status in jobs.status()] == ["a.tidy", "b.tidy"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([every(10, works, name="x"), every(10, works, name="x")], "two jobs named 'x'"),
        ([every(0, works, name="x")], "seconds must be greater than 0"),
        ([cron("never", works, name="x")], "cron expression 'never'"),
        ("text", "sequence of Job"),
    ],
)
def test_a_wrong_job_is_its_plugins_failure(register: Register, wrong: Any, message: str) -> None:
    broken = plugin("a", "jobs", wrong)
    with pytest.raises(PluginError, match=message):
        add_plugin_jobs(runner(), Hooks(register(broken)), NO_HOST)
    registry = register(broken, optional=(broken,))
    add_plugin_jobs(runner(), Hooks(registry), NO_HOST)
    record = registry.get("a")
    assert record is not None
    assert record.quarantined
