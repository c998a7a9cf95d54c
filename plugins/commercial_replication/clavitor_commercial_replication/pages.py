"""`/admin/replication`: how replication stands, what waits, and which command helps. It changes nothing."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from clavitor_commercial_replication import fencing, status, wording
from clavitor_commercial_replication.service import service_of
from clavitor_host.api import Visit, page

blueprint = Blueprint("replication_pages", __name__)

PATH: Final = "/admin/replication"
SHOWN: Final = 50
"""Entries that wait which the page lists, at most."""


@blueprint.get(PATH)
@page(action="plugins.read")
async def show_replication(visit: Visit) -> Response:
    """Show it."""
    service = service_of(visit.host)
    facts = await status.facts_of(service)
    if facts is None:
        return visit.render("clavitor_commercial_replication:replication.html", facts=None)
    problems = status.problems(facts, service.config.stalled_after)
    held_up = status.held_up(facts, service.config.stalled_after)
    waiting = await fencing.unreplicated(service, limit=SHOWN) if facts.role != "backup" else []
    return visit.render(
        "clavitor_commercial_replication:replication.html",
        facts=facts,
        problems=problems,
        held_up=held_up,
        kind=_kind(facts, problems) if problems or held_up is None else "warn",
        role=wording.ROLES[facts.role],
        behind=wording.behind(facts),
        agreement=wording.agreement(facts),
        refused=await fencing.refused(service, limit=SHOWN) if facts.quarantined else [],
        waiting=waiting,
    )


def _kind(facts: status.Facts, problems: list[str]) -> str:
    """Return the colour of the whole."""
    if not problems:
        return "good"
    return "bad" if facts.role == "fenced" or facts.mismatches or facts.quarantined else "warn"
