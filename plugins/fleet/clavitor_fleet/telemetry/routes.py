"""`/api/v1/telemetry/{stream}`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Blueprint

from clavitor_fleet.fleet import fleet_of
from clavitor_fleet.lists import MAX_ID, query_id
from clavitor_fleet.telemetry.page import page_of_rows
from clavitor_fleet.telemetry.reporter import reporter, reporting_app
from clavitor_fleet.telemetry.schemas import BATCHES, PAGES, Accepted
from clavitor_fleet.telemetry.store import SOUGHT, STREAMS, Stream, Wanted
from clavitor_host.api import Parameter, Reply, Request, Resource, caller, endpoint, invalid_field

blueprint = Blueprint("telemetry", __name__)

PATH = "/api/v1/telemetry"
END = 2**63 - 1
MAX_VALUE = 256

_IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "A name of this batch. The same body with the same name is not kept twice within a day, and answered `replayed`; "
    "another body with that name is a 409 `idempotency_key_reused`.",
    location="header",
    pattern=r"^[A-Za-z0-9._-]{1,128}$",
)
_QUERY = (
    Parameter("environment_id", "Only rows of this environment."),
    Parameter("app_id", "Only rows of this app."),
    Parameter("agent_id", "Only rows of this agent."),
    Parameter("since", "From this time on, in µs since the epoch.", "integer", minimum=0, maximum=END),
    Parameter("until", "Before this time, in µs since the epoch.", "integer", minimum=0, maximum=END),
    Parameter("limit", "Rows a page at most; one of 8 MiB ends earlier.", "integer", minimum=1, maximum=1000),
    Parameter("cursor", "`next_cursor` of the page before.", pattern=rf"^[0-9]{{1,19}}\.[A-Za-z0-9_-]{{1,{MAX_ID}}}$"),
)
_KEY = re.compile(r"[A-Za-z0-9._-]{1,128}")


def _report(stream: Stream) -> Callable[..., Awaitable[Any]]:
    async def report(request: Request) -> Accepted:
        """An array, or NDJSON (`application/x-ndjson`), of at most 1,000 rows: all are kept, or none. The caller is an
        agent that has a seat. Rows older than the retention are taken and deleted soon."""
        host = request.host
        origin = await reporter(host, caller(request))
        batch = request.header(b"idempotency-key")
        if batch is not None and not _KEY.fullmatch(batch):
            raise invalid_field("Idempotency-Key", "1 to 128 letters, digits, dots, underscores or dashes")
        return await fleet_of(host).intake.take(request, stream, origin, batch)

    report.__name__ = f"report_{stream}"
    return report


def _find(stream: Stream) -> Callable[..., Awaitable[Any]]:
    async def find(request: Request) -> Reply:
        """Newest first. Rows whose time is over are not shown, deleted or not."""
        only = caller(request).environment_id
        environment_id = query_id(request, "environment_id") or only
        if environment_id is not None:
            await request.host.authorize(caller(request), "fleet.read", Resource("telemetry", None, environment_id))
        agent_id = query_id(request, "agent_id")
        app_id = query_id(request, "app_id") or await reporting_app(request.host, agent_id)
        wanted = Wanted(
            stream,
            environment_id,
            app_id,
            agent_id,
            request.query_int("since", 0, low=0, high=END),
            request.query_int("until", END, low=0, high=END),
            _cursor(request),
            request.query_int("limit", 100, low=1, high=1000),
            _value(request, SOUGHT[stream]),
        )
        found = await fleet_of(request.host).telemetry.find(wanted)
        return Reply(200, page_of_rows(stream, found))

    find.__name__ = f"find_{stream}"
    return find


def _value(request: Request, column: str) -> str | None:
    text = request.query.get(column)
    if text is None or (0 < len(text) <= MAX_VALUE and "\0" not in text):
        return text
    raise invalid_field(column, f"1 to {MAX_VALUE} characters")


def _cursor(request: Request) -> tuple[int, str] | None:
    text = query_id(request, "cursor")
    if text is None:
        return None
    ts, dot, key = text.partition(".")
    if dot and key and ts.isdigit() and len(ts) <= 19 and int(ts) <= END:
        return int(ts), key
    raise invalid_field("cursor", "`next_cursor` of the page before")


for _stream in STREAMS:
    _words, _sought = _stream.replace("_", " "), SOUGHT[_stream]
    blueprint.post(f"{PATH}/{_stream}")(
        endpoint(
            action="telemetry.write",
            resource="telemetry",
            summary=f"Report {_words}",
            tag="telemetry",
            accepts=BATCHES[_stream],
            accepts_types=("application/json", "application/x-ndjson"),
            reply=Accepted,
            errors=(400, 409, 413),
            parameters=(_IDEMPOTENCY,),
        )(_report(_stream))
    )
    blueprint.get(f"{PATH}/{_stream}")(
        endpoint(
            action="fleet.read",
            resource="telemetry",
            summary=f"Find {_words}",
            tag="telemetry",
            reply=PAGES[_stream],
            parameters=(Parameter(_sought, f"Only rows with exactly this {_sought}.", pattern="^.{1,256}$"), *_QUERY),
        )(_find(_stream))
    )
