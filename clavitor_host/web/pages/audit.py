"""`/admin/audit`: what happened, newest first, and whether anybody changed it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import quart
from quart import Blueprint

from clavitor_host.audit import search
from clavitor_host.audit.verify import verify_host
from clavitor_host.errors import Problem, invalid_field
from clavitor_host.http import Request
from clavitor_host.web.pages.page import Visit, page

blueprint = Blueprint("audit", __name__)

PAGE = 50
MAX_ROW = 2**63 - 1
_TEXTS = (("category", "Category"), ("action", "Action"), ("actor", "Who"), ("entry_id", "Entry"))
_TIMES = (("since", "From (UTC)"), ("until", "Until (UTC)"))


@blueprint.get("/admin/audit")
@page(action="audit.read")
async def show_audit(visit: Visit) -> quart.Response:
    request = visit.request
    given = {name: request.query.get(name, "").strip() for name, _ in (*_TEXTS, *_TIMES)}
    before = request.query_int("cursor", MAX_ROW, low=0, high=MAX_ROW)
    wanted, rows = search.AuditFilter(), list[dict[str, Any]]()
    try:
        wanted = _filter(given)
        rows = await search.page(visit.host.db, wanted, before=before, limit=PAGE)
    except Problem as error:
        if error.status >= 500:
            raise
        visit.error = error
    kept = {name: value for name, value in given.items() if value}
    first = f"/admin/audit?{urlencode(kept)}" if kept else "/admin/audit"
    export = {name: value for name, value in wanted._asdict().items() if value is not None}
    return visit.render(
        "audit.html",
        filters=[(name, label, given[name]) for name, label in (*_TEXTS, *_TIMES)],
        filtered=bool(kept),
        rows=rows,
        broken=_number(request, "broken"),
        before=before if before < MAX_ROW else None,
        first=first,
        next=f"/admin/audit?{urlencode({**kept, 'cursor': rows[-1]['id']})}" if len(rows) == PAGE else None,
        export_jsonl=urlencode({**export, "format": "jsonl"}),
        export_csv=urlencode({**export, "format": "csv"}),
    )


@blueprint.get("/admin/audit/check")
@page(action="audit.read")
async def check_chain(visit: Visit) -> quart.Response:
    clock = visit.host.clock
    began = clock.monotonic()
    result = await verify_host(visit.host)
    took = clock.monotonic() - began
    return visit.render("audit_check.html", result=result, now=clock.now_us(), took=took)


def _filter(given: Mapping[str, str]) -> search.AuditFilter:
    return search.AuditFilter(
        category=given["category"] or None,
        action=given["action"] or None,
        actor=given["actor"] or None,
        entry_id=given["entry_id"] or None,
        since=_moment("since", given["since"]),
        until=_moment("until", given["until"]),
    )


def _number(request: Request, name: str) -> int:
    return request.query_int(name, -1, low=0, high=MAX_ROW)


def _moment(name: str, text: str) -> int | None:
    """Return what a `datetime-local` input sends, taken as UTC, in µs since the epoch."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_field(name, "a date and a time") from None
    microseconds = int(at.replace(tzinfo=UTC).timestamp() * 1_000_000)
    if microseconds < 0:
        raise invalid_field(name, "a time since 1970")
    return microseconds
