"""`@endpoint`: what every route of ours has in common, done in one place.

It authenticates, authorises, parses the body strictly into its model, calls the handler, turns the result or
the error into a reply, and keeps what the OpenAPI document needs. The same `Endpoint` serves a Quart route and
a hot route that comes straight from ASGI, so both pass the same checks.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import quart
from pydantic import BaseModel, ValidationError

from clavitor_host import log, strict_json
from clavitor_host.errors import Problem, problem
from clavitor_host.http import Reply, Request, json_reply, problem_reply
from clavitor_host.identity.models import Resource

if TYPE_CHECKING:
    from clavitor_host.host import Host

HAND_OVER = "clavitor.hand_over"
"""The ASGI extension, where the server can hand a connection over: `await hand_over(body, receiver)`. Called after the
head, it sends head and `body`, and returns whether `receiver` has the socket; otherwise the rest goes the usual way."""

HOST = "clavitor_host"
"""Key of the `Host` in `app.extensions`."""

ADMITS = "clavitor_admits"
"""Marks a view that asks `host.admit` itself; of any other the application asks."""

View = Callable[..., Awaitable[quart.Response]]


class Parameter(NamedTuple):
    """A query or header parameter, for the OpenAPI document."""

    name: str
    description: str
    type: str = "string"
    location: str = "query"
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    enum: tuple[str, ...] = ()
    required: bool = False
    """For the document: the handler says what is missing."""


class Endpoint(NamedTuple):
    """One operation: the handler and everything the host does around it.

    `action`: what the caller must be allowed to do, None for a public operation. `status`: of a success.
    `errors`: statuses the handler itself may answer. `resource`: the kind of thing it acts on; when the path
    has a parameter, its value is the resource's id. `max_body`: bytes of body that the route takes in place of
    `limits.body_bytes`; a function is asked once, when the server starts.
    `accepts_types`: of the body, for the document; what is not application/json is text for it.
    """

    handler: Callable[..., Awaitable[Any]]
    action: str | None
    summary: str
    body: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    status: int = 200
    statuses: Mapping[int, str] = MappingProxyType({})
    errors: Sequence[int] = ()
    parameters: Sequence[Parameter] = ()
    resource: str = ""
    content_types: Sequence[str] = ("application/json",)
    tag: str = ""
    accepts: type[BaseModel] | None = None
    max_body: int | Callable[[Host], int] | None = None
    accepts_types: Sequence[str] = ("application/json",)

    async def run(self, request: Request, path: Mapping[str, str]) -> Reply:
        """Answer a request. Never raises for what a client sent."""
        reply = await self._answer(request, path)
        if request.reply_headers:
            reply.headers = {**reply.headers, **request.reply_headers}
        return reply

    async def _answer(self, request: Request, path: Mapping[str, str]) -> Reply:
        try:
            if "\x00" in request.path:  # no name of ours has one, and PostgreSQL takes none
                raise problem(404, "not_found", "There is nothing here.")
            if self.action is None:
                await request.host.admit(request, None)
            else:
                await self._admit(request, path)
                if self.parameters and request.has_query:
                    self._check_query(request)
            if self.body is None:
                result = await self.handler(request, **path)
            else:
                result = await self.handler(request, await parse_body(request, self.body), **path)
            return result if type(result) is Reply else _reply(result, self.status)
        except Problem as error:
            if error.status in (401, 403):
                await request.host.refused(request, error)
            return problem_reply(error)
        except Exception as error:  # noqa: BLE001 - a bug is the server's, not the client's
            log.exception("A request failed", error)
            return problem_reply(internal_error(request.id))

    def _check_query(self, request: Request) -> None:
        """Raise a 400 for a query parameter that there is not: a filter that is misspelt would give everything.

        Public operations take any: others send people there, with parameters of their own.
        """
        known = [parameter.name for parameter in self.parameters if parameter.location == "query"]
        for name in request.query:
            if name not in known:
                here = ", ".join(known) or "none"
                detail = f"There is no query parameter {name[:80]!r} here; there is: {here}."
                raise problem(400, "unknown_parameter", detail, parameter=name[:80])

    async def _admit(self, request: Request, path: Mapping[str, str]) -> None:
        host = request.host
        request.identity = identity = await host.authenticate(request)
        assert self.action is not None
        await host.admit(request, self.action)
        resource = Resource(self.resource, next(iter(path.values()), None))
        await host.authorize(identity, self.action, resource)


def endpoint(
    *,
    action: str | None,
    summary: str,
    body: type[BaseModel] | None = None,
    reply: type[BaseModel] | None = None,
    status: int = 200,
    statuses: Mapping[int, str] | None = None,
    errors: Sequence[int] = (),
    parameters: Sequence[Parameter] = (),
    resource: str = "",
    content_types: Sequence[str] = ("application/json",),
    tag: str = "",
    accepts: type[BaseModel] | None = None,
    max_body: int | Callable[[Host], int] | None = None,
    accepts_types: Sequence[str] = ("application/json",),
) -> Callable[[Callable[..., Awaitable[Any]]], View]:
    """Make `async def handler(request, [body], **path)` a Quart view.

    The handler returns a pydantic model, a mapping or list (sent as JSON), None (204), or a `Reply`, and raises
    `Problem` for errors. See `Endpoint` for the arguments.
    """

    def wrap(handler: Callable[..., Awaitable[Any]]) -> View:
        operation = Endpoint(
            handler,
            action,
            summary,
            body,
            reply,
            status,
            statuses or {},
            errors,
            parameters,
            resource or (action or "").partition(".")[0],
            content_types,
            tag,
            accepts,
            max_body,
            accepts_types,
        )

        @functools.wraps(handler)
        async def view(**path: str) -> quart.Response:
            request = from_quart(quart.current_app.extensions[HOST])
            return to_quart(await operation.run(request, path))

        view.__dict__["endpoint"] = operation
        view.__dict__[ADMITS] = True
        return view

    return wrap


def endpoint_of(view: Callable[..., Any]) -> Endpoint | None:
    """Return the `Endpoint` behind a Quart view, or None for a foreign one."""
    found = getattr(view, "endpoint", None)
    return found if isinstance(found, Endpoint) else None


async def parse_body(request: Request, model: type[BaseModel]) -> BaseModel:
    """Return the request's JSON body as `model`. Raises a 400 that names the first wrong field."""
    value = await request.json()
    try:
        return model.model_validate_json(strict_json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(400, "invalid_field", f"{name}: {first['msg']}.", extra={"field": name}) from None


def internal_error(request_id: str) -> Problem:
    """Return the 500 that a bug becomes: nothing of the error leaves the server but the request id."""
    return problem(500, "internal_error", f"The server failed; its log has the details under request id {request_id}.")


def from_quart(host: Host) -> Request:
    """Return the current Quart request as ours."""
    current = quart.request
    scope: Mapping[str, Any] = current.scope
    state: Mapping[str, Any] = scope.get("state") or {}
    client = scope.get("client")

    async def body() -> bytes:
        data = await current.get_data(cache=True)
        assert isinstance(data, bytes)
        return data

    return Request(
        host=host,
        method=current.method,
        path=scope["path"],
        raw_query=scope["query_string"],
        headers=scope["headers"],
        client=client[0] if client else "",
        scheme=scope["scheme"],
        id=state.get("request_id", ""),
        body=body,
        stream=lambda: aiter(current.body),
        peer_certificate=state.get("peer_certificate"),
        can_hand_over=HAND_OVER in (scope.get("extensions") or {}),
    )


def to_quart(reply: Reply) -> quart.Response:
    """Return our reply as a Quart response. A stream is not cut by Quart's response time-out."""
    hand_over: Any = None
    if reply.hand_over is not None:
        hand_over = (quart.request.scope.get("extensions") or {}).get(HAND_OVER)
    streamed = reply.stream is not None or reply.hand_over is not None
    content = _pieces(reply, hand_over) if streamed else reply.body
    response = quart.Response(content, status=reply.status, content_type=reply.content_type)
    if reply.content_type is None:
        response.headers.pop("Content-Type", None)
    if streamed:
        response.timeout = None
    for name, value in reply.headers.items():
        response.headers.add(name, value)
    if hand_over is not None:
        response.headers["Connection"] = "close"
    return response


async def _pieces(reply: Reply, hand_over: Callable[..., Awaitable[bool]] | None) -> AsyncIterator[bytes]:
    """Yield what is sent after the head; nothing, when the connection is handed over."""
    stream = reply.stream
    try:
        if hand_over is not None:
            if await hand_over(reply.body, reply.hand_over):
                return
        else:
            yield reply.body  # also when it is empty: the head need not wait for the first piece
        if stream is not None:
            async for piece in stream:
                yield piece
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _reply(result: Any, status: int) -> Reply:
    if result is None:
        return Reply(204 if status == 200 else status, b"", None)
    if isinstance(result, BaseModel):
        return Reply(status, result.model_dump_json(exclude_none=False).encode())
    return json_reply(result, status)
