"""The running server against its own description, and what others' tools say of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clavitor_host.testing.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


SEMANTICS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]

[[operations]]
include-name = "POST /api/v1/admin/license"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403]
"""
"""What is well-formed and still refused: a 422 names what is not there; no schema says which licenses are signed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("contract")) as running:
        yield running


@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SEMANTICS)
    with ServerProcess(tmp_path) as server:  # its own: the test ends sessions and deletes users
        command = [
            *(str(BIN / "schemathesis"), "run", f"{server.url}/api/v1/openapi.json", "--checks", "all"),
            *("--max-examples", "15", "--generation-deterministic", "--no-color"),
            *("-H", f"Authorization: {server.authorization['Authorization']}"),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=380, check=False)
        assert done.returncode == 0, done.stdout[-8000:]
        assert "Traceback" not in server.log_file.read_text()


def test_promtool_finds_nothing_in_the_metrics(server: ServerProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: install the Debian package prometheus")
    with httpx.Client(base_url=server.url, headers=server.authorization) as client:
        client.put("/api/entries/one", json={"encrypted_data": "QUJD"})
        client.get("/api/entries/one")
        client.get("/api/v1/admin/plugins")
        text = client.get("/api/v1/prometheus").content
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert b'route="/api/entries/<entry_id>"' in text
    assert b'route="/api/v1/admin/plugins"' in text


def test_every_operation_is_described_and_answers_401_without_a_token(server: ServerProcess) -> None:
    document = httpx.get(f"{server.url}/api/v1/openapi.json").json()
    bodies = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"]
            if "security" not in operation:
                continue
            reply = httpx.request(method, server.url + re.sub(r"{\w+}", "x", path))
            assert reply.status_code == 401, (method, path)
            bodies.add(reply.content)
    assert len(bodies) == 1


def test_the_session_of_the_readme_works_when_pasted(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    session = next(block for block in re.findall(r"```sh\n(.*?)```", readme, re.S) if "clavitor user create" in block)
    with ServerProcess(tmp_path) as server:
        script = session.replace("$PWD/.venv/bin", str(BIN)).replace("http://127.0.0.1:8400", server.url)
        environ = {**os.environ, "CLAVITOR_DATA_DIR": str(server.data_dir)}
        done = subprocess.run(
            ["bash", "-eu"], input=script, env=environ, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        statuses = [int(code) for code in re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.M)]
        assert statuses == [200, 304, 204]
        assert '"code":"precondition_failed"' in done.stdout
        feed = next(line for line in done.stdout.splitlines() if line.startswith('{"changes"'))
        assert [change["deleted"] for change in json.loads(feed)["changes"]] == [True]
        assert done.stdout.splitlines()[-1].startswith("ok: ")
