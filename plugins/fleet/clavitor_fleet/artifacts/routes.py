"""Artifacts: below `/api/v1/apps/<app_id>/artifacts` by app, and each at `/api/v1/artifacts/<artifact_id>`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quart import Blueprint

from clavitor_fleet.apps.routes import PATH as APPS
from clavitor_fleet.apps.routes import reached_app
from clavitor_fleet.artifacts import chunks, service, uploads
from clavitor_fleet.artifacts.models import Announced, Artifact
from clavitor_fleet.artifacts.schemas import ArtifactOut, ArtifactPage
from clavitor_fleet.config import FleetConfig
from clavitor_fleet.errors import not_found
from clavitor_fleet.http import known_id, nothing
from clavitor_fleet.lists import PAGE, page_of
from clavitor_host.api import Parameter, Reply, Request, Resource, caller, created, endpoint, invalid_field

if TYPE_CHECKING:
    from clavitor_host.api import Host

blueprint = Blueprint("artifacts", __name__)

PATH = "/api/v1/artifacts"
BINARY = "application/octet-stream"
VERSION = "^[A-Za-z0-9._-]{1,128}$"

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def _largest(host: Host) -> int:
    config = host.plugin_config("fleet")
    assert isinstance(config, FleetConfig)
    return config.artifact_bytes


@blueprint.post(f"{APPS}/<app_id>/artifacts")
@endpoint(
    action="fleet.write",
    resource="apps",
    summary="Upload an artifact of an app",
    tag="artifacts",
    reply=ArtifactOut,
    status=201,
    parameters=(
        Parameter("version", "Its name: the app's only one of that name.", pattern=VERSION, required=True),
        Parameter(
            "X-Content-SHA256",
            "SHA-256 of the body, hex.",
            location="header",
            pattern="^[0-9a-fA-F]{64}$",
            required=True,
        ),
    ),
    errors=(409, 422, 507),
    max_body=_largest,
)
async def upload_artifact(request: Request, app_id: str) -> Reply:
    """The body is the bytes. What is not whole, or has another hash, is not kept. Of the older artifacts only as many
    stay as `jar_retention_count` of the environment and the license say, and those that a deployment uses."""
    app = await reached_app(request, app_id, write=True)
    announced = _announced(request)
    made = await uploads.upload(request.host, app.id, announced, request.stream(), requested_by=caller(request))
    return created(ArtifactOut.model_validate(made), f"{PATH}/{made.id}")


@blueprint.get(f"{APPS}/<app_id>/artifacts")
@endpoint(
    action="fleet.read",
    resource="apps",
    summary="List the artifacts of an app",
    tag="artifacts",
    reply=ArtifactPage,
    parameters=PAGE,
    errors=(404,),
)
async def list_artifacts(request: Request, app_id: str) -> ArtifactPage:
    app = await reached_app(request, app_id)
    found, cursor = await service.list_artifacts(request.host, app.id, page_of(request))
    return ArtifactPage(artifacts=[ArtifactOut.model_validate(one) for one in found], next_cursor=cursor)


@blueprint.get(f"{PATH}/<artifact_id>")
@endpoint(
    action="fleet.read",
    resource="artifacts",
    summary="Read what is known of an artifact",
    tag="artifacts",
    reply=ArtifactOut,
    errors=(404,),
)
async def get_artifact(request: Request, artifact_id: str) -> ArtifactOut:
    return ArtifactOut.model_validate(await reached_artifact(request, artifact_id))


@blueprint.get(f"{PATH}/<artifact_id>/content")
@endpoint(
    action="fleet.read",
    resource="artifacts",
    summary="Read the bytes of an artifact",
    tag="artifacts",
    statuses={304: "The bytes are those of `If-None-Match`."},
    content_types=(BINARY,),
    errors=(404,),
)
async def get_content(request: Request, artifact_id: str) -> Reply:
    """`ETag` is their SHA-256."""
    return await _content(request, await reached_artifact(request, artifact_id))


@blueprint.get("/api/v1/agents/<agent_id>/artifacts/<artifact_id>/content")
@endpoint(
    action="fleet.read",
    resource="agents",
    summary="Read the bytes of an artifact of an agent's app",
    tag="artifacts",
    statuses={304: "The bytes are those of `If-None-Match`."},
    content_types=(BINARY,),
    errors=(404,),
)
async def get_content_for_agent(request: Request, agent_id: str, artifact_id: str) -> Reply:
    """For the agent itself, which starts what it is told to: no other way to artifacts is open to it."""
    missing = not_found("artifact")
    ids = known_id(agent_id, missing), known_id(artifact_id, missing)
    found = await service.get_artifact_of_agent(request.host, *ids)
    if caller(request).environment_id not in (None, found.environment_id):
        raise missing
    return await _content(request, found.thing)


@blueprint.delete(f"{PATH}/<artifact_id>")
@endpoint(
    action="fleet.write",
    resource="artifacts",
    summary="Delete an artifact that no deployment uses",
    tag="artifacts",
    status=204,
    errors=(404, 409),
)
async def delete_artifact(request: Request, artifact_id: str) -> Reply:
    """A 409 names the deployments that use it."""
    artifact = await reached_artifact(request, artifact_id, write=True)
    await service.delete_artifact(request.host, artifact.id, requested_by=caller(request))
    return nothing()


async def reached_artifact(request: Request, artifact_id: str, *, write: bool = False) -> Artifact:
    """Return an artifact that the caller reaches. Raises a 404, also for one in an environment out of reach."""
    missing = not_found("artifact")
    found = await service.get_artifact(request.host, known_id(artifact_id, missing))
    if caller(request).environment_id not in (None, found.environment_id):
        raise missing
    resource = Resource("artifacts", found.thing.id, found.environment_id)
    await request.host.authorize(caller(request), "fleet.write" if write else "fleet.read", resource)
    return found.thing


def _announced(request: Request) -> Announced:
    """Return what the client says of the upload. Raises a 400 that names what is wrong."""
    version = request.query.get("version", "")
    if not re.fullmatch(VERSION, version):
        raise invalid_field("version", "1 to 128 of A-Z a-z 0-9 . _ -")
    sha256 = request.header(b"x-content-sha256") or ""
    if not _SHA256.fullmatch(sha256):
        raise invalid_field("X-Content-SHA256", "the SHA-256 of the body, 64 hexadecimal digits")
    length = request.header(b"content-length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) <= 19):
        raise invalid_field("Content-Length", "a number of bytes")
    return Announced(version, sha256.lower(), None if length is None else int(length))


async def _content(request: Request, artifact: Artifact) -> Reply:
    """Return the bytes; the first of them are read before the head is sent, so that an error still has its status."""
    etag = f'"{artifact.sha256}"'
    if etag in [tag.strip() for tag in (request.header(b"if-none-match") or "").split(",")]:
        return Reply(304, b"", None, {"ETag": etag})
    pieces = chunks.read(request.host, artifact)
    first = await anext(pieces, b"")
    headers = {
        "Content-Length": str(artifact.size),
        "ETag": etag,
        "Content-Disposition": f'attachment; filename="{artifact.version}"',
    }
    return Reply(200, first, BINARY, headers, stream=pieces)
