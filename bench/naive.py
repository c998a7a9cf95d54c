"""The naive way: Quart and `databases` as their tutorials show them, on the product's own tables.

A connection per request, a commit per request, the bearer token looked up, the audit row in the same transaction.
A lock keeps two transactions of the process apart: without it most of them fail with "database is locked".
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from databases import Database
from quart import Quart, Response, request

from clavitor_host.audit import chain
from clavitor_host.audit.models import AuditEntry
from clavitor_host.audit.tables import audit_head, audit_log
from clavitor_host.identity.tables import tokens, users
from clavitor_host.vault.tables import entries, vault_head


def create_app(file: Path) -> Quart:
    """Return an application that knows `PUT /api/entries/<id>`."""
    app = Quart("bench")
    database = Database(f"sqlite:///{file}")
    lock = asyncio.Lock()

    @app.before_serving
    async def connect() -> None:
        await database.connect()

    @app.after_serving
    async def disconnect() -> None:
        await database.disconnect()

    async def user_of(authorization: str) -> str | None:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        query = (
            sa.select(users.c.name, tokens.c.expires_at, tokens.c.scope)
            .select_from(tokens.join(users, users.c.id == tokens.c.user_id))
            .where(tokens.c.hash == digest, users.c.disabled.is_(False))
        )
        row: Any = await database.fetch_one(query)
        return None if row is None or row["scope"] != "write" else row["name"]

    @app.put("/api/entries/<entry_id>")
    async def put(entry_id: str) -> Response | tuple[dict[str, Any], int]:
        user = await user_of(request.headers.get("Authorization", ""))
        if user is None:
            return Response(status=401)
        body = await request.get_json()
        now = time.time_ns() // 1000
        async with lock, database.transaction():
            head: Any = await database.fetch_one(sa.select(vault_head).where(vault_head.c.id == 1))
            known: Any = await database.fetch_one(
                sa.select(entries.c.rev, entries.c.created_at).where(entries.c.entry_id == entry_id)
            )
            rev = head["rev"] + 1
            values = {"encrypted_data": body["encrypted_data"], "rev": rev, "updated_at": now}
            if known is None:
                await database.execute(sa.insert(entries).values(entry_id=entry_id, created_at=now, **values))
            else:
                await database.execute(sa.update(entries).where(entries.c.entry_id == entry_id).values(**values))
            await database.execute(
                sa.update(vault_head)
                .where(vault_head.c.id == 1)
                .values(rev=rev, updated_at=now, live_entries=head["live_entries"] + (known is None))
            )
            await record(user, entry_id, rev, now)
        answer = {
            "entry_id": entry_id,
            "rev": rev,
            "created_at": now if known is None else known["created_at"],
            "updated_at": now,
        }
        return answer, 201 if known is None else 200

    async def record(user: str, entry_id: str, rev: int, now: int) -> None:
        head: Any = await database.fetch_one(sa.select(audit_head).where(audit_head.c.id == 1))
        entry = AuditEntry("VAULT", "create_entry", user, f"created entry {entry_id}", entry_id, {"rev": rev})
        (row,) = chain.link([entry], head_id=head["audit_id"], head_hash=head["hash"], at=now)
        await database.execute(sa.insert(audit_log).values(row))
        await database.execute(
            sa.update(audit_head).where(audit_head.c.id == 1).values(audit_id=row["id"], hash=row["hash"])
        )

    return app
