"""The audit chain (vault.md section 3): what is recorded, that tampering shows, retention, export."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from clavitor_host import strict_json
from clavitor_host.audit import chain
from clavitor_host.audit.checkpoint import KEY_FILE, prune, signing_key
from clavitor_host.audit.models import AuditEntry
from clavitor_host.audit.tables import audit_checkpoints, audit_head, audit_log
from clavitor_host.audit.verify import verify, verify_host
from clavitor_host.host import Host

BLOB = base64.b64encode(b"sealed").decode()


@pytest.fixture
async def written(host: Host, writer: httpx.AsyncClient) -> Host:
    """A host with a chain of some length."""
    for number in range(5):
        await writer.put(f"/api/entries/e{number}", json={"encrypted_data": BLOB})
    await writer.delete("/api/entries/e0")
    return host


async def test_every_write_is_recorded_with_who_what_and_where_from(written: Host) -> None:
    rows = await written.db.fetch_all(sa.select(audit_log).where(audit_log.c.category == "VAULT"))
    assert [row["action"] for row in rows] == ["create_entry"] * 5 + ["delete_entry"]
    assert {row["actor"] for row in rows} == {"operator"}
    assert {row["source"] for row in rows} == {"127.0.0.1"}
    assert [row["entry_id"] for row in rows] == ["e0", "e1", "e2", "e3", "e4", "e0"]
    assert BLOB not in json.dumps([dict(row) for row in rows])


async def test_an_untouched_chain_verifies(written: Host) -> None:
    seen: list[tuple[int, int]] = []
    result = await verify(written.db, lambda done, total: seen.append((done, total)))
    assert result.ok
    assert result.rows == result.head_id > 6
    assert seen[-1] == (result.rows, result.rows)


@pytest.mark.parametrize("column", [name for name in chain.COLUMNS if name not in ("id", "prev_hash")])
async def test_an_edited_row_is_named(written: Host, column: str) -> None:
    row = await written.db.fetch_one(sa.select(audit_log).where(audit_log.c.action == "delete_entry"))
    assert row is not None
    value = row[column] + 1 if isinstance(row[column], int) else f"{row[column]} "
    await written.db.execute(sa.update(audit_log).where(audit_log.c.id == row["id"]).values({column: value}))
    result = await verify(written.db)
    assert (result.ok, result.broken_id) == (False, row["id"])
    assert "content" in result.reason


async def test_a_row_rewritten_with_its_hash_breaks_the_next(written: Host) -> None:
    row = await written.db.fetch_one(sa.select(audit_log).where(audit_log.c.id == 3))
    assert row is not None
    forged = {**row, "actor": "somebody else"}
    forged["hash"] = chain.row_hash(forged)
    await written.db.execute(sa.update(audit_log).where(audit_log.c.id == 3).values(forged))
    result = await verify(written.db)
    assert (result.broken_id, "prev_hash" in result.reason) == (4, True)


async def test_a_missing_row_is_named(written: Host) -> None:
    await written.db.execute(sa.delete(audit_log).where(audit_log.c.id == 4))
    result = await verify(written.db)
    assert (result.broken_id, result.reason) == (4, "the row is missing")


async def test_a_cut_off_end_shows(written: Host) -> None:
    head = await written.db.fetch_val(sa.select(audit_head.c.audit_id))
    await written.db.execute(sa.delete(audit_log).where(audit_log.c.id >= head - 1))
    result = await verify(written.db)
    assert (result.broken_id, "cut short" in result.reason) == (head - 1, True)


async def test_the_head_is_exported_so_that_setting_it_back_shows(written: Host, client: httpx.AsyncClient) -> None:
    lines = (await client.get("/api/v1/prometheus")).text.splitlines()
    exported = {name: float(value) for name, value in (line.split(" ") for line in lines if line[0] != "#")}
    head = await written.db.fetch_one(sa.select(audit_head))
    assert head is not None
    assert exported["clavitor_audit_head_id"] == head["audit_id"]
    assert exported["clavitor_audit_head_hash"] == int(head["hash"][:12], 16)


async def test_concurrent_records_make_one_chain(host: Host) -> None:
    def entry(number: int) -> AuditEntry:
        return AuditEntry("TEST", "note", "me", f"note {number}", payload={"n": number, "text": "é\n"})

    async def in_transaction(number: int) -> None:
        async with host.db.transaction() as tx:
            await host.audit.record(tx, entry(number), entry(number))

    await asyncio.gather(*(host.audit.note(entry(n)) for n in range(40)), *(in_transaction(n) for n in range(10)))
    result = await verify(host.db)
    assert (result.ok, result.rows) == (True, 60)


async def test_a_rolled_back_transaction_leaves_no_row(host: Host) -> None:
    with pytest.raises(ZeroDivisionError):
        async with host.db.transaction() as tx:
            await host.audit.record(tx, AuditEntry("TEST", "note", "me", "never"))
            raise ZeroDivisionError
    assert (await verify(host.db)).rows == 0


async def test_retention_drops_a_prefix_behind_a_signed_checkpoint(written: Host) -> None:
    now = written.clock.now_us()
    await written.db.execute(sa.update(audit_log).where(audit_log.c.id <= 3).values(at=0))

    async def retain() -> int:
        return await prune(written.db, written.audit, data_dir=written.data_dir, retention_days=1, now=now)

    assert await retain() == 3
    assert await written.db.fetch_val(sa.select(sa.func.min(audit_log.c.id))) == 4
    result = await verify_host(written)
    assert result.ok, result.reason
    assert (Path(written.data_dir) / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert await retain() == 0
    newest = await written.db.fetch_one(sa.select(audit_log).order_by(audit_log.c.id.desc()).limit(1))
    assert newest is not None
    assert (newest["action"], json.loads(newest["payload"])["rows"]) == ("prune_audit", 3)


async def test_a_forged_checkpoint_shows(written: Host) -> None:
    await written.db.execute(sa.update(audit_log).where(audit_log.c.id <= 3).values(at=0))
    await prune(written.db, written.audit, data_dir=written.data_dir, retention_days=1, now=written.clock.now_us())
    forged = await written.db.fetch_val(sa.select(audit_log.c.hash).where(audit_log.c.id == 4))
    await written.db.execute(sa.delete(audit_log).where(audit_log.c.id == 4))
    await written.db.execute(sa.update(audit_checkpoints).values(up_to_id=4, up_to_hash=forged))
    result = await verify(written.db)
    assert (result.ok, "checkpoint" in result.reason) == (False, True)


async def test_a_checkpoint_of_a_stranger_proves_nothing(written: Host, tmp_path: Path) -> None:
    row = await written.db.fetch_one(sa.select(audit_log).where(audit_log.c.id == 4))
    assert row is not None
    stranger = signing_key(tmp_path)
    public = base64.b64encode(stranger.public_key().public_bytes_raw()).decode()
    point = {"up_to_id": 4, "up_to_hash": row["hash"], "at": 5, "public_key": public}
    signature = base64.b64encode(stranger.sign(strict_json.canonical(point))).decode()
    await written.db.execute(sa.insert(audit_checkpoints).values(**point, signature=signature))
    await written.db.execute(sa.delete(audit_log).where(audit_log.c.id <= 4))
    result = await verify_host(written)
    assert (result.ok, result.broken_id, public in result.reason) == (False, 4, True)
    assert (await verify(written.db, trusted={public})).ok


async def test_the_newest_row_always_stays(written: Host) -> None:
    await written.db.execute(sa.update(audit_log).values(at=0))
    head = await written.db.fetch_val(sa.select(audit_head.c.audit_id))
    dropped = await prune(
        written.db, written.audit, data_dir=written.data_dir, retention_days=1, now=written.clock.now_us()
    )
    assert dropped == head - 1
    assert await written.db.fetch_val(sa.select(sa.func.max(audit_log.c.id))) == head + 1


async def test_filters_and_pages(written: Host, admin: httpx.AsyncClient) -> None:
    url = "/api/v1/admin/audit"
    only = (await admin.get(f"{url}?entry_id=e0")).json()["rows"]
    assert [row["action"] for row in only] == ["delete_entry", "create_entry"]
    assert len((await admin.get(f"{url}?category=VAULT&actor=operator")).json()["rows"]) == 6
    assert (await admin.get(f"{url}?since={written.clock.now_us() + 10**9}")).json()["rows"] == []
    seen: list[int] = []
    cursor = ""
    while True:
        page = (await admin.get(f"{url}?limit=3{cursor}")).json()
        seen += [row["id"] for row in page["rows"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] == 1


async def test_export_as_json_lines_and_csv(written: Host, admin: httpx.AsyncClient) -> None:
    evil = AuditEntry("TEST", "note", "=cmd()", 'quotes " and, commas\nand lines')
    await written.audit.note(evil)
    lines = (await admin.get("/api/v1/admin/audit/export")).text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    table = list(csv.DictReader(io.StringIO((await admin.get("/api/v1/admin/audit/export?format=csv")).text)))
    assert [int(row["id"]) for row in table] == [row["id"] for row in rows]
    assert (table[-1]["actor"], table[-1]["title"]) == ("'=cmd()", evil.title)
    assert (await admin.get("/api/v1/admin/audit/export?format=xml")).status_code == 400


async def test_the_api_verifies_too(written: Host, admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/api/v1/admin/audit/verify")).json()["ok"] is True
    await written.db.execute(sa.update(audit_log).where(audit_log.c.id == 2).values(title="edited"))
    assert (await admin.get("/api/v1/admin/audit/verify")).json()["broken_id"] == 2


async def test_only_who_may_read_it_reads_it(
    client_for: Callable[..., Awaitable[httpx.AsyncClient]], client: httpx.AsyncClient
) -> None:
    assert (await client.get("/api/v1/admin/audit")).status_code == 401
    assert (await (await client_for("VIEWER")).get("/api/v1/admin/audit")).status_code == 403
    assert (await (await client_for("OPERATOR")).get("/api/v1/admin/audit")).status_code == 200
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        reply = await (await client_for("ADMIN")).request(method, "/api/v1/admin/audit")
        assert reply.status_code == 405
