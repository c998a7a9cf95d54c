"""Clients that hang up in the middle of what they ask for: nothing half is kept, and the server does not mind."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from clavitor_host.storage.database import sqlite_url
from tests.faults.workload import Ledger, Load, Wire, check, check_history, check_integrity, eventually

if TYPE_CHECKING:
    from clavitor_host.testing.process import ServerProcess
    from tests.faults.conftest import Serve

BLOB = base64.b64encode(bytes(range(256)) * 200).decode()


def _hang_up(sock: socket.socket, *, reset: bool) -> None:
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _put(server: ServerProcess, entry_id: str, blob: str) -> bytes:
    body = json.dumps({"encrypted_data": blob}).encode()
    head = f"PUT /api/entries/{entry_id} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + f"Authorization: {server.authorization['Authorization']}\r\n\r\n".encode() + body


async def _descriptors(server: ServerProcess) -> int:
    return await asyncio.to_thread(lambda: len(list(Path(f"/proc/{server.pid}/fd").iterdir())))


async def test_a_put_cut_off_in_its_body_changes_nothing(serve: Serve) -> None:
    server = serve()
    chance = random.Random(9)
    wire = await Wire.open(server.address, server.token)
    status, headers, _ = await wire.request("PUT", "/api/entries/kept", {"encrypted_data": BLOB})
    assert status == 201
    before = await _descriptors(server)
    for number in range(60):
        data = _put(server, ("kept", f"new-{number}")[number % 2], base64.b64encode(b"other").decode() + BLOB[8:])
        with socket.create_connection(server.address, timeout=10) as sock:
            sock.sendall(data[: chance.randrange(40, len(data))])
            _hang_up(sock, reset=number % 3 == 0)
    status, again, kept = await wire.request("GET", "/api/entries/kept")
    assert (status, again["etag"], kept["encrypted_data"]) == (200, headers["etag"], BLOB)
    _, _, page = await wire.request("GET", "/api/changes")
    assert [change["entry_id"] for change in page["changes"]] == ["kept"]

    async def all_closed() -> bool:
        return await _descriptors(server) <= before

    await eventually(all_closed)
    await wire.close()
    server.terminate()
    assert server.process.returncode == 0
    assert " ERROR " not in server.log


async def test_hanging_up_while_a_write_waits_leaves_all_of_it_or_nothing(serve: Serve) -> None:
    server = serve()
    ledger = Ledger()
    load = Load(ledger, seed=10)
    whole: set[str] = set()
    async with load.on(server):
        for number in range(150):
            await load.wrote(1)
            with socket.create_connection(server.address, timeout=10) as sock:
                sock.sendall(_put(server, f"gone-{number}", BLOB))  # all of it, and away
                _hang_up(sock, reset=number % 2 == 0)
            whole.add(f"gone-{number}")
    ledger.doubts.extend({entry_id: BLOB} for entry_id in whole)
    await check(server, ledger)  # every state is explained, and no half of a blob is there
    await check_history(sqlite_url(server.data_dir / "vault.db"), ledger)
    check_integrity(server.data_dir / "vault.db")
    server.terminate()
    assert server.process.returncode == 0
    assert " ERROR " not in server.log
    assert "Traceback" not in server.log
