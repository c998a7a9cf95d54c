"""The token is nowhere but in its own row: whatever is asked of the server, and whatever goes wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_licensing import store
from clavitor_licensing.tables import license_table, state_table
from clavitor_licensing_testing.server import DAY, LICENSE, NOW, USAGE, Log, Server, Start, token

from clavitor_host.audit.tables import audit_log


def pieces(*tokens: str) -> list[str]:
    """Every stretch of the tokens that is long enough to be nothing else."""
    return [text[index : index + 20] for text in tokens for index in range(0, len(text) - 20, 4)]


async def ask_everything(server: Server) -> str:
    said = []
    for path in (LICENSE, USAGE, "/api/v1/status", "/api/v1/prometheus", "/api/openapi.json", "/readyz"):
        said.append((await server.admin.get(path)).text)
    said += [str(row) for row in await server.host.db.fetch_all(sa.select(audit_log))]
    said += [str(row) for row in await server.host.db.fetch_all(sa.select(state_table))]
    columns = [column for column in license_table.columns if column.name != "token"]
    said += [str(row) for row in await server.host.db.fetch_all(sa.select(*columns))]
    said += [repr(server.service.__dict__), repr(server.service.known()), str(await server.host.status())]
    return "\n".join(said)


async def test_no_token_in_any_log_audit_row_metric_answer_or_exception(
    start: Start, logged: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other, refused = token(label="one"), token(label="two"), token(key=1, label="three")
    stranger, late, future = token(tenantId="beta"), token(exp=NOW - 90 * DAY, iat=1), token(iat=NOW + DAY)
    unknown = token(features=["debugger"], tier="gold")
    file = tmp_path / "license.tok"
    file.write_text(other)
    said = []
    server = await start(CLAVITOR_LICENSE_TOKEN=good)
    said.append(await ask_everything(server))
    for text in (refused, stranger, future, good[:-6], good + "A", "\ud7ff" + good, late, unknown, other):
        reply = await server.admin.post(LICENSE, json={"token": text})
        preview = await server.admin.post(f"{LICENSE}?dry_run=true", json={"token": text})
        said += [reply.text, preview.text, await ask_everything(server)]
    for body in ({"token": [good]}, {"token": good, "more": good}, [good], good):
        said.append((await server.admin.post(LICENSE, json=body)).text)
    said.append((await server.admin.post(LICENSE, content=f'{{"token": "{good}"')).text)
    said.append((await server.admin.get(f"{LICENSE}?dry_run=true")).text)
    for name in ("a", "b", "c", "d", "e", "f"):
        said.append((await server.create_user(name)).text)

    async def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_license", broken)
        failed = await server.admin.post(LICENSE, json={"token": good})
        assert failed.status_code == 500
        said.append(failed.text)
    await server.host.db.execute(sa.update(license_table).values(token=refused))
    await server.tick()
    await server.service.revalidate()
    said.append(await ask_everything(server))
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=refused)
    said.append(await ask_everything(server))
    server = await start(stop=server, CLAVITOR_LICENSE_FILE=str(file))
    said += [await ask_everything(server), repr(server.host.plugin_config("licensing")), (await _delete(server))]
    everything = "\n".join(said) + logged.text
    tokens = (good, other, refused, stranger, late, future, unknown)
    # The payloads share what is public; what is secret of a token is that all of it stands somewhere.
    assert [piece for piece in pieces(*tokens) if piece in everything] == []
    assert "ignored" in logged.text and "tier" in logged.text


async def _delete(server: Server) -> str:
    return (await server.admin.delete(LICENSE)).text


async def test_a_rejected_token_is_never_stored(server: Server) -> None:
    await server.install(token())
    refused = token(key=1, label="canary")
    await server.install(refused, expect=400)
    for table in (license_table, state_table, audit_log):
        rows = str(await server.host.db.fetch_all(sa.select(table)))
        assert not any(piece in rows for piece in pieces(refused.partition(".")[2]))
