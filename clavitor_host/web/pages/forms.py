"""Reading what a form sends, and where a visitor may be sent next."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from clavitor_host.errors import Problem, problem
from clavitor_host.http import Request
from clavitor_host.identity import oidc

FORM = "application/x-www-form-urlencoded"
MAX_FORM = 65_536
"""Longest form, in bytes."""
HOME = "/admin"


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form. Raises a 400, 413 or 415 for what no page of ours sends."""
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != FORM:
        raise problem(415, "unsupported_media_type", f"Content-Type: expected {FORM}.")
    data = await request.body()
    if len(data) > MAX_FORM:
        raise problem(413, "too_large", f"A form may have {MAX_FORM:,} bytes.")
    try:
        pairs = parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise problem(400, "malformed_form", "The form is not UTF-8 or has too many fields.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise problem(400, "malformed_form", "A field of the form is given twice.")
    if any("\x00" in value for value in fields.values()):
        raise problem(400, "malformed_form", "A field of the form has a NUL character.")
    return fields


def passwords_differ() -> Problem:
    """Return the 400 for a new password that was not given twice alike."""
    return problem(400, "passwords_differ", "The two passwords differ.", field="repeat_password")


def local_path(text: str | None) -> str:
    """Return `text` when it is a path on this server, the start page otherwise: nobody is redirected elsewhere."""
    try:
        return oidc.local_path(text or HOME)
    except Problem:
        return HOME
