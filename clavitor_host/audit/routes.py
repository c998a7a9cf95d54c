"""`/api/v1/admin/audit`: reading, exporting and checking the audit log."""

from __future__ import annotations

from typing import Any

from quart import Blueprint

from clavitor_host.audit import search
from clavitor_host.audit.verify import verify_host
from clavitor_host.endpoint import Parameter, endpoint
from clavitor_host.errors import invalid_field
from clavitor_host.http import Reply, Request

blueprint = Blueprint("audit", __name__)

MAX_INT = 2**63 - 1
_FILTERS = (
    Parameter("category", "Only rows of this category."),
    Parameter("action", "Only rows of this action."),
    Parameter("actor", "Only rows by this actor."),
    Parameter("entry_id", "Only rows about this entry."),
    Parameter("since", "Only rows at or after this time (µs since the epoch).", "integer", minimum=0, maximum=MAX_INT),
    Parameter("until", "Only rows before this time (µs since the epoch).", "integer", minimum=0, maximum=MAX_INT),
)


@blueprint.get("/api/v1/admin/audit")
@endpoint(
    action="audit.read",
    summary="List audit rows, newest first",
    tag="audit",
    errors=(400,),
    parameters=(
        *_FILTERS,
        Parameter("limit", "Rows a page.", "integer", minimum=1, maximum=1000),
        Parameter("cursor", "`next_cursor` of the page before.", "integer", minimum=0, maximum=MAX_INT),
    ),
)
async def list_audit(request: Request) -> dict[str, Any]:
    limit = request.query_int("limit", 100, low=1, high=1000)
    before = request.query_int("cursor", MAX_INT, low=0, high=MAX_INT)
    rows = await search.page(request.host.db, _filter(request), before=before, limit=limit)
    return {"rows": rows, "next_cursor": str(rows[-1]["id"]) if len(rows) == limit else None}


@blueprint.get("/api/v1/admin/audit/export")
@endpoint(
    action="audit.read",
    summary="Export audit rows, oldest first",
    tag="audit",
    errors=(400,),
    content_types=("application/jsonl", "text/csv"),
    parameters=(*_FILTERS, Parameter("format", "File format.", enum=("jsonl", "csv"))),
)
async def export_audit(request: Request) -> Reply:
    form = request.query.get("format", "jsonl")
    wanted = _filter(request)
    if form == "jsonl":
        return Reply(content_type="application/jsonl", stream=search.export(request.host.db, wanted, "jsonl"))
    if form == "csv":
        return Reply(content_type="text/csv; charset=utf-8", stream=search.export(request.host.db, wanted, "csv"))
    raise invalid_field("format", "jsonl or csv")


@blueprint.get("/api/v1/admin/audit/verify")
@endpoint(action="audit.read", summary="Check the audit chain from its first row to its head", tag="audit")
async def verify_audit(request: Request) -> dict[str, Any]:
    result = await verify_host(request.host)
    return {
        "ok": result.ok,
        "rows": result.rows,
        "head_id": result.head_id,
        "head_hash": result.head_hash,
        "broken_id": result.broken_id,
        "reason": result.reason,
    }


def _filter(request: Request) -> search.AuditFilter:
    query = request.query
    return search.AuditFilter(
        category=query.get("category"),
        action=query.get("action"),
        actor=query.get("actor"),
        entry_id=query.get("entry_id"),
        since=request.query_int("since", 0, low=0, high=MAX_INT) if "since" in query else None,
        until=request.query_int("until", 0, low=0, high=MAX_INT) if "until" in query else None,
    )
