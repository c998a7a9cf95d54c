"""`/admin/plugins`: what this build was frozen with, and how it fares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import quart
from quart import Blueprint

from clavitor_host.plugins.records import PluginRecord
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("plugins", __name__)


class HookRow(NamedTuple):
    """One hook and who implements it, first called first. `seconds`: spent by all of them."""

    name: str
    plugins: Sequence[str]
    calls: int
    errors: int
    seconds: float


@blueprint.get("/admin/plugins")
@page(action="plugins.read")
async def show_plugins(visit: Visit) -> quart.Response:
    records = visit.host.plugins
    return visit.render("plugins.html", plugins=records, hooks=_hooks(records))


def _hooks(records: Sequence[PluginRecord]) -> list[HookRow]:
    names = sorted({name for record in records for name in record.hooks})
    return [_hook(name, [record for record in records if name in record.stats]) for name in names]


def _hook(name: str, records: Sequence[PluginRecord]) -> HookRow:
    ordered = sorted(records, key=lambda record: record.stats[name].position)
    stats = [record.stats[name] for record in ordered]
    return HookRow(
        name,
        [record.name for record in ordered],
        sum(item.calls for item in stats),
        sum(item.errors for item in stats),
        sum(item.seconds for item in stats),
    )
