"""Cross-site request forgery: what an unsafe request with a session cookie must show besides the cookie."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from clavitor_host.errors import Problem, forbidden

if TYPE_CHECKING:
    from clavitor_host.http import Request

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
HEADER = b"x-csrf-token"
FIELD = "csrf_token"
"""Name of the form field, in an `application/x-www-form-urlencoded` body."""

_FORM = "application/x-www-form-urlencoded"


def csrf_token(cookie: str) -> str:
    """Return the CSRF token of a session: derived from its cookie, so nothing more has to be stored or leaks."""
    return hmac.new(cookie.encode(), b"clavitor csrf", hashlib.sha256).hexdigest()


async def check_csrf(request: Request, cookie: str) -> None:
    """Raise a 403 for an unsafe request that does not come from a page of ours."""
    if request.method in SAFE_METHODS:
        return
    check_origin(request)
    given = request.header(HEADER)
    if given is None and (request.header(b"content-type") or "").partition(";")[0].strip().lower() == _FORM:
        given = await _form_field(request)
    if given is None or not hmac.compare_digest(given.encode(), csrf_token(cookie).encode()):
        raise _refused("A request with a session needs its CSRF token in X-CSRF-Token or the form field csrf_token.")


def check_origin(request: Request) -> None:
    """Raise a 403 when a browser says that another site sends the request. Other clients say nothing and pass."""
    site = request.header(b"sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise _refused("The request comes from another site.")
    origin = request.header(b"origin")
    if origin is not None and not _is_ours(origin, request.header(b"host") or ""):
        raise _refused("The request comes from another site.")


def _is_ours(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()


async def _form_field(request: Request) -> str | None:
    try:
        fields = parse_qs((await request.body()).decode("utf-8"), max_num_fields=1000)
    except ValueError:
        return None
    values = fields.get(FIELD, [])
    return values[0] if len(values) == 1 else None


def _refused(detail: str) -> Problem:
    return forbidden(detail, code="csrf")
