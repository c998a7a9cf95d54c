"""What a client can act on: one exception each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clavitor_host.errors import ClavitorError

if TYPE_CHECKING:
    from clavitor_host.client.values import Origin


class ClientError(ClavitorError):
    """Base of every error of a client."""


class Unreadable(ClientError):
    """What came as the answer is not one of a server."""


class ServerUnavailable(ClientError):
    """Nobody answered, or the server cannot work just now: the same may be tried again. `retry_after`: seconds, when
    the server says so. `status`, `code`: of its answer, 0 and "" without one."""

    def __init__(self, detail: str, *, retry_after: float | None = None, status: int = 0, code: str = "") -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.status = status
        self.code = code


class Unreachable(ServerUnavailable):
    """The server was not reached, or no answer came back. `sent`: the request may have reached it."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class ReadOnly(ServerUnavailable):
    """503: the server takes no writes now, and did not do this one. `primary_location`: URL of the one that does, as
    far as it is known."""

    def __init__(self, detail: str, *, primary_location: str | None = None) -> None:
        super().__init__(detail, status=503, code="read_only")
        self.primary_location = primary_location


class Behind(ServerUnavailable):
    """412: no server that answers has yet what this client has written. It comes with time, unless it was lost."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, status=412, code="behind")


class OutcomeUnknown(ServerUnavailable):
    """The server may have done the write or not: read before you write again."""


class Refused(ClientError):
    """The server refuses: trying the same again is no use. `code`: the problem's stable word; `body`: all of it.
    `origin`: of a read from one of several servers, which one it was; a backup may not have heard of all yet."""

    origin: Origin | None = None

    def __init__(self, status: int, code: str, detail: str, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.body = body


class Unauthorized(Refused):
    """401: the token is revoked, expired or wrong."""


class Forbidden(Refused):
    """403."""


class CapReached(Forbidden):
    """403: the license allows no more. `body` has `limit`, `current`, `cap` and `message`."""


class NotFound(Refused):
    """404."""


class Conflict(Refused):
    """409 or 412."""


def refusal(status: int, body: Mapping[str, Any]) -> Refused:
    """Return the error for a problem+json answer."""
    code, detail = str(body.get("code", "")), str(body.get("detail", ""))
    kinds: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 412: Conflict}
    kind = CapReached if code == "license_cap_reached" else kinds.get(status, Refused)
    return kind(status, code, detail, body)
