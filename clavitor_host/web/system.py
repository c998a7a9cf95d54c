"""Operating the server: health, readiness, metrics, status, plugins, the API's own description."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from typing import Any

from quart import Blueprint, current_app

from clavitor_host import log
from clavitor_host.endpoint import endpoint
from clavitor_host.errors import unauthorized
from clavitor_host.http import Reply, Request, json_reply
from clavitor_host.identity.models import Resource
from clavitor_host.web.status import report

blueprint = Blueprint("system", __name__)

CHECK_TIMEOUT = 3.0
"""Seconds one readiness check may take."""


@blueprint.get("/healthz")
@endpoint(action=None, summary="The process runs", tag="operation")
async def healthz(request: Request) -> dict[str, str]:
    return {"status": "ok"}


@blueprint.get("/readyz")
@endpoint(
    action=None,
    summary="The server can do its work: database, migrations, plugins",
    tag="operation",
    statuses={503: "A critical check fails; the body names it."},
)
async def readyz(request: Request) -> Reply:
    host = request.host
    checks = host.health_checks
    results = await asyncio.gather(*(_run(check.check) for check in checks))
    failing = {check.name for check, result in zip(checks, results, strict=True) if result and check.critical}
    if host.shutdown.is_set():
        failing.add("shutdown")
    body = {
        "status": "unavailable" if failing else "ok",
        "checks": {check.name: result or "ok" for check, result in zip(checks, results, strict=True)},
    }
    return json_reply(body, 503 if failing else 200)


async def _run(check: Any) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            found: str | None = await check()
            return found
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT:g} s"
    except Exception as error:  # noqa: BLE001 - whatever a plugin's check raises
        log.warning("A health check failed", error=f"{type(error).__name__}: {error}")
        return "failed; the log says why"


@blueprint.get("/api/v1/prometheus")
@endpoint(
    action=None,
    summary="Metrics in the Prometheus text format; from loopback, or with a metrics token",
    tag="operation",
    content_types=("text/plain",),
    errors=(401, 403),
)
async def prometheus(request: Request) -> Reply:
    if not await _may_scrape(request):
        raise unauthorized()
    return Reply(200, await request.host.metrics.render(), "text/plain; version=0.0.4; charset=utf-8")


async def _may_scrape(request: Request) -> bool:
    header = request.header(b"authorization")
    if header is None and request.header(b"cookie") is None:
        forwarded = request.header(b"x-forwarded-for") or request.header(b"forwarded")
        return forwarded is None and _is_loopback(request.client)
    scheme, _, token = (header or "").partition(" ")
    configured = request.host.metrics_token
    if (
        configured
        and scheme.lower() == "bearer"
        and secrets.compare_digest(token.strip().encode(), configured.encode())
    ):
        return True
    identity = await request.host.identify(request)
    if identity is None:
        return False
    await request.host.authorize(identity, "metrics.read", Resource("metrics"))
    return True


def _is_loopback(client: str) -> bool:
    if not client:  # a unix socket: its file's mode decides who connects
        return True
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False


@blueprint.get("/api/v1/status")
@endpoint(action="plugins.read", summary="What `clavitor status` shows", tag="operation")
async def status(request: Request) -> dict[str, Any]:
    return await report(request.host)


@blueprint.get("/api/v1/admin/plugins")
@endpoint(action="plugins.read", summary="The plugins of this build, in load order", tag="operation")
async def plugins(request: Request) -> dict[str, Any]:
    return {"plugins": [record.as_dict() for record in request.host.plugins]}


@blueprint.get("/api/v1/openapi.json")
@endpoint(action=None, summary="This description of the API (OpenAPI 3.1)", tag="operation")
async def openapi(request: Request) -> Reply:
    from clavitor_host.web.openapi import document

    return json_reply(document(current_app, request.host))
