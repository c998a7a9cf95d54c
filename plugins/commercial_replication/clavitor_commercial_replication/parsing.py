"""Reading a request of the other POP.

One that breaks a rule is refused whole with a code that names the member, so nothing of it is ever applied. Members
that are not known here are passed over: a later version may add some.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, cast

from clavitor_commercial_replication.config import POP_PATTERN
from clavitor_commercial_replication.digests import BUCKETS, DIGEST
from clavitor_commercial_replication.models import MAX_ENTRIES, Batch, Item, MirroredToken, Operation
from clavitor_host.api import check_encrypted_data, check_entry_id, invalid_field, problem

MAX_TOKENS = 100_000
"""Tokens of one request, at most."""

MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999."""

MAX_TIME = MAX_SECONDS * 1_000_000
"""The same in µs."""

MAX_NUMBER = 2**62
"""The highest rev and epoch that are taken: whatever is counted on from there still fits 64 bits."""

MAX_TEXT = 512
"""Characters of a name that is only kept or repeated."""

QUICK_BLOB = 1_398_100
"""Characters of a blob up to which its size needs no look."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LAST = {b"=": _ALPHABET[::4], b"==": _ALPHABET[::16]}
"""By the padding: which characters may stand before it, since their last bits are not used (RFC 4648 section 3.5)."""
_POP = re.compile(POP_PATTERN)
_OPERATIONS = frozenset({"create", "update", "delete"})
_HEX = frozenset("0123456789abcdef")


def parse(value: Any) -> Batch:
    """Return the batch that a request's JSON means.

    Raises 413 `batch_too_large`, and 400 `invalid_field` or `sha256_mismatch` naming the member.
    """
    if not isinstance(value, dict):
        raise invalid_field("body", "a JSON object")
    body: Mapping[str, Any] = value
    source_pop = body.get("source_pop")
    if not isinstance(source_pop, str) or not _POP.fullmatch(source_pop):
        raise invalid_field("source_pop", "the name of a POP")
    entries = body.get("entries")
    if not isinstance(entries, list):
        raise invalid_field("entries", "an array")
    if len(entries) > MAX_ENTRIES:
        raise problem(413, "batch_too_large", f"entries: expected at most {MAX_ENTRIES}.", field="entries")
    epoch = _integer(body, "epoch", 1, MAX_NUMBER)
    stream_id = _text(body, "stream_id")
    if (epoch is None) != (stream_id is None):
        raise invalid_field("stream_id" if stream_id is None else "epoch", "epoch and stream_id together")
    tokens = body.get("tokens")
    return Batch(
        source_pop=source_pop,
        items=[_item(entry, number, epoch) for number, entry in enumerate(entries)],
        epoch=epoch,
        stream_id=stream_id,
        batch_id=_text(body, "batch_id"),
        head_rev=_integer(body, "head_rev", 0, MAX_NUMBER),
        depth=_integer(body, "depth", 0, MAX_NUMBER),
        sent_at=_time(body, "sent_at"),
        complete_rev=_integer(body, "complete_rev", 0, MAX_NUMBER),
        as_of=_time(body, "as_of"),
        audit_head=_text(body, "audit_head"),
        buckets=_buckets(body.get("hashes")),
        tokens=None if tokens is None else _tokens(tokens),
        tokens_digest=_text(body, "tokens_digest"),
        confirmed_rev=_integer(body, "confirmed_rev", 0, MAX_NUMBER),
        confirmed_max_rev=_integer(body, "confirmed_max_rev", 0, MAX_NUMBER),
    )


def _item(value: Any, number: int, batch_epoch: int | None) -> Item:
    if not isinstance(value, dict):
        raise invalid_field(f"entries.{number}", "a JSON object")
    get = value.get
    entry_id = check_entry_id(get("entry_id"), f"entries.{number}.entry_id")
    operation, data, digest = get("operation"), get("encrypted_data"), get("sha256")
    if type(operation) is not str or operation not in _OPERATIONS:
        raise invalid_field(f"entries.{number}.operation", "create, update or delete")
    if operation == "delete":
        data = digest = None
    else:
        content = _blob(data, number)
        if digest is not None and digest != sha256(content).hexdigest():
            detail = f"entries.{number}.sha256: it is not that of entries.{number}.encrypted_data."
            raise problem(400, "sha256_mismatch", detail, field=f"entries.{number}.sha256")
    timestamp, epoch, rev = _numbers(value, number, batch_epoch)
    environment_id, created_at, updated_at = get("environment_id"), get("created_at"), get("updated_at")
    if environment_id is not None:
        check_entry_id(environment_id, f"entries.{number}.environment_id")
    for name, time in (("created_at", created_at), ("updated_at", updated_at)):
        if time is not None and (type(time) is not int or not 0 <= time <= MAX_TIME):
            raise invalid_field(f"entries.{number}.{name}", "µs since 1970")
    return Item(
        entry_id,
        cast("Operation", operation),
        data,
        timestamp,
        epoch,
        rev,
        digest,
        environment_id,
        created_at,
        updated_at,
    )


def _numbers(value: Mapping[str, Any], number: int, batch_epoch: int | None) -> tuple[int, int | None, int | None]:
    """Return timestamp, epoch and rev of an entry."""
    timestamp, epoch, rev = value.get("timestamp"), value.get("epoch"), value.get("rev")
    if type(timestamp) is not int or not 0 <= timestamp <= MAX_SECONDS:
        raise invalid_field(f"entries.{number}.timestamp", "seconds since 1970")
    if batch_epoch is None:
        if epoch is not None or rev is not None:
            raise invalid_field("epoch", "a number: entries have revs")
    elif type(rev) is not int or not 0 < rev <= MAX_NUMBER:
        raise invalid_field(f"entries.{number}.rev", f"an integer from 1 to {MAX_NUMBER}: the request has an epoch")
    elif epoch is None:
        epoch = batch_epoch
    elif type(epoch) is not int or not 0 <= epoch <= batch_epoch:
        raise invalid_field(f"entries.{number}.epoch", "a number no higher than the request's")
    return timestamp, epoch, rev


def _blob(value: Any, number: int) -> bytes:
    """Return the bytes of a blob's text. Raises what `check_encrypted_data` does.

    Canonical base64 is told by its characters alone: groups of four, and no bits beyond the last byte.
    """
    if type(value) is str and value.isascii() and 0 < len(value) <= QUICK_BLOB and not len(value) & 3:
        content = value.encode()
        rest = content.translate(None, _ALPHABET)
        if not rest or (content.endswith(rest) and content[-1 - len(rest)] in _LAST.get(rest, b"")):
            return content
    return check_encrypted_data(value, f"entries.{number}.encrypted_data").encode()


def _tokens(value: Any) -> list[MirroredToken]:
    if not isinstance(value, list) or len(value) > MAX_TOKENS:
        raise invalid_field("tokens", f"an array of at most {MAX_TOKENS}")
    return [_token(item, f"tokens.{number}") for number, item in enumerate(value)]


def _token(value: Any, where: str) -> MirroredToken:
    if not isinstance(value, dict):
        raise invalid_field(where, "a JSON object")
    digest = value.get("hash")
    if not isinstance(digest, str) or len(digest) != 64 or not _HEX.issuperset(digest):
        raise invalid_field(f"{where}.hash", "a SHA-256 in hex")
    kind, scope, role = value.get("kind"), value.get("scope"), value.get("role")
    if kind not in ("user", "agent"):
        raise invalid_field(f"{where}.kind", "user or agent")
    if scope not in ("read", "write"):
        raise invalid_field(f"{where}.scope", "read or write")
    if role not in ((None,) if kind == "agent" else ("ADMIN", "OPERATOR", "VIEWER")):
        raise invalid_field(f"{where}.role", "the role of a user, and none of an agent")
    owner = _text(value, "owner", where)
    if not owner:
        raise invalid_field(f"{where}.owner", "a name")
    return MirroredToken(
        hash=digest,
        kind=kind,
        owner=owner,
        role=role,
        scope=scope,
        environment_id=_text(value, "environment_id", where),
        agent_id=_text(value, "agent_id", where),
        expires_at=_time(value, "expires_at", where),
    )


def _buckets(value: Any) -> bytes | None:
    if value is None:
        return None
    try:
        raw = binascii.a2b_base64(value, strict_mode=True) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != BUCKETS * DIGEST:
        raise invalid_field("hashes", f"{BUCKETS} hashes of {DIGEST} bytes in base64")
    return raw


def _time(body: Mapping[str, Any], name: str, where: str = "") -> int | None:
    return _integer(body, name, 0, MAX_TIME, where)


def _integer(body: Mapping[str, Any], name: str, low: int, high: int, where: str = "") -> int | None:
    value = body.get(name)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    raise invalid_field(f"{where}.{name}" if where else name, f"an integer from {low} to {high}")


def _text(body: Mapping[str, Any], name: str, where: str = "") -> str | None:
    value = body.get(name)
    if value is None or (isinstance(value, str) and len(value) <= MAX_TEXT and "\x00" not in value):
        return value
    raise invalid_field(f"{where}.{name}" if where else name, f"a text of at most {MAX_TEXT} characters")
