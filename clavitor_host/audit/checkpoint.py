"""Retention: a signed checkpoint is written before a prefix of the chain is dropped."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from clavitor_host import strict_json
from clavitor_host.audit.models import AuditEntry
from clavitor_host.audit.tables import audit_checkpoints, audit_log

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from clavitor_host.audit.log import AuditLog
    from clavitor_host.storage.database import Database

DAY_US = 86_400_000_000
KEY_FILE = "audit-signing.pem"


async def prune(db: Database, log: AuditLog, *, data_dir: Path, retention_days: int, now: int) -> int:
    """Drop rows older than `retention_days` before `now` (µs). Returns how many.

    The checkpoint, the audit row about it and the deletion are one transaction. The newest row always stays.
    """
    async with db.transaction() as tx:
        newest = await tx.fetch_val(sa.select(sa.func.max(audit_log.c.id)))
        keep_from = await tx.fetch_val(
            sa.select(sa.func.min(audit_log.c.id)).where(audit_log.c.at >= now - retention_days * DAY_US)
        )
        last = await tx.fetch_one(
            sa.select(audit_log.c.id, audit_log.c.hash)
            .where(audit_log.c.id < (newest or 0) if keep_from is None else audit_log.c.id < keep_from)
            .order_by(audit_log.c.id.desc())
            .limit(1)
        )
        if last is None:
            return 0
        key = signing_key(data_dir)
        point = {"up_to_id": last["id"], "up_to_hash": last["hash"], "at": now, "public_key": _public(key)}
        signature = base64.b64encode(key.sign(strict_json.canonical(point))).decode()
        await tx.execute(sa.insert(audit_checkpoints).values(**point, signature=signature))
        dropped = await tx.execute(sa.delete(audit_log).where(audit_log.c.id <= last["id"]))
        await log.record(
            tx,
            AuditEntry(
                category="AUDIT",
                action="prune_audit",
                actor="system",
                title=f"dropped audit rows up to {last['id']}",
                payload={"up_to_id": last["id"], "up_to_hash": last["hash"], "rows": dropped},
            ),
        )
    return dropped


def signing_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return this node's checkpoint key from the data folder, made (mode 0600) when it is not there yet."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = data_dir / KEY_FILE
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def trusted_keys(data_dir: Path, others: Iterable[str] = ()) -> frozenset[str]:
    """Return the public keys (base64) whose checkpoints count: this node's own, and those of `others`."""
    own = {_public(signing_key(data_dir))} if (data_dir / KEY_FILE).exists() else set()
    return frozenset(own | set(others))


def signature_holds(checkpoint: Mapping[str, Any], trusted: Collection[str]) -> bool:
    """Return whether a stored checkpoint is signed by a key of `trusted`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if checkpoint["public_key"] not in trusted:
        return False
    point = {name: checkpoint[name] for name in ("up_to_id", "up_to_hash", "at", "public_key")}
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(checkpoint["public_key"], validate=True))
        key.verify(base64.b64decode(checkpoint["signature"], validate=True), strict_json.canonical(point))
    except (ValueError, InvalidSignature):
        return False
    return True


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
