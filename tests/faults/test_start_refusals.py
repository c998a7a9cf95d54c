"""What stops the start: one clear line on standard error, the documented exit code, never a trace."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from clavitor_host.cli.exit_codes import ExitCode
from clavitor_host.testing.postgres import PostgresServer
from clavitor_host.testing.process import ServerProcess

if TYPE_CHECKING:
    from tests.faults.conftest import Serve

PROGRESS = re.compile(r"\S+ INFO +(Starting Clavitor Vault v\S+ - Community Edition|Migrating host to \S+)")


def refusal(server: ServerProcess, code: ExitCode) -> str:
    """Start a server that must not start; return its one line."""
    server.start(ready=False)
    assert server.wait() == code, server.last_log
    lines = [line for line in server.last_log.splitlines() if not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, server.last_log
    assert lines[0].startswith("error: ")
    assert "unexpected" not in lines[0]
    assert "Traceback" not in server.last_log
    return lines[0]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose server was ended in order."""
    server = ServerProcess(tmp_path_factory.mktemp("vault"))
    assert server.token
    return server.data_dir


@pytest.fixture
def database(vault: Path, tmp_path: Path) -> Path:
    """The database file of a copy of it, at the place where `serve` looks."""
    return Path(shutil.copytree(vault, tmp_path / "server" / "data")) / "vault.db"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken(serve: Serve, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refusal(serve(start=False, bind=bind, workers=workers), ExitCode.UNAVAILABLE)
    assert bind in line
    assert "in use" in line


def test_an_address_of_another_machine(serve: Serve) -> None:
    line = refusal(serve(start=False, bind="192.0.2.1:8400"), ExitCode.UNAVAILABLE)
    assert "192.0.2.1:8400 is not an address of this machine" in line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_folder_that_is_a_file(serve: Serve, tmp_path: Path, workers: int) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    line = refusal(serve(start=False, data_dir=file, workers=workers), ExitCode.UNAVAILABLE)
    assert str(file) in line
    assert file.read_text() == "not a folder"


@pytest.mark.parametrize("folder", ["missing", "there"])
def test_a_data_folder_that_cannot_be_written(serve: Serve, tmp_path: Path, folder: str) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount(8): as root only a read-only file system refuses writes")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (disk / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        line = refusal(serve(start=False, data_dir=disk / folder), ExitCode.UNAVAILABLE)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert str(disk / folder) in line
    assert "Read-only file system" in line


def test_a_database_that_another_program_locks(serve: Serve, database: Path) -> None:
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE vault_head SET rev = rev")
        line = refusal(serve(start=False), ExitCode.UNAVAILABLE)
    finally:
        other.close()
    assert str(database) in line
    assert "locked" in line


def _garbage(file: Path) -> None:
    file.write_bytes(b"this is no database at all\n" * 1000)


def _short_garbage(file: Path) -> None:
    file.write_bytes(b"no")


def _truncated(file: Path) -> None:
    with file.open("r+b") as database:
        database.truncate(file.stat().st_size // 2 // 8192 * 8192)


def _cut_in_the_first_page(file: Path) -> None:
    with file.open("r+b") as database:
        database.truncate(1000)


def _flip(*places: int) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        for place in places:
            data[place] ^= 0xFF
        file.write_bytes(data)

    return flip


def _zeroed_schema(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100:8192] = bytes(8192 - 100)
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_garbage, id="garbage"),
        pytest.param(_short_garbage, id="two bytes"),
        pytest.param(_truncated, id="half of it"),
        pytest.param(_cut_in_the_first_page, id="cut in the first page"),
        pytest.param(_flip(3), id="magic"),
        pytest.param(_flip(16, 17), id="page size"),
        pytest.param(_flip(18, 19), id="format version"),
        pytest.param(_flip(44, 45, 46, 47), id="schema format"),
        pytest.param(_flip(56, 57, 58, 59), id="text encoding"),
        pytest.param(_flip(100), id="first page's kind"),
        pytest.param(_zeroed_schema, id="no schema"),
    ],
)
def test_a_damaged_database(serve: Serve, database: Path, damage: Callable[[Path], None]) -> None:
    damage(database)
    before = database.read_bytes()
    line = refusal(serve(start=False), ExitCode.UNAVAILABLE)
    assert str(database) in line
    assert database.read_bytes() == before, "what may still be rescued was changed"


