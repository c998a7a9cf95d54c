"""The errors a caller can act on. Each carries a stable code; `web.problems` turns them into problem+json."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


class ClavitorError(Exception):
    """Base of every error that is meant for a person: `str(error)` is one clear line."""


class ConfigError(ClavitorError):
    """The configuration cannot be used; the message names the key and what was expected."""


class StartError(ClavitorError):
    """The server cannot start; the message says what is wrong and what to do."""


class PluginError(StartError):
    """A plugin cannot be loaded, configured or started; the message names the plugin."""


class Problem(ClavitorError):
    """An RFC 9457 problem: what an HTTP caller gets instead of a result.

    `status` is the HTTP status, `code` a stable machine-readable word, `detail` one sentence for a person.
    `extra` members are added to the JSON body; `headers` to the response. `noted`: the refusal is in the audit log.
    """

    noted = False

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the problem+json members (RFC 9457 section 3.1)."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }


def problem(status: int, code: str, detail: str, **extra: Any) -> Problem:
    """Return a `Problem` to raise; keyword arguments become members of its JSON body."""
    return Problem(status, code, detail, extra=extra)


def unauthorized() -> Problem:
    """Return the one 401: the same body whether a token is wrong, missing, expired or of the wrong kind."""
    return Problem(
        401,
        "unauthorized",
        "A valid bearer token or session is required.",
        headers={"WWW-Authenticate": 'Bearer realm="clavitor"'},
    )


def forbidden(detail: str, *, code: str = "forbidden") -> Problem:
    """Return a 403 whose `detail` says what the caller may not do."""
    return Problem(403, code, detail)


def invalid_field(field: str, expected: str) -> Problem:
    """Return a 400 that names the field and says what was expected."""
    return Problem(400, "invalid_field", f"{field}: expected {expected}.", extra={"field": field})


class UnusableURL(Problem):
    """A URL that a user configured cannot be used; the message says why. A 422 where it is raised in a route."""

    code = "unusable_url"

    def __init__(self, detail: str) -> None:
        super().__init__(422, type(self).code, detail)


class BlockedAddress(UnusableURL):
    """The URL leads to an address that requests of users may not reach: not a public one, and not allowed."""

    code = "blocked_address"


class Unresolvable(UnusableURL):
    """The host name of the URL has no address, now."""

    code = "unresolvable"


class StorageUnavailable(Problem):
    """The database cannot be used right now. Nothing was written; the request may be tried again."""

    def __init__(self, detail: str, *, code: str = "storage_unavailable", retry_after: int = 1) -> None:
        super().__init__(503, code, detail, headers={"Retry-After": str(retry_after)})


class CapExceeded(Problem):
    """A licence cap refuses a create. Raised by `assert_within_cap` implementations (licensing.md section 3), which
    record it in the audit log themselves."""

    noted = True

    def __init__(self, *, limit: str, current: int, cap: int, state: str, message: str, status: int = 403) -> None:
        super().__init__(
            status,
            "license_cap_reached",
            message,
            extra={
                "error": "license cap reached",
                "limit": limit,
                "current": current,
                "cap": cap,
                "state": state,
                "message": message,
            },
        )
        self.limit = limit
        self.current = current
        self.cap = cap
        self.state = state
