"""`/api/entries` and `/api/changes`: HTTP in and out."""

from __future__ import annotations

from collections.abc import Sequence

from quart import Blueprint

from clavitor_host.endpoint import Parameter, endpoint, endpoint_of
from clavitor_host.errors import Problem, invalid_field
from clavitor_host.http import Reply, Request, json_reply
from clavitor_host.identity.ids import uuid7
from clavitor_host.vault import reading, schemas, validation
from clavitor_host.vault.models import Change, Write, WriteSet
from clavitor_host.vault.writing import entry_not_found

blueprint = Blueprint("vault", __name__)

MAX_REV = 2**63 - 1
_PUT = (frozenset({"encrypted_data"}), frozenset({"environment_id"}))
_POST = (frozenset({"encrypted_data"}), frozenset({"environment_id", "entry_id"}))
_INCLUDE = Parameter("include", "`data` adds the blobs.", enum=("data",))


@blueprint.get("/api/entries/<entry_id>")
@endpoint(
    action="entries.read",
    resource="entry",
    summary="Get an entry",
    tag="vault",
    reply=schemas.EntryOut,
    statuses={304: "The entry still has the rev that If-None-Match names."},
    errors=(404,),
    parameters=(Parameter("If-None-Match", 'A rev the client has, as `"<rev>"`.', location="header"),),
)
async def get_entry(request: Request, entry_id: str) -> Reply:
    row = await request.host.db.point_read(reading.READ_ENTRY, entry_id)
    assert request.identity is not None
    only = request.identity.environment_id
    if row is None or (only is not None and row[4] != only):
        raise entry_not_found()
    data, rev, created_at, updated_at, environment_id = row
    etag = {"ETag": f'"{rev}"'}
    if validation.not_modified(request.header(b"if-none-match"), rev):
        return Reply(304, b"", None, etag)
    # nothing here needs JSON escapes: ids and base64 have none of the characters that do
    tail = "" if environment_id is None else f',"environment_id":"{environment_id}"'
    body = (
        f'{{"entry_id":"{entry_id}","encrypted_data":"{data}","rev":{rev},'
        f'"created_at":{created_at},"updated_at":{updated_at}{tail}}}'
    )
    return Reply(200, body.encode(), headers=etag)


@blueprint.put("/api/entries/<entry_id>")
@endpoint(
    action="entries.write",
    resource="entry",
    summary="Create or replace an entry",
    tag="vault",
    accepts=schemas.PutEntry,
    reply=schemas.EntryMeta,
    statuses={201: "The entry was created."},
    errors=(400, 412, 413, 415, 422),
)
async def put_entry(request: Request, entry_id: str) -> Reply:
    """`If-Match: "<rev>"` writes only over that rev, `If-None-Match: *` only where no entry lives; else 412.
    Leaving `environment_id` out keeps it as it is."""
    body = validation.members(await request.json(), required=_PUT[0], optional=_PUT[1])
    (change,) = await _write(
        request,
        Write(
            operation="put",
            entry_id=validation.entry_id(entry_id),
            encrypted_data=validation.encrypted_data(body["encrypted_data"]),
            environment_id=validation.environment(body),
            keep_environment="environment_id" not in body,
            if_match=validation.if_match(request.header(b"if-match")),
            if_none_match=validation.if_none_match_any(request.header(b"if-none-match")),
        ),
    )
    return _written(change, 201 if change.operation == "create" else 200)


@blueprint.delete("/api/entries/<entry_id>")
@endpoint(
    action="entries.write",
    resource="entry",
    summary="Delete an entry; a tombstone stays in the change feed",
    tag="vault",
    status=204,
    errors=(400, 404, 412),
)
async def delete_entry(request: Request, entry_id: str) -> Reply:
    """`If-Match: "<rev>"` deletes only that rev; else 412."""
    if_match = validation.if_match(request.header(b"if-match"))
    if not validation.is_entry_id(entry_id):
        raise entry_not_found()
    (change,) = await _write(request, Write("delete", entry_id, if_match=if_match))
    return Reply(204, b"", None, {"X-Clavitor-Rev": str(change.rev)})


@blueprint.post("/api/entries")
@endpoint(
    action="entries.write",
    resource="entry",
    summary="Create an entry; the server makes an id (UUIDv7) when none is sent",
    tag="vault",
    accepts=schemas.PostEntry,
    reply=schemas.EntryMeta,
    status=201,
    errors=(400, 409, 413, 415, 422),
)
async def post_entry(request: Request) -> Reply:
    body = validation.members(await request.json(), required=_POST[0], optional=_POST[1])
    given = body.get("entry_id")
    (change,) = await _write(
        request,
        Write(
            operation="create",
            entry_id=uuid7(request.host.clock.now_us()) if given is None else validation.entry_id(given),
            encrypted_data=validation.encrypted_data(body["encrypted_data"]),
            environment_id=validation.environment(body),
        ),
    )
    reply = _written(change, 201)
    reply.headers = {**reply.headers, "Location": f"/api/entries/{change.entry_id}"}
    return reply


