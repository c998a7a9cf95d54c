"""A request and a reply as our handlers see them, whatever server and framework carry them.

Ordinary routes (Quart), hot routes (straight from ASGI) and any later protocol build the same `Request`
and send the same `Reply`, so a handler is written once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from clavitor_host import strict_json
from clavitor_host.errors import Problem, invalid_field, problem

if TYPE_CHECKING:
    import socket

    from clavitor_host.host import Host
    from clavitor_host.identity.models import Identity

JSON = "application/json"

RawHeaders = list[tuple[bytes, bytes]]
"""Header names in lower case and values, as ASGI carries them."""


class Request:
    """One HTTP request.

    `host`: the app's facade. `id`: request id, also in the reply's `X-Request-Id` and in every log line of the request.
    `client`: source address as text, "" for a unix socket. `identity`: who asks, None until authenticated.
    `allowed`: the methods the path takes, where it is the method that no route takes (405).
    `peer_certificate`: the verified client certificate as `ssl.getpeercert()` gives it, or None.
    `can_hand_over`: whether it came over plain HTTP/1, so that a reply's `hand_over` will as a rule be called.
    `reply_headers`: what the hook `admit` adds to the reply.
    """

    __slots__ = (
        "_body",
        "_query",
        "_raw_query",
        "_stream",
        "_streamed",
        "allowed",
        "can_hand_over",
        "client",
        "headers",
        "host",
        "id",
        "identity",
        "method",
        "path",
        "peer_certificate",
        "reply_headers",
        "scheme",
    )

    def __init__(
        self,
        *,
        host: Host,
        method: str,
        path: str,
        raw_query: bytes,
        headers: RawHeaders,
        client: str,
        scheme: str,
        id: str,
        body: Callable[[], Awaitable[bytes]],
        stream: Callable[[], AsyncIterator[bytes]] | None = None,
        peer_certificate: Mapping[str, Any] | None = None,
        can_hand_over: bool = False,
    ) -> None:
        self.host = host
        self.method = method
        self.path = path
        self.headers = headers
        self.client = client
        self.scheme = scheme
        self.id = id
        self.identity: Identity | None = None
        self.allowed: tuple[str, ...] = ()
        self.peer_certificate = peer_certificate
        self.can_hand_over = can_hand_over
        self.reply_headers: dict[str, str] = {}
        self._raw_query = raw_query
        self._query: dict[str, str] | None = None
        self._body = body
        self._stream = stream
        self._streamed = False

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header (name in lower-case bytes), or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    @property
    def has_query(self) -> bool:
        """Whether there is a query string."""
        return bool(self._raw_query)

    @property
    def query(self) -> dict[str, str]:
        """The query parameters. A parameter given twice, or one that is not UTF-8, is a 400."""
        if self._query is None:
            self._query = _parse_query(self._raw_query)
        return self._query

    def query_int(self, name: str, default: int, *, low: int, high: int) -> int:
        """Return a query parameter as an integer in `low…high`; a 400 names it otherwise."""
        text = self.query.get(name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high:
            return int(text)
        raise invalid_field(name, f"an integer from {low} to {high}")

    async def body(self) -> bytes:
        """Return the whole body.

        Raises 413 above the route's limit, 408 when it stalls and 400 `incomplete_body` when the client hangs up.
        """
        if self._streamed:
            raise RuntimeError("the body has been streamed: it is not kept")
        return await self._body()

    def stream(self) -> AsyncIterator[bytes]:
        """Return the body's pieces as they arrive, none of them empty. Once a request, in place of `body`.

        Some hundred KiB wait in memory at most: beyond them the client waits for the handler. Only a
        body that is all there ends without an error; otherwise the next piece raises what `body` does. Soon after its
        client has hung up, a handler that goes on is cancelled: undo what is half done in a `finally`.
        """
        if self._streamed:
            raise RuntimeError("the body has been streamed: it is not kept")
        self._streamed = True
        return self._stream() if self._stream is not None else _one_piece(self._body)

    async def json(self) -> Any:
        """Return the body as strict JSON. Raises 400 `malformed_json`, or 415 for another content type."""
        content_type = self.header(b"content-type")
        if content_type is not None and content_type.partition(";")[0].strip().lower() not in _JSON_TYPES:
            raise problem(415, "unsupported_media_type", "Content-Type: expected application/json.")
        try:
            return strict_json.loads(await self.body(), whole_floats=False)
        except strict_json.StrictJSONError as error:
            raise problem(400, "malformed_json", f"The body is not acceptable JSON: {error}.") from None

    async def json_rows(self) -> list[Any]:
        """Return the body's rows: those of a JSON array, or of NDJSON (`application/x-ndjson`), one a line.

        Raises what `json` does, and a 400 `invalid_field` for JSON that is no array.
        """
        content_type = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if content_type not in _NDJSON_TYPES:
            rows = await self.json()
            if isinstance(rows, list):
                return rows
            raise invalid_field("body", "an array of rows")
        try:
            return strict_json.loads_lines(await self.body(), whole_floats=False)
        except strict_json.StrictJSONError as error:
            raise problem(400, "malformed_json", f"The body is not acceptable NDJSON: {error}.") from None


@dataclass(slots=True)
class Reply:
    """One HTTP response. `stream`, when given, is sent after `body` and ends when the server shuts down.

    `hand_over`: takes the connection over, for an answer that outlasts everything the server keeps for a request. On a
    plain HTTP/1 connection whose request is complete, the head and `body` are sent; then the server lets go of the
    connection, which no longer counts to `max_connections`, and calls `hand_over` with its socket: non-blocking, a
    duplicate, which the receiver owns, writes the rest of the body to, and closes, at the latest when `host.shutdown`
    is set. It is called on the event loop, once, and must not block. Anywhere else (TLS, HTTP/2, a next
    request waiting behind this one, earlier answers unsent, no free descriptor, the server stopping) `stream` is sent
    instead, so give both. The reply must have a `Content-Length`, which both must fill; `Connection: close` is added.
    Metrics, request id and headers are those of any reply.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    hand_over: Callable[[socket.socket], None] | None = None


