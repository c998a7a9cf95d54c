"""A backup that knows the primary by its certificate, over real TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import wire
from clavitor_commercial_replication_testing.backup import batch, item
from clavitor_commercial_replication_testing.certificates import Authority, authority

from clavitor_host.testing.process import ServerProcess
from tests.replication.pair import PROGRAM, bundle

CONFIG = """
[tls]
cert = "{cert}"
key = "{key}"
client_ca = "{ca}"
client_auth = "optional"

[plugins.commercial_replication]
role = "backup"
source_pop = "zurich-01"
primary_location = "https://calgary.example.com"
authorized_primaries = ["calgary-01"]
tls_cert = "{cert}"
tls_key = "{key}"
tls_ca = "{ca}"
"""


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def server(tmp_path: Path, ours: Authority) -> Iterator[ServerProcess]:
    cert, key = ours.issue("zurich-01")
    config = CONFIG.format(cert=cert, key=key, ca=ours.certificate)
    with ServerProcess(tmp_path / "backup", config=config, program=PROGRAM, bundle=bundle()) as running:
        yield running


def client(server: ServerProcess, ours: Authority, name: str | None, by: Authority | None = None) -> httpx.Client:
    """Return a client that shows a certificate for `name`, signed by ours or by another authority."""
    context = ssl.create_default_context(cafile=ours.certificate)
    if name is not None:
        context.load_cert_chain(*(by or ours).issue(name))
    return httpx.Client(base_url=server.url, verify=context, timeout=30)


def send(to: httpx.Client, **more: Any) -> tuple[int, str]:
    """Send one entry; return the status and the code of a refusal."""
    content = wire.encode(batch(item("a", 1), **more))
    answer = to.post(wire.PATH, content=content, headers={"content-type": "application/json"})
    return answer.status_code, answer.json().get("code", "")


def test_a_pop_is_known_by_its_certificate(server: ServerProcess, ours: Authority, tmp_path: Path) -> None:
    with client(server, ours, None) as nobody:
        assert send(nobody) == (401, "unauthorized")
    with client(server, ours, "geneva-01") as foreign:
        assert send(foreign, source_pop="geneva-01") == (403, "pop_not_authorized")
    with client(server, ours, "zurich-01") as itself:
        assert send(itself, source_pop="zurich-01") == (409, "same_pop")
    (tmp_path / "theirs").mkdir()
    theirs = authority(tmp_path / "theirs", "another")
    with client(server, ours, "calgary-01", by=theirs) as forged, pytest.raises(httpx.TransportError):
        send(forged)
    with client(server, ours, "calgary-01") as primary:
        assert send(primary, source_pop="geneva-01") == (403, "pop_mismatch")
        assert primary.get("/api/entries/a").status_code == 401
        assert send(primary) == (200, "")
        answer = primary.post(
            wire.PATH, content=wire.encode(batch(item("a", 1))), headers={"authorization": "Bearer x"}
        )
        assert answer.status_code == 401


def test_a_body_above_its_limit_is_refused_as_it_is_read(server: ServerProcess, ours: Authority) -> None:
    with client(server, ours, "calgary-01") as primary:
        body = json.dumps({"source_pop": "calgary-01", "entries": [], "padding": "x" * wire.MAX_BODY}).encode()
        answer = primary.post(wire.PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        body = body.replace(b"x" * 1024, b"", 1)
        answer = primary.post(wire.PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200
