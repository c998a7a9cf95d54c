"""Every error that leaves an ordinary route, as problem+json; and what answers where no route matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import quart
from quart import Quart
from werkzeug.exceptions import HTTPException

from clavitor_host import log
from clavitor_host.endpoint import from_quart, internal_error, to_quart
from clavitor_host.errors import Problem, problem
from clavitor_host.http import Reply, problem_reply, unmatched_reply

if TYPE_CHECKING:
    from clavitor_host.host import Host

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "too_large"}


def install(app: Quart, host: Host) -> None:
    """Register the error handlers of the app."""

    @app.errorhandler(Problem)
    async def on_problem(error: Problem) -> quart.Response:
        return to_quart(problem_reply(error))

    @app.errorhandler(HTTPException)
    async def on_http_exception(error: HTTPException) -> quart.Response:
        error.__traceback__ = error.__context__ = None  # the request keeps its error: it would keep itself alive
        if quart.request.routing_exception is error and error.code in (404, 405):
            return to_quart(await _unmatched(host, error))
        status = error.code or 500
        if status < 400:  # a redirect that the router makes
            response = error.get_response()
            return quart.Response(b"", status=status, headers=dict(response.headers))
        code = _CODES.get(status, "error")
        return to_quart(problem_reply(problem(status, code, error.description or "The request was refused.")))

    @app.errorhandler(Exception)
    async def on_exception(error: Exception) -> quart.Response:
        request_id = quart.request.scope["state"].get("request_id", "")
        log.exception("A request failed", error)
        return to_quart(problem_reply(internal_error(request_id)))


def _methods(path: str) -> tuple[str, ...]:
    """Return the methods of a path: those of the route with exactly this path, else of all that match it."""
    routes = quart.current_app.url_map
    own = [rule.methods or set() for rule in routes.iter_rules() if rule.rule == path]
    return tuple(sorted(set().union(*own) if own else routes.bind("").allowed_methods(path)))


async def _unmatched(host: Host, error: HTTPException) -> Reply:
    request = from_quart(host)
    try:
        request.identity = await host.identify(request)
    except Problem:  # the database is away: whoever it is, there is nothing here
        request.identity = None
    if error.code == 405:
        request.allowed = _methods(request.path)
    reply: Reply | None = await host.hooks.first_async("not_found_handler", host=host, request=request)
    if reply is None:
        reply = unmatched_reply(request)
    return reply
