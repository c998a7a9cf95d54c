"""The backup's answer: writing it, and reading it without believing what cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clavitor_commercial_replication.digests import BUCKETS
from clavitor_commercial_replication.models import Answer, Batch, Failure

MAX_TEXT = 512
"""Characters of a name that is only kept."""

MAX_DETAIL = 512
"""Characters that are kept of why an entry failed."""


def encode_answer(answer: Answer) -> dict[str, Any]:
    """Return the JSON of an answer."""
    result: dict[str, Any] = {
        "acknowledged": list(answer.acknowledged),
        "failed": [failure.entry_id for failure in answer.failures],
        "already_exists": list(answer.already_exists),
        "failures": [failure._asdict() for failure in answer.failures],
        "epoch": answer.epoch,
        "applied_max_rev": answer.applied_max_rev,
        "batch_id": answer.batch_id,
        "tokens_digest": answer.tokens_digest,
        "complete_rev": answer.complete_rev,
        "pop": answer.pop,
        "audit_head": answer.audit_head,
    }
    if answer.differing is not None:
        result["differing"] = list(answer.differing)
    return result


def read_answer(content: bytes, sent: Batch) -> Answer:
    """Return what the backup answered to `sent`.

    Raises `ValueError` for what is no answer, or that of another batch: then nothing counts as acknowledged.
    """
    try:
        value = json.loads(content.decode())
    except RecursionError:
        raise ValueError("the answer is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")
    body: Mapping[str, Any] = value
    batch_id = body.get("batch_id")
    if batch_id is not None and batch_id != sent.batch_id:
        raise ValueError("the answer is that of another batch")
    known = {item.entry_id for item in sent.items}
    acknowledged = _ids(body, "acknowledged", known)
    exists = _ids(body, "already_exists", known)
    failed = _ids(body, "failed", known)
    if known.intersection(failed).intersection((*acknowledged, *exists)):
        raise ValueError("the answer says of one entry that it was applied and that it was not")
    epoch, applied = body.get("epoch", 0), body.get("applied_max_rev", 0)
    differing = body.get("differing")
    if type(epoch) is not int or type(applied) is not int or epoch < 0 or applied < 0:
        raise ValueError("the answer's numbers are none")
    if differing is not None and not (
        isinstance(differing, list) and all(type(number) is int and 0 <= number < BUCKETS for number in differing)
    ):
        raise ValueError("the answer's differing buckets are none")
    complete = body.get("complete_rev")
    if complete is not None and (type(complete) is not int or complete < 0):
        raise ValueError("the answer's complete_rev is none")
    return Answer(
        acknowledged=acknowledged,
        already_exists=exists,
        failures=_failures(body.get("failures"), failed),
        epoch=epoch,
        applied_max_rev=applied,
        batch_id=batch_id,
        differing=differing,
        tokens_digest=_text(body, "tokens_digest"),
        complete_rev=complete,
        pop=_text(body, "pop"),
        audit_head=_text(body, "audit_head"),
    )


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or (isinstance(value, str) and len(value) <= MAX_TEXT and "\x00" not in value):
        return value
    raise ValueError(f"the answer's {name} is none")


def _ids(body: Mapping[str, Any], name: str, known: set[str]) -> list[str]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) and item in known for item in value):
        raise ValueError(f"the answer's {name} are not entries that were sent")
    return value


def _failures(told: Any, failed: Sequence[str]) -> list[Failure]:
    """Return why each failed; in the plain format nothing is said, so it is worth another try."""
    details: dict[str, Failure] = {}
    for value in told if isinstance(told, list) else ():
        if isinstance(value, dict) and isinstance(value.get("entry_id"), str):
            details[value["entry_id"]] = Failure(
                entry_id=value["entry_id"],
                code=str(value.get("code", "failed"))[:64],
                detail=str(value.get("detail", ""))[:MAX_DETAIL],
                retryable=value.get("retryable") is not False,
            )
    plain = [Failure(entry_id, "failed", "The backup did not say why.", retryable=True) for entry_id in failed]
    return [details.get(failure.entry_id, failure) for failure in plain]
