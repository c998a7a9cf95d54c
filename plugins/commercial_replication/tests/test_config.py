"""A configuration that could not work stops the start, with one line that says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clavitor_commercial_replication import asking, fencing, state
from clavitor_commercial_replication.config import ReplicationConfig
from clavitor_commercial_replication.link import Link, Unreachable
from clavitor_commercial_replication.startup import gaps
from clavitor_commercial_replication_testing.apps import (
    Pop,
    backup_settings,
    bundle,
    primary_settings,
    running_pop,
    until,
)
from clavitor_commercial_replication_testing.certificates import authority
from clavitor_commercial_replication_testing.network import Network
from pydantic import ValidationError

from clavitor_host.app import create_host
from clavitor_host.errors import ClavitorError, ConfigError
from clavitor_host.testing import settings
from tests.replication.pair import Pair as Processes

SECRET = "s" * 32
PRIMARY: dict[str, Any] = {
    "role": "primary",
    "source_pop": "calgary-01",
    "backup_url": "https://zurich.example.com",
    "secret": SECRET,
}
BACKUP: dict[str, Any] = {
    "role": "backup",
    "source_pop": "zurich-01",
    "primary_location": "https://calgary.example.com",
    "authorized_primaries": ["calgary-01"],
    "secret": SECRET,
}


def test_both_roles_and_none() -> None:
    assert ReplicationConfig().role is None
    assert ReplicationConfig(**PRIMARY).mutual_tls is False
    assert ReplicationConfig(**BACKUP).authorized_primaries == ["calgary-01"]


@pytest.mark.parametrize("whole", [PRIMARY, BACKUP], ids=["primary", "backup"])
def test_half_a_configuration_is_none(whole: dict[str, Any]) -> None:
    for name in whole.keys() - {"role"}:
        rest = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(ValidationError, match=name):
            ReplicationConfig(**rest)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"role": "both"}, "primary"),
        ({"source_pop": "two words"}, "letters"),
        ({"source_pop": ""}, "letters"),
        ({"source_pop": "x" * 64}, "63"),
        ({"backup_url": "ftp://zurich.example.com"}, "URL"),
        ({"backup_url": "https://user@zurich.example.com"}, "URL"),
        ({"backup_url": "https://zurich.example.com?x=1"}, "URL"),
        ({"backup_url": "https://zurich.example.com:99999"}, "port"),
        ({"backup_url": "https://"}, "URL"),
        ({"backup_url": "http://zurich.example.com"}, "https"),
        ({"secret": "short"}, "32"),
        ({"previous_secret": "short"}, "32"),
        ({"secret_file": "/secret"}, "exclude"),
        ({"tls_cert": "/cert"}, "together"),
        ({"tls_cert": "/cert", "tls_key": "/key"}, "together"),
        ({"authorized_primaries": ["calgary-01"]}, "itself"),
        ({"authorized_primaries": ["two words"]}, "letters"),
        ({"heartbeat_interval": 0}, "0.1"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ReplicationConfig(**{**PRIMARY, **change})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8402", "http://[::1]:8402", "http://localhost:8402"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert ReplicationConfig(**{**PRIMARY, "backup_url": url}).backup_url == url
    far = ReplicationConfig(**{**PRIMARY, "backup_url": "http://10.0.0.2:8402/", "insecure_http": True})
    assert far.backup_url == "http://10.0.0.2:8402"


async def refused(folder: Path, environ: dict[str, str]) -> str:
    """Return the line that stops the start."""
    with pytest.raises(ClavitorError) as caught:
        await create_host(settings(folder, bundle(), environ), bundle()).start()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_half_a_configuration_stops_the_start(tmp_path: Path) -> None:
    assert "source_pop" in await refused(tmp_path, {"CLAVITOR_COMMERCIAL_REPLICATION_ROLE": "backup"})


async def test_a_secret_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    environ = backup_settings(secret_file=str(tmp_path / "none"))
    del environ["CLAVITOR_COMMERCIAL_REPLICATION_SECRET"]
    assert "secret_file" in await refused(tmp_path, environ)


@pytest.mark.parametrize(("begins_as", "is_what"), [(backup_settings(), "the backup"), (primary_settings(), "fenced")])
async def test_a_pop_that_is_read_only_does_not_start_without_its_role(
    tmp_path: Path, begins_as: dict[str, str], is_what: str
) -> None:
    """It would take writes: a line that is lost from a file does not make a primary."""
    async with running_pop(tmp_path, begins_as, network=Network()) as pop:
        if is_what == "fenced":
            await fencing.fence(pop.service, "superseded", 2)
    left_out = {name: value for name, value in begins_as.items() if not name.endswith("_ROLE")}
    said = await refused(tmp_path, left_out)
    assert f"no role is set, and this POP is {is_what}" in said
    assert "clavitor replication promote" in said
    async with running_pop(tmp_path, begins_as, network=Network()) as pop:
        assert (await state.required(pop.host.db)).role != "primary"


async def test_a_primary_starts_without_its_role_and_finds_its_writes_later(tmp_path: Path) -> None:
    begins_as = primary_settings()
    left_out = {name: value for name, value in begins_as.items() if not name.endswith("_ROLE")}
    async with running_pop(tmp_path, begins_as, network=Network()):
        pass
    async with running_pop(tmp_path, left_out, network=Network()) as pop:
        await pop.put("a")
        assert await pop.depth() == 0
    async with running_pop(tmp_path, begins_as, network=Network()) as pop:
        await until(lambda: waits(pop))


async def waits(pop: Pop) -> bool:
    return await pop.depth() == 1


def test_the_files_that_are_named_are_checked_without_a_start(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    config = ReplicationConfig(**{**PRIMARY, "secret": None, "secret_file": file})
    with pytest.raises(ConfigError, match=r"secret_file: .* cannot be read"):
        config.check_files()
    file.write_text("short")
    with pytest.raises(ConfigError, match="expected 32 characters"):
        config.check_files()
    file.write_text("s" * 32)
    config.check_files()
    missing: dict[str, Any] = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_ca")}
    with pytest.raises(ConfigError, match=r"tls_cert: .* cannot be read"):
        ReplicationConfig(**PRIMARY, **missing).check_files()


def test_the_command_that_checks_a_configuration_reads_the_secret(tmp_path: Path) -> None:
    with Processes(tmp_path) as pops:
        checked = pops.backup.run("config", "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        pops.backup.secret_file.write_text("short")
        checked = pops.backup.run("config", "check")
        assert (checked.returncode, checked.stdout) == (3, "")
        assert "secret_file" in checked.stderr and "expected 32 characters" in checked.stderr


async def test_certificates_alone_need_a_server_that_asks_for_them(tmp_path: Path) -> None:
    made = authority(tmp_path)
    cert, key = made.issue("zurich-01")
    tls = {"tls_cert": str(cert), "tls_key": str(key), "tls_ca": str(made.certificate)}
    environ = backup_settings(**tls)
    async with running_pop(tmp_path / "with-secret", environ):
        pass
    del environ["CLAVITOR_COMMERCIAL_REPLICATION_SECRET"]
    assert "client_ca" in await refused(tmp_path / "without", environ)
    server = {
        "CLAVITOR_TLS_CERT": str(cert),
        "CLAVITOR_TLS_KEY": str(key),
        "CLAVITOR_TLS_CLIENT_CA": str(made.certificate),
        "CLAVITOR_TLS_CLIENT_AUTH": "optional",
    }
    async with running_pop(tmp_path / "asks", {**environ, **server}):
        pass


@pytest.mark.parametrize("broken", ["tls_cert", "tls_key", "tls_ca"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
async def test_a_certificate_file_that_cannot_be_used_stops_the_start(tmp_path: Path, broken: str, how: str) -> None:
    made = authority(tmp_path)
    cert, key = made.issue("calgary-01")
    files = {"tls_cert": str(cert), "tls_key": str(key), "tls_ca": str(made.certificate)}
    files[broken] = str(tmp_path / "broken.pem")
    if how == "garbage":
        (tmp_path / "broken.pem").write_text("garbage")
    assert "tls_" in await refused(tmp_path / "data", primary_settings(**files))


@pytest.mark.parametrize("url", ["http://zurich.example.com", "https://[::1", "ftp://x", "https://user@x.example.com"])
async def test_nobody_is_shown_who_this_is_at_a_url_that_will_not_do(tmp_path: Path, url: str) -> None:
    async with running_pop(tmp_path / "data", backup_settings()) as pop:
        with pytest.raises(ClavitorError, match="nobody is asked at the URL"):
            async with asking.linked(pop.service, url):
                pass


async def test_the_address_for_clients_is_not_asked_in_plain_text(tmp_path: Path) -> None:
    environ = backup_settings(primary_location="http://calgary.example.com")
    del environ["CLAVITOR_COMMERCIAL_REPLICATION_BACKUP_URL"]
    async with running_pop(tmp_path / "data", environ) as pop:
        with pytest.raises(ClavitorError, match="set backup_url"):
            asking.url_of(pop.service)


async def test_a_url_that_cannot_be_asked_is_an_error_of_the_link(tmp_path: Path) -> None:
    async with running_pop(tmp_path / "data", backup_settings()) as pop:
        link = Link(pop.service, "https://[::1")
        with pytest.raises(Unreachable):
            await link.get("/")
        await link.close()


def test_what_is_missing_only_after_a_change_of_roles_is_told() -> None:
    assert ["authorized_primaries" in text for text in gaps(ReplicationConfig(**PRIMARY))] == [True]
    assert ["backup_url" in text for text in gaps(ReplicationConfig(**BACKUP))] == [True]