Handler = Callable[..., Awaitable[Reply]]


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a JSON reply."""
    return Reply(status, strict_json.dumps(value), JSON, headers or {})


def problem_reply(error: Problem) -> Reply:
    """Return an error as RFC 9457 problem+json."""
    return Reply(error.status, strict_json.dumps(error.body()), "application/problem+json", error.headers)


def incomplete_body() -> Problem:
    """Return the 400 for a body whose client has hung up before its end."""
    return problem(400, "incomplete_body", "The connection ended before the body did.")


def unmatched_reply(request: Request) -> Reply:
    """Return the plain answer where no route matches: 404, or 405 with `Allow` when only the method does not."""
    if not request.allowed:
        return problem_reply(problem(404, "not_found", "There is nothing here."))
    allow = ", ".join(request.allowed)
    error = problem(405, "method_not_allowed", f"{request.method} is not possible here; {allow} is.")
    error.headers["Allow"] = allow
    return problem_reply(error)


_JSON_TYPES = {"application/json", ""}
_NDJSON_TYPES = {"application/x-ndjson", "application/ndjson"}


async def _one_piece(body: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    if piece := await body():
        yield piece


def _parse_query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, max_num_fields=100, encoding="utf-8", errors="strict"
        )
    except ValueError:
        raise problem(400, "malformed_query", "The query string is not UTF-8 or has too many fields.") from None
    query = dict(pairs)
    if any("\x00" in name or "\x00" in value for name, value in pairs):
        raise problem(400, "malformed_query", "The query string has a NUL character.")
    if len(query) != len(pairs):
        raise problem(400, "malformed_query", "A query parameter is given twice.")
    return query
