"""The commercial edition's identity and configuration; without that it sends nothing (commercial.md section 1)."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from clavitor_commercial.config import CommercialConfig
from clavitor_commercial_testing import BUNDLE, commercial, telemetry_of
from loguru import logger

from clavitor_host import log
from clavitor_host.api import ConfigError
from clavitor_host.app import create_host
from clavitor_host.testing import settings


@pytest.fixture
def json_log() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    sink = StringIO()
    log.setup(json_lines=True, sink=sink)
    yield sink
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()


async def test_its_name_is_commercial_and_it_sends_nothing_unless_told_to(
    tmp_path: Path, json_log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network call")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    async with commercial(tmp_path) as harness:
        assert harness.host.edition.name == "commercial"
        assert harness.host.edition.is_telemetry_enabled() is False
        monkeypatch.setattr(harness.host.outbound, "client", refuse)
        await harness.host.edition.alert_operator("disk_full", "The disk is {full}.\n", {"free": 0})
        assert [job.name for job in harness.app.jobs.status() if job.name.startswith("commercial")] == []
        assert [check.name for check in harness.host.health_checks] == ["database"]
        report = (await harness.host.status())["plugins"]["commercial"]
        assert (report["telemetry"], report["telemetry_host"], report["alerts"]["spooled"]) == (False, None, 0)
    lines = [json.loads(line) for line in json_log.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("alert") == "disk_full"]
    assert (line["level"], line["message"], line["details"]) == ("WARNING", "The disk is {full}.\n", {"free": 0})
    assert len(line["alert_id"]) == 32 and line["at"] > 0
    assert any(line["message"].startswith("Operator alert: ") for line in lines)  # the host's own


async def test_an_empty_table_turns_telemetry_on_and_an_empty_host_off(tmp_path: Path) -> None:
    for text, host, enabled in [
        ("[plugins.commercial]\n", "https://clavitor.ai", True),
        ('[plugins.commercial]\ntelemetry_host = ""\npop_name = "zrh"\n', "", False),
        ("", "https://clavitor.ai", False),
    ]:
        (tmp_path / "clavitor.toml").write_text(text)
        app = create_host(settings(tmp_path, BUNDLE), BUNDLE)  # never started: nothing goes to clavitor.ai
        config = app.host.plugin_config("commercial")
        assert isinstance(config, CommercialConfig)
        assert (config.telemetry_host, config.telemetry_interval) == (host, 60)
        assert app.host.edition.is_telemetry_enabled() is enabled


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('telemetry_host = "http://clavitor.ai"', "plugins.commercial.telemetry_host: expected https://; http:// is"),
        ('telemetry_host = "http://127.0.0.1.example.org"', "expected https://"),
        ('telemetry_host = "ftp://clavitor.ai"', "expected a URL such as https://clavitor.ai"),
        ('telemetry_host = "clavitor.ai"', "expected a URL"),
        ('telemetry_host = "https://me:s3cret@clavitor.ai"', "expected a URL"),
        ('telemetry_host = "https://clavitor.ai?x=1"', "expected a URL"),
        ('telemetry_host = "https://clavitor.ai:99999"', "expected a URL"),
        ('telemetry_host = "https://clavi\\ntor.ai"', "expected a URL"),
        ('telemetry_host = "https://[::1"', "plugins.commercial.telemetry_host: "),
        ('telemetry_token = "s3cret with spaces"', "telemetry_token: expected a token of visible ASCII"),
        ('telemetry_token = "s3cret\\r\\nX-Evil: 1"', "telemetry_token: expected a token of visible ASCII"),
        ('telemetry_token = ""', "telemetry_token: "),
        ("telemetry_interval = 9", "telemetry_interval: expected greater than or equal to 10"),
        ("telemetry_interval = 86401", "telemetry_interval: expected less than or equal to 86400"),
        ("telemetry_interval = nan", "telemetry_interval: "),
        ('pop_name = "a\\u0007b"', "pop_name: expected printable text"),
        ('pop_region = " "', "pop_region: expected printable text"),
        ('telemetry_hots = "https://clavitor.ai"', "telemetry_host"),
        ('telemetry_token_file = "missing"', "telemetry_token_file: "),
    ],
)
def test_a_bad_value_is_a_one_line_error_that_keeps_secrets(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "clavitor.toml").write_text(f"[plugins.commercial]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        create_host(settings(tmp_path, BUNDLE), BUNDLE)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "host", ["http://localhost:8080", "http://[::1]:1", "http://127.9.0.1", "https://x.example/y/"]
)
def test_plain_http_is_for_this_machine(host: str) -> None:
    assert CommercialConfig(telemetry_host=host).telemetry_host == host.rstrip("/")


def test_the_token_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    environ = {"CLAVITOR_COMMERCIAL_TELEMETRY_TOKEN_FILE": str(tmp_path / "token")}
    config: Any = create_host(settings(tmp_path, BUNDLE, environ), BUNDLE).host.plugin_config("commercial")
    assert config.telemetry_token.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(config)


async def test_a_plugin_that_is_not_configured_still_shows_what_it_once_kept(tmp_path: Path) -> None:
    async with commercial(tmp_path) as harness:
        assert (await telemetry_of(harness).report())["reports"]["spooled"] == 0
        assert await telemetry_of(harness).trouble() is None
