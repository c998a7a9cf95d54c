"""Uploads to a real server, by clients that lie or go, and onto a disk that is nearly full."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_fleet_testing.program import ENVIRON, PROGRAM, with_fleet

from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.testing.process import ServerProcess

MIB = 1024 * 1024
PATIENCE = 20.0
PIECE = os.urandom(MIB)


def server_in(folder: Path, **options: Any) -> ServerProcess:
    return ServerProcess(folder, program=PROGRAM, environ=ENVIRON, bundle=with_fleet(frozen_set()), **options)


class Vault:
    """A server with an app in it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.client = httpx.Client(base_url=f"{server.url}/api/v1", headers=server.authorization, timeout=60)
        environment = self._made("environments", name="production", jar_retention_count=3)
        self.app = self._made("apps", name="shop", environment_id=environment)
        self.path = f"/api/v1/apps/{self.app}/artifacts"

    def close(self) -> None:
        self.client.close()

    def _made(self, path: str, **body: object) -> str:
        reply = self.client.post(path, json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def upload(self, version: str, size: int, content: Callable[[], Iterator[bytes]] | None = None) -> httpx.Response:
        """Upload that many MiB."""
        whole = hashlib.sha256(PIECE * size).hexdigest()
        body = PIECE * size if content is None else content()
        headers = {"X-Content-SHA256": whole}
        return self.client.post(
            f"apps/{self.app}/artifacts", params={"version": version}, content=body, headers=headers
        )

    def head(self, version: str, *lines: str) -> bytes:
        authorization = self.server.authorization["Authorization"]
        first = f"POST {self.path}?version={version} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n"
        hash = f"X-Content-SHA256: {hashlib.sha256(PIECE * 3).hexdigest()}\r\n"
        return (first + hash + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()

    def kept(self) -> tuple[int, int, int]:
        """How many artifacts, chunks and unfinished uploads the database has."""
        with closing(sqlite3.connect(f"file:{self.server.data_dir}/vault.db?mode=ro", uri=True)) as database:
            tables = ("artifacts", "artifact_chunks", "artifact_uploads")
            counts = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
        return counts[0], counts[1], counts[2]

    def kept_at_last(self, wanted: tuple[int, int, int]) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.kept() != wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.kept() == wanted


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    config = f"[plugins.fleet]\nartifact_bytes = {40 * MIB}\n\n[limits]\nbody_timeout = 1.0\n"
    with server_in(tmp_path, config=config) as server:
        with closing(Vault(server)) as vault:
            yield vault
        assert "Traceback" not in server.log


@pytest.mark.parametrize("way", ["close", "reset", "stall"])
def test_a_client_that_stops_half_way_leaves_nothing(vault: Vault, way: str) -> None:
    with socket.create_connection(vault.server.address, timeout=PATIENCE) as sock:
        sock.sendall(vault.head("1.0", f"Content-Length: {3 * MIB}") + PIECE * 2 + PIECE[:1000])
        deadline = time.monotonic() + PATIENCE
        while vault.kept()[1] < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        if way == "stall":
            assert b" 408 " in sock.recv(4096).partition(b"\r\n")[0]
        if way == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    vault.kept_at_last((0, 0, 0))
    assert vault.upload("1.0", 3).status_code == 201
    assert vault.kept() == (1, 3, 0)


def test_more_than_is_allowed_is_a_413_and_leaves_nothing(vault: Vault) -> None:
    announced = vault.upload("1.0", 41)
    assert (announced.status_code, announced.json()["code"]) == (413, "body_too_large")

    def pieces() -> Iterator[bytes]:
        for _ in range(41):
            yield PIECE

    try:
        unannounced = vault.upload("1.0", 41, pieces)
        assert (unannounced.status_code, unannounced.json()["code"]) == (413, "body_too_large")
    except httpx.WriteError:
        pass  # the server has hung up before it was told everything
    vault.kept_at_last((0, 0, 0))
    assert vault.upload("1.0", 40).status_code == 201


def test_what_was_uploaded_survives_a_crash_and_comes_back_whole(vault: Vault) -> None:
    made = vault.upload("1.0", 5)
    assert made.status_code == 201
    vault.server.kill()
    vault.server.start()
    url = f"{vault.server.url}/api/v1/artifacts/{made.json()['id']}/content"
    got = httpx.get(url, headers=vault.server.authorization, timeout=60)
    assert hashlib.sha256(got.content).hexdigest() == made.json()["sha256"]
    assert got.headers["Content-Length"] == str(5 * MIB)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 120 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_upload_never_takes_the_room_that_the_vault_needs(tmp_path: Path, small_disk: Path) -> None:
    with server_in(tmp_path, data_dir=small_disk / "data") as server, closing(Vault(server)) as vault:
        refused = vault.upload("1.0", 100)
        assert (refused.status_code, refused.json()["code"]) == (507, "insufficient_storage")
        vault.kept_at_last((0, 0, 0))
        assert shutil.disk_usage(small_disk).free > 60 * MIB
        entry = {"encrypted_data": "AAAA"}
        written = httpx.put(f"{server.url}/api/entries/key", json=entry, headers=server.authorization)
        assert written.status_code == 201
        assert vault.upload("1.0", 10).status_code == 201