@blueprint.post("/api/entries/batch")
@endpoint(
    action="entries.write",
    resource="entry",
    summary="Up to 100 operations, all or none",
    tag="vault",
    accepts=schemas.Batch,
    reply=schemas.BatchOut,
    errors=(400, 404, 409, 413, 415, 422),
)
async def post_batch(request: Request) -> Reply:
    """Conditions are members of an operation here (`if_match`: a rev, `if_none_match`: `*`), so that one that does not
    hold is a 409, and 412 stays with the headers of RFC 9110."""
    body = validation.members(await request.json(), required=frozenset({"operations"}), optional=frozenset())
    operations = body["operations"]
    if not isinstance(operations, list) or not 1 <= len(operations) <= validation.MAX_BATCH:
        raise invalid_field("operations", f"an array of 1 to {validation.MAX_BATCH} operations")
    writes = [validation.batch_write(item, at) for at, item in enumerate(operations)]
    try:
        changes = await _write(request, *writes)
    except Problem as error:
        if error.status != 412:
            raise
        raise Problem(409, error.code, error.detail, extra=error.extra) from None
    results = [{"entry_id": c.entry_id, "operation": c.operation, "rev": c.rev} for c in changes]
    return json_reply({"results": results}, headers={"X-Clavitor-Rev": str(changes[-1].rev)})


@blueprint.get("/api/entries")
@endpoint(
    action="entries.read",
    resource="entry",
    summary="List living entries, newest write first",
    tag="vault",
    reply=schemas.EntryPage,
    errors=(400,),
    parameters=(
        Parameter("limit", "Entries a page (at most 100 with data).", "integer", minimum=1, maximum=1000),
        Parameter("cursor", "`next_cursor` of the page before.", "integer", minimum=0, maximum=MAX_REV),
        _INCLUDE,
    ),
)
async def list_entries(request: Request) -> Reply:
    data, limit = _page(request)
    before = request.query_int("cursor", MAX_REV, low=0, high=MAX_REV)
    assert request.identity is not None
    only = request.identity.environment_id
    page = await reading.page(request.host.db, before=before, limit=limit, environment_id=only, data=data)
    for row in page.rows:
        del row["deleted_at"]
    return json_reply({"entries": page.rows, "next_cursor": str(page.last_rev) if page.more else None})


@blueprint.get("/api/changes")
@endpoint(
    action="entries.read",
    resource="entry",
    summary="Every change after a rev, in order, tombstones included",
    tag="vault",
    reply=schemas.ChangePage,
    errors=(400,),
    parameters=(
        Parameter("since", "The last rev the client has seen; 0 for all.", "integer", minimum=0, maximum=MAX_REV),
        Parameter("limit", "Changes a page (at most 100 with data).", "integer", minimum=1, maximum=1000),
        _INCLUDE,
    ),
)
async def list_changes(request: Request) -> Reply:
    """With a token of one environment, an entry that left it is a deletion, until it comes back."""
    data, limit = _page(request)
    since = request.query_int("since", 0, low=0, high=MAX_REV)
    assert request.identity is not None
    only = request.identity.environment_id
    page = await reading.changes(request.host.db, since=since, limit=limit, environment_id=only, data=data)
    for row in page.rows:
        row["deleted"] = row["deleted_at"] is not None
    last = since if page.last_rev is None else page.last_rev
    return json_reply({"changes": page.rows, "next_since": last, "more": page.more})


HOT_PREFIX = b"/api/entries/"
HOT = {
    method: operation
    for method, view in (("GET", get_entry), ("PUT", put_entry), ("DELETE", delete_entry))
    if (operation := endpoint_of(view)) is not None
}
"""Operations on one entry that skip the web framework: `HOT_PREFIX` and the id are the whole path."""


async def _write(request: Request, *writes: Write) -> Sequence[Change]:
    identity = request.identity
    assert identity is not None
    wanted = WriteSet(writes, identity.actor, request.client, identity.environment_id)
    return await request.host.entries.write(wanted)


def _written(change: Change, status: int) -> Reply:
    tail = "" if change.environment_id is None else f',"environment_id":"{change.environment_id}"'
    meta = (
        f'{{"entry_id":"{change.entry_id}","rev":{change.rev},'
        f'"created_at":{change.created_at},"updated_at":{change.updated_at}{tail}}}'
    )
    headers = {"ETag": f'"{change.rev}"', "X-Clavitor-Rev": str(change.rev)}
    return Reply(status, meta.encode(), headers=headers)


def _page(request: Request) -> tuple[bool, int]:
    include = request.query.get("include")
    if include not in (None, "data"):
        raise invalid_field("include", "data")
    data = include == "data"
    return data, min(request.query_int("limit", 100, low=1, high=1000), 100 if data else 1000)
