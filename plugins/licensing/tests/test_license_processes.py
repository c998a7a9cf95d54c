"""What only real processes show: a race for the last seats, a token that is nowhere to be seen, a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from clavitor_licensing_testing.server import LICENSE, USAGE, USERS, environ, token
from clavitor_licensing_testing.support import private_key, public_pem

from clavitor_host.app import create_host
from clavitor_host.audit.tables import audit_log
from clavitor_host.identity.tables import users
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.testing import settings
from clavitor_host.testing.process import ServerProcess

PROCESSES = 16
ATTEMPTS = 3
CAP = 10
BUNDLE = frozen_set()


async def test_sixteen_processes_at_once_never_pass_a_cap_of_ten(database_url: str, tmp_path: Path) -> None:
    now = int(time.time())
    variables = environ(
        CLAVITOR_DATABASE_URL=database_url,
        CLAVITOR_LICENSE_TOKEN=token(iat=now - 60, exp=now + 3600, limits={"max_users": CAP}),
    )
    app = create_host(settings(tmp_path / "data", BUNDLE, variables), BUNDLE)
    await app.start()  # makes the database, and installs the license
    await app.stop()
    del variables["CLAVITOR_LICENSE_TOKEN"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("CLAVITOR_")}
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "clavitor_licensing_testing.racer",
            str(tmp_path / "data"),
            str(PROCESSES),
            str(ATTEMPTS),
        ),
        stdout=asyncio.subprocess.PIPE,
        env={**given, **variables},
    )
    printed, _ = await process.communicate()
    outcomes = json.loads(printed)
    refused = [outcome for outcome in outcomes if outcome is not None]
    message = f"License cap reached: max_users = {CAP}. Current usage is {CAP}. Contact your vendor to raise the cap."
    body = {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "license_cap_reached",
        "detail": message,
        "error": "license cap reached",
        "limit": "max_users",
        "current": CAP,
        "cap": CAP,
        "state": "ACTIVE",
        "message": message,
    }
    assert len(outcomes) - len(refused) == CAP
    assert refused == [[403, body]] * (PROCESSES * ATTEMPTS - CAP)
    await app.host.db.open()
    try:
        assert await app.host.db.fetch_val(sa.select(sa.func.count()).select_from(users)) == CAP
        noted = sa.select(sa.func.count()).where(audit_log.c.action == "cap_exceeded")
        assert await app.host.db.fetch_val(noted) == len(refused)
    finally:
        await app.host.db.close()


def test_two_workers_one_license_and_a_token_that_nobody_sees(tmp_path: Path) -> None:
    now = int(time.time())
    text = token(iat=now - 60, exp=now + 3600, limits={"max_users": 5})
    key = tmp_path / "vendor.pem"
    key.write_text(public_pem(private_key(0)))
    variables = {
        "CLAVITOR_TENANT_ID": "acme-corp",
        "CLAVITOR_LICENSE_PUBLIC_KEY": str(key),
        "CLAVITOR_LICENSE_TOKEN": text,
        "CLAVITOR_LOG_LEVEL": "debug",
    }
    with ServerProcess(tmp_path / "run", workers=2, environ=variables) as server:
        client = httpx.Client(base_url=server.url, headers=server.authorization)
        seen = [client.get(path).text for path in (LICENSE, USAGE, "/api/v1/prometheus", "/api/v1/status", "/readyz")]
        assert '"ACTIVE"' in seen[0]

        def create(number: int) -> tuple[int, Any]:
            with httpx.Client(base_url=server.url, headers=server.authorization) as own:
                reply = own.post(USERS, json={"name": f"u{number}", "role": "VIEWER"})
            return reply.status_code, reply.json()

        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(create, range(12)))
        assert sorted(status for status, _ in answers) == [201] * 4 + [403] * 8  # the administrator is the fifth
        assert {body["state"] for status, body in answers if status == 403} == {"ACTIVE"}
        command = server.run("user", "create", "by-command", "--no-password")
        assert command.returncode != 0
        assert "License cap reached: max_users = 5" in command.stderr
        seen += [command.stdout, command.stderr, str(answers)]
        # Counted over both workers, and none of their rows is lost.
        metrics = client.get("/api/v1/prometheus").text
        assert 'clavitor_license_cap_rejections_total{limit="max_users"} 8.0' in metrics
        assert 'clavitor_license_state{state="ACTIVE"} 1.0' in metrics
        rows = client.get("/api/v1/admin/audit", params={"action": "cap_exceeded"}).json()["rows"]
        assert len(rows) == 9
        installed = client.get("/api/v1/admin/audit", params={"category": "LICENSE", "limit": 1000}).text
        assert installed.count('"install_license"') == 1  # two workers started, one of them installed
        processes = [server.pid, *server.worker_pids()]
        seen += [installed, metrics, *(Path(f"/proc/{pid}/cmdline").read_text() for pid in processes)]
        server.terminate()
        del server.environ["CLAVITOR_LICENSE_TOKEN"]
        server.start()
        with httpx.Client(base_url=server.url, headers=server.authorization) as again:
            assert again.get(LICENSE).json()["state"] == "ACTIVE"  # from the database
        client.close()
        seen.append(server.log)
    everything = "\n".join(seen)
    for piece in (text[index : index + 24] for index in range(0, len(text) - 24, 8)):
        assert piece not in everything


def test_a_worker_that_was_killed_undoes_no_license_and_a_restart_does(tmp_path: Path) -> None:
    now = int(time.time())

    def made(label: str) -> str:
        return token(iat=now - 60, exp=now + 3600, label=label)

    variables = environ(CLAVITOR_LICENSE_TOKEN=made("env"))
    with ServerProcess(tmp_path / "run", workers=2, environ=variables) as server:

        def label() -> Any:
            with httpx.Client(base_url=server.url, headers=server.authorization) as client:
                return client.get(LICENSE).json()["envelope"]["label"]

        with httpx.Client(base_url=server.url, headers=server.authorization) as client:
            installed = client.post(LICENSE, json={"token": made("api")}).json()
        assert (installed["state"], installed["effective_until_restart"]) == ("ACTIVE", True)
        before = set(server.worker_pids())
        os.kill(min(before), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(set(server.worker_pids()) - before) < 1 or server.log.count("License active") < 4:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        assert {label() for _ in range(8)} == {"api"}
        server.terminate()
        server.start()
        assert label() == "env"