def test_a_database_of_a_newer_version(serve: Serve, database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version_host SET version_num = 'r9999_from_the_future'")
    connection.close()
    line = refusal(serve(start=False), ExitCode.UNAVAILABLE)
    assert "newer" in line
    assert "r9999_from_the_future" in line


def test_a_full_disk(serve: Serve, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount(8): a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        line = refusal(serve(start=False, data_dir=disk / "data"), ExitCode.UNAVAILABLE)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert "full" in line


# --- PostgreSQL


def test_postgresql_that_refuses_the_connection(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    url = f"postgresql://clavitor:canary-password@127.0.0.1:{port}/vault"
    line = refusal(serve(start=False, database_url=url), ExitCode.UNAVAILABLE)
    assert f"127.0.0.1:{port}" in line
    assert "connection refused" in line
    assert "canary" not in line


async def test_postgresql_that_refuses_the_password(serve: Serve, postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    folder = re.search(r"host=([^&]+)", parts.query)
    if folder is None:
        pytest.skip("needs a PostgreSQL of its own: its pg_hba.conf is changed")
    hba, server = Path(folder[1]) / "pg_hba.conf", PostgresServer(postgres_url)
    await server.run("CREATE ROLE faults_stranger LOGIN PASSWORD 'right'")
    with _first_line(hba, "local all faults_stranger scram-sha-256"):
        await server.run("SELECT pg_reload_conf()")
        url = parts._replace(netloc="faults_stranger:canary-password@").geturl()
        line = refusal(serve(start=False, database_url=url), ExitCode.UNAVAILABLE)
    await server.run("SELECT pg_reload_conf()")
    await server.run("DROP ROLE faults_stranger")
    assert "'faults_stranger'" in line
    assert "canary" not in line


class _first_line:
    """Puts a line at the head of a file for a while; tests that share the file wait for each other."""

    def __init__(self, file: Path, line: str) -> None:
        self.file, self.line = file, line

    def __enter__(self) -> None:
        self.lock = (self.file.parent / "clavitor-test.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.before = self.file.read_text()
        self.file.write_text(f"{self.line}\n{self.before}")

    def __exit__(self, *args: object) -> None:
        self.file.write_text(self.before)
        self.lock.close()


async def test_an_unknown_postgresql_database(serve: Serve, postgres_url: str) -> None:
    url = urlsplit(postgres_url)._replace(path="/no_such_database").geturl()
    line = refusal(serve(start=False, database_url=url), ExitCode.UNAVAILABLE)
    assert "'no_such_database'" in line


async def test_a_postgresql_database_of_a_newer_version(serve: Serve, postgres_url: str) -> None:
    server = serve(database_url=postgres_url)
    server.terminate()
    await PostgresServer(postgres_url).run("UPDATE alembic_version_host SET version_num = 'r9999_from_the_future'")
    assert "newer" in refusal(server, ExitCode.UNAVAILABLE)


# --- configuration


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("wrokers = 2", "wrokers", "workers"),
        ("[limits]\nbody_byte = 4096", "limits.body_byte", "body_bytes"),
        ("[limit]\nbody_bytes = 4096", "limit", "limits"),
    ],
)
def test_a_wrong_configuration_key(serve: Serve, text: str, key: str, suggestion: str) -> None:
    line = refusal(serve(start=False, config=text), ExitCode.CONFIG)
    assert key in line
    assert f"{suggestion}" in line.partition(key)[2]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[limits]\nbody_bytes = "many"', ["limits.body_bytes"]),
        ("workers = 0", ["workers"]),
        ("workers = ", ["line 1"]),
        ("a = 1\na = 2", ["line 2"]),
        ('[tls]\ncert = "only.pem"', ["cert and key"]),
    ],
)
def test_a_wrong_configuration_value(serve: Serve, text: str, parts: list[str]) -> None:
    line = refusal(serve(start=False, config=text), ExitCode.CONFIG)
    for part in parts:
        assert part in line


def test_a_misspelt_variable(serve: Serve) -> None:
    line = refusal(serve(start=False, environ={"CLAVITOR_WORKER": "2"}), ExitCode.CONFIG)
    assert "CLAVITOR_WORKER:" in line
    assert "CLAVITOR_WORKERS" in line


# --- TLS


@pytest.fixture(scope="module")
def key_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=30))
    folder = tmp_path_factory.mktemp("tls")
    form = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(form))
    (folder / "key.pem").write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "locked.pem").write_bytes(
        key.private_bytes(
            form, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"canary-passphrase")
        )
    )
    other = ec.generate_private_key(ec.SECP256R1())
    (folder / "other.pem").write_bytes(
        other.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "garbage.pem").write_text("no PEM at all")
    yield folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("garbage.pem", "key.pem", "garbage.pem"),
        ("cert.pem", "garbage.pem", "garbage.pem"),
        ("cert.pem", "other.pem", "does not belong"),
        ("cert.pem", "locked.pem", "encrypted"),
    ],
)
def test_bad_tls_files(serve: Serve, key_pair: tuple[Path, Path], cert: str, key: str, says: str) -> None:
    folder = key_pair[0].parent
    config = f'[tls]\ncert = "{folder / cert}"\nkey = "{folder / key}"'
    assert says in refusal(serve(start=False, config=config), ExitCode.UNAVAILABLE)
