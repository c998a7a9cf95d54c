"""`/admin`: how the server is."""

from __future__ import annotations

from typing import NamedTuple

import quart
from quart import Blueprint

from clavitor_host import strict_json
from clavitor_host.endpoint import endpoint_of
from clavitor_host.web.pages.page import Visit, page
from clavitor_host.web.status import report
from clavitor_host.web.system import readyz

blueprint = Blueprint("overview", __name__)


class CheckResult(NamedTuple):
    """What a health check found, as a pill shows it."""

    name: str
    kind: str
    word: str
    reason: str


@blueprint.get("/admin")
@page(action="me")
async def overview(visit: Visit) -> quart.Response:
    if not visit.may("plugins.read"):
        return visit.render("overview.html", report=None)
    return visit.render("overview.html", report=await report(visit.host), checks=await _checks(visit))


async def _checks(visit: Visit) -> list[CheckResult]:
    operation = endpoint_of(readyz)
    assert operation is not None
    found = strict_json.loads((await operation.handler(visit.request)).body)["checks"]
    critical = {check.name for check in visit.host.health_checks if check.critical}
    return [_result(name, reason, name in critical) for name, reason in found.items()]


def _result(name: str, reason: str, critical: bool) -> CheckResult:
    if reason == "ok":
        return CheckResult(name, "good", "ok", "")
    return CheckResult(name, "bad" if critical else "warn", "failing" if critical else "degraded", reason)
