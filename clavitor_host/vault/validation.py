"""What a client may send for an entry. Each check raises a `Problem` that names the field."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, Literal

from clavitor_host.errors import invalid_field, problem
from clavitor_host.vault.models import Write

MAX_BLOB = 1024 * 1024
"""Largest blob, in bytes after decoding."""

MAX_BATCH = 100
"""Most operations in one batch."""

ENTRY_ID_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
_ENTRY_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ETAGS = re.compile(r'\s*(?:W/)?"[^"]*"\s*(?:,\s*(?:W/)?"[^"]*"\s*)*')
_STRONG = re.compile(r'(?<!W/)"(\d{1,19})"')
_ANY_ETAG = re.compile(r'(?:W/)?"(\d{1,19})"')


def entry_id(value: Any, field: str = "entry_id") -> str:
    """Return an entry id: 1 to 128 of `A-Z a-z 0-9 . _ -`."""
    if isinstance(value, str) and _ENTRY_ID.fullmatch(value):
        return value
    raise invalid_field(field, "1 to 128 characters of A-Z a-z 0-9 . _ -")


def is_entry_id(value: str) -> bool:
    """Return whether a path names an entry that could exist."""
    return _ENTRY_ID.fullmatch(value) is not None


def encrypted_data(value: Any, field: str = "encrypted_data") -> str:
    """Return a blob as received: canonical base64 (RFC 4648 section 4) of 1 byte to 1 MiB."""
    if not isinstance(value, str) or not value:
        raise invalid_field(field, "canonical base64 text")
    if len(value) > (MAX_BLOB + 2) // 3 * 4:
        raise problem(413, "entry_too_large", f"{field}: expected at most {MAX_BLOB} bytes after decoding.")
    try:
        raw = binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise invalid_field(field, "canonical base64 text") from None
    if len(raw) > MAX_BLOB:
        raise problem(413, "entry_too_large", f"{field}: expected at most {MAX_BLOB} bytes after decoding.")
    # strict mode lets non-zero trailing bits pass: only re-encoding shows them
    if binascii.b2a_base64(raw, newline=False) != value.encode("ascii"):
        raise invalid_field(field, "canonical base64 text")
    return value


def members(body: Any, *, required: frozenset[str], optional: frozenset[str], field: str = "body") -> Mapping[str, Any]:
    """Return a JSON object that has all `required` members and none beyond `optional`."""
    if not isinstance(body, dict):
        raise invalid_field(field, "a JSON object")
    for name in sorted(required):
        if name not in body:
            raise invalid_field(name, "a value: the member is required")
    for name in body:
        if name not in required and name not in optional:
            known = ", ".join(sorted(required | optional))
            raise invalid_field(name[:64], f"no such member; known are {known}")
    return body


def environment(body: Mapping[str, Any]) -> str | None:
    """Return the `environment_id` of a body, None when it is absent or null."""
    value = body.get("environment_id")
    return None if value is None else entry_id(value, "environment_id")


def if_match(value: str | None) -> frozenset[int] | Literal["*"] | None:
    """Return the revs of an If-Match header (RFC 9110 section 13.1.1). What is no rev of ours matches nothing."""
    if value is None:
        return None
    if value.strip() == "*":
        return "*"
    if not _ETAGS.fullmatch(value):
        raise problem(400, "invalid_header", 'If-Match: expected "<rev>" or *.')
    return frozenset(int(rev) for rev in _STRONG.findall(value))


def if_none_match_any(value: str | None) -> bool:
    """Return whether a write asks for `If-None-Match: *`; any other value is a 400."""
    if value is None:
        return False
    if value.strip() != "*":
        raise problem(400, "invalid_header", "If-None-Match: expected * on a write.")
    return True


def not_modified(value: str | None, rev: int) -> bool:
    """Return whether an If-None-Match header of a read names `rev` (RFC 9110 section 13.1.2)."""
    if value is None:
        return False
    return value.strip() == "*" or str(rev) in _ANY_ETAG.findall(value)


def batch_write(item: Any, position: int) -> Write:
    """Return one operation of a batch: `{operation, entry_id, encrypted_data?, environment_id?, if_match?}`."""
    where = f"operations.{position}"
    known = frozenset({"encrypted_data", "environment_id", "if_match", "if_none_match"})
    body = members(item, required=frozenset({"operation", "entry_id"}), optional=known, field=where)
    operation = body["operation"]
    if operation not in ("create", "put", "delete"):
        raise invalid_field(f"{where}.operation", "create, put or delete")
    wanted_rev = body.get("if_match")
    if wanted_rev is not None and (type(wanted_rev) is not int or wanted_rev < 0):
        raise invalid_field(f"{where}.if_match", "a rev")
    absent = body.get("if_none_match")
    if absent is not None and absent != "*":
        raise invalid_field(f"{where}.if_none_match", '"*"')
    if operation == "delete" and "encrypted_data" in body:
        raise invalid_field(f"{where}.encrypted_data", "no blob with a delete")
    return Write(
        operation=operation,
        entry_id=entry_id(body["entry_id"], f"{where}.entry_id"),
        encrypted_data=(
            None if operation == "delete" else encrypted_data(body.get("encrypted_data"), f"{where}.encrypted_data")
        ),
        environment_id=environment(body),
        keep_environment="environment_id" not in body,
        if_match=None if wanted_rev is None else frozenset({wanted_rev}),
        if_none_match=absent == "*",
    )
