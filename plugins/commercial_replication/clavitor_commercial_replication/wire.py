"""What two POPs say to each other: the seed's JSON with members added, each way.

`parse` and `read_answer` are in `parsing` and `answers`: what is read is what strangers may have sent.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from hashlib import sha256
from json.encoder import encode_basestring_ascii
from typing import Any

from clavitor_commercial_replication.answers import encode_answer, read_answer
from clavitor_commercial_replication.models import MAX_ENTRIES, Batch, Item
from clavitor_commercial_replication.parsing import parse

__all__ = ["MAX_BODY", "MAX_ENTRIES", "PATH", "body", "encode", "encode_answer", "parse", "read_answer"]

PATH = "/api/replication/apply"

MAX_BODY = 16 * 1024 * 1024
"""Bytes of one request, at most."""

_BATCH_FIELDS = (
    "epoch",
    "stream_id",
    "batch_id",
    "head_rev",
    "depth",
    "sent_at",
    "complete_rev",
    "as_of",
    "audit_head",
    "tokens_digest",
    "confirmed_rev",
    "confirmed_max_rev",
)


def encode(batch: Batch) -> bytes:
    """Return the bytes of a request: the JSON of `body`, made at a fraction of its cost."""
    text = json.dumps(body(batch._replace(items=())), separators=(",", ":"), allow_nan=False)
    entries = ",".join([_entry_text(item) for item in batch.items])
    return text.replace('"entries":[]', f'"entries":[{entries}]', 1).encode()


def body(batch: Batch) -> dict[str, Any]:
    """Return the JSON of a request. The SHA-256 of what has none yet is added."""
    result: dict[str, Any] = {"source_pop": batch.source_pop, "entries": [_item_out(item) for item in batch.items]}
    for name in _BATCH_FIELDS:
        if (value := getattr(batch, name)) is not None:
            result[name] = value
    if batch.buckets is not None:
        result["hashes"] = binascii.b2a_base64(batch.buckets, newline=False).decode()
    if batch.tokens is not None:
        result["tokens"] = [_present(token._asdict()) for token in batch.tokens]
    return result


def _entry_text(item: Item) -> str:
    """Return the JSON of `_item_out(item)`. Base64 needs no escapes; all else is quoted or a number."""
    if item.epoch is None or item.created_at is None or item.updated_at is None:
        return json.dumps(_item_out(item), separators=(",", ":"))
    data, environment_id, content = item.encrypted_data, "", ""
    if item.environment_id is not None:
        environment_id = f',"environment_id":{encode_basestring_ascii(item.environment_id)}'
    if data is not None:
        digest = item.sha256 or sha256(data.encode()).hexdigest()
        content = f',"encrypted_data":"{data}","sha256":"{digest}"'
    return (
        f'{{"entry_id":{encode_basestring_ascii(item.entry_id)},"operation":"{item.operation}"'
        f',"timestamp":{item.timestamp},"epoch":{item.epoch},"rev":{item.rev}{environment_id}'
        f',"created_at":{item.created_at},"updated_at":{item.updated_at}{content}}}'
    )


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _item_out(item: Item) -> dict[str, Any]:
    out: dict[str, Any] = {"entry_id": item.entry_id, "operation": item.operation, "timestamp": item.timestamp}
    data = item.encrypted_data
    if not item.deleted:
        out["encrypted_data"] = data
    if item.epoch is None:
        return out
    out["epoch"], out["rev"] = item.epoch, item.rev
    if data is not None:
        out["sha256"] = item.sha256 or sha256(data.encode()).hexdigest()
    if item.environment_id is not None:
        out["environment_id"] = item.environment_id
    out["created_at"], out["updated_at"] = item.created_at, item.updated_at
    return out
