"""`/api/replication`: what the other POP asks of this one."""

from __future__ import annotations

from quart import Blueprint

from clavitor_commercial_replication import routes_peer, wire
from clavitor_commercial_replication.applying import apply
from clavitor_commercial_replication.body import read_json
from clavitor_commercial_replication.peers import pop_of
from clavitor_commercial_replication.service import service_of
from clavitor_host.api import Problem, Reply, Request, endpoint, json_reply

blueprint = Blueprint("replication", __name__, url_prefix="/api/replication")


@blueprint.post("/apply")
@endpoint(
    action="peer",
    summary="Take writes of the primary POP",
    tag="replication",
    errors=(409, 413),
    max_body=wire.MAX_BODY,
)
async def apply_batch(request: Request) -> Reply:
    """Answer once everything acknowledged is durable."""
    assert request.identity is not None
    pop = pop_of(request.identity)
    batch = wire.parse(await read_json(request))
    if batch.source_pop != pop:
        detail = f"source_pop is {batch.source_pop}, but the credential is that of {pop}."
        raise Problem(403, "pop_mismatch", detail, extra={"field": "source_pop"})
    return json_reply(wire.encode_answer(await apply(service_of(request.host), pop, batch)))


routes_peer.add(blueprint)
