"""docs/fleet.md: its commands run against a real server, end to end to the signed webhook."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import pytest

from clavitor_host.testing.process import ServerProcess

PAGE = (Path(__file__).parents[3] / "docs" / "fleet.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


Request = tuple[dict[str, str], bytes]


@pytest.fixture
def received() -> Iterator[tuple[str, Queue[Request]]]:
    """A receiver of webhooks: its address, and what it has got."""
    requests: Queue[Request] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", requests
        server.shutdown()
        thread.join()


def test_the_walk_through_leads_from_an_environment_to_a_signed_webhook(
    tmp_path: Path, received: tuple[str, Queue[Request]]
) -> None:
    url, requests = received
    variables = {"CLAVITOR_FLEET_OUTBOUND_ALLOW": "127.0.0.0/8"}
    with ServerProcess(tmp_path / "server", environ=variables) as server:
        environ = {"PATH": os.environ["PATH"], "VAULT": server.url, "TOKEN": server.token, "HOOK_URL": url}
        ran = subprocess.run(
            ["sh", "-eu"],
            input="".join(blocks("sh")),
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "RUNNING\n" in ran.stdout
        assert '"accepted":1' in ran.stdout
        headers, body = requests.get(timeout=40)
        with httpx.Client(base_url=server.url, headers=server.authorization) as client:
            (alert,) = client.get("/api/v1/alerts").json()["alerts"]
        assert (alert["name"], alert["state"], alert["value"]) == ("queue too long", "firing", 42)
    assert headers["x-clavitor-event"] == "alert.firing"
    assert json.loads(body)["value"] == 42
    (checking,) = blocks("python")
    names: dict[str, Any] = {}
    exec(checking, names)
    (secret,) = re.findall(r"^SECRET=(\S+)$", PAGE, re.MULTILINE)
    stamp, signature = headers["x-clavitor-timestamp"], headers["x-clavitor-signature"]
    assert names["is_genuine"](secret, stamp, body, signature)
    assert not names["is_genuine"](secret, stamp, body + b" ", signature)
    assert abs(int(stamp) - time.time()) < 120
    assert hmac.compare_digest(
        signature, "sha256=" + hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    )


def test_the_configuration_on_the_page_is_right(tmp_path: Path) -> None:
    from clavitor_fleet_testing.server import bundle

    from clavitor_host.testing import settings

    for text in blocks("toml"):
        if "[plugins.fleet]" not in text:
            continue
        key, value = re.findall(r"^(\w+) = (.+)$", text, re.MULTILINE)[0]
        given = {f"CLAVITOR_FLEET_{key.upper()}": json.loads(value) if value[0] == '"' else value.strip('[]"')}
        config = settings(tmp_path, bundle(), given)
        assert config is not None
