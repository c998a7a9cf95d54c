"""What plugins add at start, validated: types, names, and that no two owners add the same thing.

A contribution that breaks its own rules is its plugin's failure (an optional plugin is quarantined); a clash
between two owners is a mistake of the bundle and always stops the start, naming both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from clavitor_host.plugins.checks import HOST, Refused
from clavitor_host.plugins.claims import Claims
from clavitor_host.plugins.models import AdminPage, HealthCheck

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.metrics import Metrics
    from clavitor_host.plugins.dispatch import Hooks
    from clavitor_host.plugins.records import PluginRecord
    from clavitor_host.storage.migrations import Migrations

T = TypeVar("T")

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CHECK = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_PAGE = re.compile(r"/admin/[a-z0-9/_-]+")
_VERSION_TABLE = "alembic_version_"


def collect(hooks: Hooks, hook: str, item_type: type[T], /, **arguments: Any) -> list[tuple[PluginRecord, T]]:
    """Return every item that plugins contribute to a hook that returns a sequence, in load order."""
    found: list[tuple[PluginRecord, T]] = []
    for record, items in _in_load_order(hooks, hook, arguments):
        if isinstance(items, Sequence) and all(isinstance(item, item_type) for item in items):
            found += [(record, item) for item in items]
        else:
            hooks.registry.fail(record, hook, Refused(f"it must return a sequence of {item_type.__name__}"))
    return found


def collect_migrations(hooks: Hooks, own: Migrations) -> list[Migrations]:
    """Return the schema histories of the host and of every plugin, in load order."""
    from clavitor_host.storage.migrations import Migrations

    names: Claims[str] = Claims("schema history")
    tables: Claims[str] = Claims("table")
    histories = []
    candidates = [(HOST, own)]
    for record, history in _in_load_order(hooks, "migrations", {}):
        trouble = _bad_history(history) if isinstance(history, Migrations) else "it must return Migrations"
        if trouble:
            hooks.registry.fail(record, "migrations", Refused(trouble))
        else:
            candidates.append((record.name, history))
    for owner, history in candidates:
        names.claim_once(history.name, owner)
        for table in history.tables:
            tables.claim_once(table, owner)
        histories.append(history)
    return histories


def collect_metrics(hooks: Hooks, metrics: Metrics) -> None:
    """Let every plugin create its metrics. A bad or taken name is its plugin's failure, naming both owners."""
    for implementation in hooks.registry.live["metrics"][::-1]:
        view = metrics.scoped(implementation.record.name)
        try:
            implementation.function(*(view for _ in implementation.arguments))
        except Exception as error:  # noqa: BLE001 - whatever a plugin's code raises
            hooks.report(implementation, error)
            hooks.registry.fail(implementation.record, "metrics", error)


def collect_admin_pages(hooks: Hooks, host: Host, own: Sequence[AdminPage] = ()) -> list[AdminPage]:
    """Return the entries of the admin navigation: the host's own, then every plugin's."""
    paths: Claims[str] = Claims("admin page")
    pages = []
    for page in own:
        paths.claim_once(page.path, HOST)
        pages.append(page)
    for record, page in collect(hooks, "admin_pages", AdminPage, host=host):
        if not _PAGE.fullmatch(page.path) or not page.title or len(page.icon) != 1:
            cause = f"admin page {page.path!r} needs a path under /admin/, a title and an icon of one character"
            hooks.registry.fail(record, "admin_pages", Refused(cause))
            continue
        paths.claim_once(page.path, record.name)
        pages.append(page)
    return pages


def collect_health_checks(hooks: Hooks, host: Host, own: Sequence[HealthCheck] = ()) -> list[HealthCheck]:
    """Return the health checks: the host's own, then every plugin's. A quarantined plugin's check is silent."""
    names: Claims[str] = Claims("health check")
    checks = []
    for check in own:
        names.claim_once(check.name, HOST)
        checks.append(check)
    for record, check in collect(hooks, "health_checks", HealthCheck, host=host):
        if not _CHECK.fullmatch(check.name):
            cause = Refused(f"health check {check.name!r} needs a lower-case name")
            hooks.registry.fail(record, "health_checks", cause)
            continue
        names.claim_once(check.name, record.name)
        checks.append(check._replace(check=_unless_quarantined(record, check)))
    return checks


def _in_load_order(hooks: Hooks, hook: str, arguments: dict[str, Any]) -> list[tuple[PluginRecord, Any]]:
    return sorted(hooks.contributions(hook, **arguments), key=lambda pair: pair[0].index)


def _bad_history(history: Migrations) -> str | None:
    for table in history.tables:
        if not _TABLE.fullmatch(table) or table.startswith(_VERSION_TABLE):
            return f"table {table!r} cannot be used as a name"
    return None


def _unless_quarantined(record: PluginRecord, check: HealthCheck) -> Any:
    async def guarded() -> str | None:
        return None if record.quarantined else await check.check()

    return guarded
