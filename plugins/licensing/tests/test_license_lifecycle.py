"""LicenseLifecycleIT of the seed's section 10, over REST: install, replace, restart, keys that go, revalidation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS, LIMITS
from clavitor_licensing.tables import license_table, state_table
from clavitor_licensing_testing.server import (
    DAY,
    LICENSE,
    METRICS,
    NOW,
    USAGE,
    FrozenClock,
    Log,
    Server,
    Start,
    token,
)
from clavitor_licensing_testing.support import GOOD, LICENSE_ID, VECTORS, openssl, private_key, public_pem, signed
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from clavitor_host.errors import ConfigError
from clavitor_host.jobs.state import JobStatus

OTHER_ID = "11111111-2222-3333-4444-555555555555"
BAD = "bm90.YSB0b2tlbg=="


async def test_a_fresh_server_is_absent_and_says_so(server: Server) -> None:
    assert await server.get() == {"state": "ABSENT", "envelope": None, "lastValidatedAt": None}
    assert await server.get(USAGE) == {
        "state": "ABSENT",
        "expiresAt": None,
        "daysRemaining": None,
        "gracePeriodDays": None,
        "tenantId": "acme-corp",
        "label": None,
        "lastValidatedAt": None,
        "message": "No license installed. Default tier applies.",
        "limits": [
            {"key": key, "current": 1 if key == "max_users" else 0, "cap": cap, "source": "default"}
            for key, cap in DEFAULT_TIER_LIMITS.items()
        ],
    }
    assert await server.audit() == []
    assert await server.heard() == [("boot", "ABSENT")]


async def test_install_replace_and_remove_by_request(server: Server, clock: FrozenClock) -> None:
    await server.heard()
    text = token(label="ACME prod 2026")
    answer = await server.install(f"  {text[:30]}\r\n{text[30:]}\n")
    envelope = {
        "licenseId": LICENSE_ID,
        "tenantId": "acme-corp",
        "label": "ACME prod 2026",
        "iat": NOW - DAY,
        "exp": NOW + 365 * DAY,
        "gracePeriodDays": 30,
        "limits": {"max_users": 5},
    }
    whole = {"state": "ACTIVE", "envelope": envelope, "lastValidatedAt": "2025-10-09T08:53:20Z"}
    assert answer == {**whole, "effective_until_restart": False, "shadowed_by": None}
    assert await server.get() == whole
    clock.now += DAY / 2
    usage = await server.get(USAGE)
    assert {**usage, "limits": None} == {
        "state": "ACTIVE",
        "expiresAt": "2026-10-09T08:53:20Z",
        "daysRemaining": 365,
        "gracePeriodDays": 30,
        "tenantId": "acme-corp",
        "label": "ACME prod 2026",
        "lastValidatedAt": "2025-10-09T08:53:20Z",
        "message": "License active. 365 days remaining.",
        "limits": None,
    }
    assert [limit["key"] for limit in usage["limits"]] == list(LIMITS)
    by_key = {limit.pop("key"): limit for limit in usage["limits"]}
    assert by_key["max_users"] == {"current": 1, "cap": 5, "source": "license"}
    assert by_key["max_apps"] == {"current": 0, "cap": 3, "source": "default"}
    await server.install(token(licenseId=OTHER_ID, exp=NOW + 10 * DAY))
    reply = await server.admin.delete(LICENSE)
    assert (reply.status_code, reply.json()["state"], reply.json()["shadowed_by"]) == (200, "ABSENT", None)
    assert await server.state() == "ABSENT"
    again = await server.admin.delete(LICENSE)
    assert (again.status_code, again.json()["code"]) == (404, "no_license")
    first = {"licenseId": LICENSE_ID, "expiresAt": "2026-10-09T08:53:20Z", "installedBy": "admin", "source": "api"}
    assert await server.audit() == [
        {"action": "install_license", "actor": "admin", **first},
        {
            "action": "replace_license",
            "actor": "admin",
            "licenseId": OTHER_ID,
            "expiresAt": "2025-10-19T08:53:20Z",
            "installedBy": "admin",
            "source": "api",
            "previousLicenseId": LICENSE_ID,
        },
        {"action": "remove_license", "actor": "admin", "licenseId": OTHER_ID, "removedBy": "admin"},
    ]
    assert await server.heard() == [("installed", "ACTIVE"), ("installed", "ACTIVE"), ("removed", "ABSENT")]


async def test_a_rejected_token_over_nothing_leaves_the_state_and_is_audited(server: Server) -> None:
    body = await server.install(BAD, expect=400)
    assert (body["code"], body["state"]) == ("malformed", "ABSENT")
    assert body["message"].startswith("License token is malformed: ")
    assert body["detail"] == body["message"] + "."
    assert await server.state() == "ABSENT"
    assert await server.audit() == [
        {"action": "reject_license", "actor": "admin", "reason": body["message"], "source": "api"}
    ]


async def test_a_rejected_token_over_a_license_is_invalid_until_a_good_one_comes(start: Start, logged: Log) -> None:
    server = await start()
    await server.install(token())
    body = await server.install(token(tenantId="beta-corp"), expect=400)
    message = "License tenantId 'beta-corp' does not match server tenant 'acme-corp'"
    assert (body["code"], body["state"], body["message"]) == ("tenant", "INVALID", message)
    assert (await server.get())["envelope"]["licenseId"] == LICENSE_ID  # what is stored is still there
    usage = await server.get(USAGE)
    assert (usage["state"], usage["expiresAt"], usage["daysRemaining"]) == ("INVALID", None, None)
    assert usage["message"] == f"License rejected: {message}. Default tier applies. Fix the license to recover."
    assert {limit["source"] for limit in usage["limits"]} == {"default"}
    assert logged.lines(level="ERROR", state="INVALID", was="ACTIVE")
    await server.service.revalidate()  # of the stored row: it does not bring the license back
    assert await server.state() == "INVALID"
    server = await start(stop=server)  # nor does a restart
    assert await server.state() == "INVALID"
    assert (await server.install(token(licenseId=OTHER_ID)))["state"] == "ACTIVE"
    assert [row["action"] for row in await server.audit()] == ["install_license", "reject_license", "replace_license"]
    server = await start(stop=server)
    assert await server.state() == "ACTIVE"


async def test_removing_forgets_what_was_refused(server: Server) -> None:
    await server.install(token())
    await server.install(BAD, expect=400)
    assert (await server.admin.delete(LICENSE)).json()["state"] == "ABSENT"
    assert await server.state() == "ABSENT"


async def test_who_may_do_what(server: Server) -> None:
    operator, viewer = await server.harness.client_for("OPERATOR"), await server.harness.client_for("VIEWER")
    nobody = await server.harness.client()
    for client, expected in ((viewer, 403), (nobody, 401)):
        assert (await client.get(LICENSE)).status_code == expected
        assert (await client.get(USAGE)).status_code == expected
    assert (await operator.get(LICENSE)).status_code == 200
    assert (await operator.get(USAGE)).status_code == 403
    for client in (operator, viewer):
        assert (await client.post(LICENSE, json={"token": token()})).status_code == 403
        assert (await client.delete(LICENSE)).status_code == 403
        assert (await client.post(f"{LICENSE}/clock/reset")).status_code == 403
    reader = await server.harness.client_for("ADMIN", scope="read")
    assert (await reader.get(USAGE)).status_code == 200
    assert (await reader.post(LICENSE, json={"token": token()})).status_code == 403
    assert await server.state() == "ABSENT"


@pytest.mark.parametrize("body", [{}, {"token": 5}, {"token": None}, {"token": "a", "more": 1}, [], "x", None])
async def test_a_body_that_is_none_is_a_400(quick_start: Start, body: Any) -> None:
    server = await quick_start()
    reply = await server.admin.post(LICENSE, json=body)
    assert reply.status_code == 400
    assert await server.audit() == []


async def test_any_text_reaches_the_validator(quick_start: Start) -> None:
    server = await quick_start()
    for text in ("", "\0", "a.b", ".", "é", "x" * 1_000_000, "\ufeff" + token(), token()[:-4]):
        assert (await server.install(text, expect=400))["code"] == "malformed", text[:20]
    assert (await server.install(token(key=1), expect=400))["code"] == "signature"
    assert (await server.install(token(exp=5, iat=9), expect=400))["code"] == "schema"
    assert (await server.install(token(iat=NOW + 301), expect=400))["code"] == "not_yet_valid"
    assert await server.state() == "ABSENT"


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
async def test_the_vectors_over_rest(quick_start: Start, clock: FrozenClock, vector: dict[str, Any]) -> None:
    """Whatever the validator says of a token, the routes say too."""
    clock.now = float(vector["now"])
    variables = {"CLAVITOR_LICENSE_PUBLIC_KEY": VECTORS["public_key_pem"], "CLAVITOR_TENANT_ID": vector["tenant"]}
    server = await quick_start(variables=variables)
    expected = vector["expect"]
    if "state" in expected:
        assert (await server.install(vector["token"]))["state"] == expected["state"]
    else:
        assert (await server.install(vector["token"], expect=400))["code"] == expected["code"]


async def test_the_license_table_is_there_with_the_seeds_columns(server: Server) -> None:
    await server.install(token())
    row = await server.host.db.fetch_one("SELECT * FROM license")
    assert row is not None
    seed = {"tenant_id", "token", "license_id", "installed_at", "installed_by", "expires_at", "last_validated_at"}
    assert set(row) == seed | {"source"}
    assert (row["license_id"], row["installed_by"], row["source"]) == (LICENSE_ID, "admin", "api")
    at = NOW * 1_000_000
    assert (row["installed_at"], row["last_validated_at"]) == (at, at)
    assert row["expires_at"] == (NOW + 365 * DAY) * 1_000_000


# --- the configuration


async def test_a_token_of_the_environment_is_installed_and_wins_at_every_start(start: Start, logged: Log) -> None:
    first, second = token(), token(licenseId=OTHER_ID)
    server = await start(CLAVITOR_LICENSE_TOKEN=first)
    assert await server.state() == "ACTIVE"
    assert await server.heard() == [("boot", "ACTIVE")]
    answer = await server.install(second)
    assert (answer["effective_until_restart"], answer["shadowed_by"]) == (True, "env")
    assert answer["envelope"]["licenseId"] == OTHER_ID
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=first)
    assert (await server.get())["envelope"]["licenseId"] == LICENSE_ID
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=first)  # the same again is no news
    assert (await server.install(first))["shadowed_by"] is None
    removed = (await server.admin.delete(LICENSE)).json()
    assert (removed["state"], removed["effective_until_restart"], removed["shadowed_by"]) == ("ABSENT", True, "env")
    rows = await server.audit()
    assert [(row["action"], row.get("source"), row["actor"]) for row in rows] == [
        ("install_license", "env", "system"),
        ("replace_license", "api", "admin"),
        ("replace_license", "env", "system"),
        ("replace_license", "api", "admin"),
        ("remove_license", None, "admin"),
    ]
    assert rows[0]["installedBy"] == "system"
    assert rows[2]["previousLicenseId"] == OTHER_ID
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=first)
    assert await server.state() == "ACTIVE"
    assert logged.lines(level="INFO", state="ACTIVE", reason="boot")


async def test_restart_restores_from_the_database(start: Start, clock: FrozenClock) -> None:
    server = await start()
    await server.install(token())
    before = await server.get()
    clock.now += 3600
    server = await start(stop=server)
    after = await server.get()
    assert after["envelope"] == before["envelope"]
    assert after["lastValidatedAt"] == "2025-10-09T09:53:20Z"
    assert len(await server.audit()) == 1


async def test_the_environment_comes_before_the_file_and_the_file_before_the_database(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "license.tok"
    file.write_text(token(label="file") + "\n")
    server = await start()
    await server.install(token(label="api"))
    server = await start(stop=server, CLAVITOR_LICENSE_FILE=str(file))
    assert (await server.get())["envelope"]["label"] == "file"
    assert (await server.install(token(label="api")))["shadowed_by"] == "file"
    server = await start(stop=server, CLAVITOR_LICENSE_FILE=str(file), CLAVITOR_LICENSE_TOKEN=token(label="env"))
    assert (await server.get())["envelope"]["label"] == "env"
    # An empty variable is not set, and with nothing set the last one stays.
    server = await start(stop=server, CLAVITOR_LICENSE_FILE="", CLAVITOR_LICENSE_TOKEN="")
    assert (await server.get())["envelope"]["label"] == "env"
    assert (await server.install(token(label="api")))["effective_until_restart"] is False


async def test_a_bad_token_of_the_environment_over_a_good_row_is_invalid(start: Start, logged: Log) -> None:
    server = await start()
    await server.install(token())
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=BAD)
    assert await server.state() == "INVALID"
    assert await server.heard() == [("boot", "INVALID")]
    assert logged.lines(level="ERROR", state="INVALID", reason="boot")
    rejected = (await server.audit("reject_license"))[-1]
    assert rejected["source"] == "env" and rejected["reason"].startswith("License token is malformed")
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=BAD)  # it is audited once
    assert len(await server.audit("reject_license")) == 1
    server = await start(stop=server)  # the variable is gone, so is what was wrong with it
    assert await server.state() == "ACTIVE"


async def test_a_bad_token_of_the_environment_is_invalid_also_over_nothing(start: Start) -> None:
    server = await start(CLAVITOR_LICENSE_TOKEN=token(key=1))
    assert await server.state() == "INVALID"
    assert (await server.get())["envelope"] is None
    assert (await server.install(token()))["shadowed_by"] == "env"
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=token(key=1))
    assert await server.state() == "INVALID"


async def test_a_worker_that_is_replaced_undoes_nothing_and_a_restart_does(start: Start) -> None:
    """What a request installed holds until the restart it was told about; the death of a worker is none."""
    first, second = token(), token(licenseId=OTHER_ID)
    server = await start(CLAVITOR_LICENSE_TOKEN=first)
    boot_id = server.host.boot_id
    await server.install(second)
    worker = await start(boot_id=boot_id, CLAVITOR_LICENSE_TOKEN=first)
    assert (await worker.get())["envelope"]["licenseId"] == OTHER_ID
    assert worker.service.known().shadowed_by == "env"
    await server.admin.delete(LICENSE)
    worker = await start(stop=worker, boot_id=boot_id, CLAVITOR_LICENSE_TOKEN=first)
    assert await worker.state() == "ABSENT"
    await server.install(second)
    await server.install(BAD, expect=400)
    worker = await start(stop=worker, boot_id=boot_id, CLAVITOR_LICENSE_TOKEN=first)
    assert (await worker.state(), await server.state()) == ("INVALID", "INVALID")
    assert [row["action"] for row in await server.audit()].count("install_license") == 2
    server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=first)
    assert (await server.get())["envelope"]["licenseId"] == LICENSE_ID


async def test_workers_of_one_start_refuse_a_bad_token_once(start: Start) -> None:
    server = await start(CLAVITOR_LICENSE_TOKEN=BAD)
    for _ in range(2):
        assert await (await start(boot_id=server.host.boot_id, CLAVITOR_LICENSE_TOKEN=BAD)).state() == "INVALID"
    assert len(await server.audit("reject_license")) == 1
    await server.install(token())
    worker = await start(boot_id=server.host.boot_id, CLAVITOR_LICENSE_TOKEN=BAD)
    assert await worker.state() == "ACTIVE"


async def test_starts_are_remembered_but_not_without_end(start: Start) -> None:
    server = await start()
    await server.host.db.execute(sa.update(state_table).values(boots=" ".join(f"b{n}" for n in range(64))))
    server = await start(stop=server)
    boots = (await server.host.db.fetch_val(sa.select(state_table.c.boots))).split()
    assert (len(boots), boots[0], boots[-1]) == (64, "b1", server.host.boot_id)


async def test_another_node_does_not_forget_what_the_configuration_of_this_one_names(
    start: Start, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a SQLite file has one node")
    one = await start(CLAVITOR_LICENSE_TOKEN=BAD, node="one")
    two = await start(node="two")
    assert (await one.state(), await two.state()) == ("INVALID", "INVALID")
    one = await start(stop=one, node="one")  # its own configuration names the token no more
    assert await two.state() == "ABSENT"


async def test_another_bad_token_is_audited_though_the_reason_is_the_same(start: Start) -> None:
    server = await start(CLAVITOR_LICENSE_TOKEN=token(key=1))
    for text in (token(key=1), token(key=1, label="another"), token(key=1, label="another")):
        server = await start(stop=server, CLAVITOR_LICENSE_TOKEN=text)
    rows = await server.audit("reject_license")
    assert [row["reason"] for row in rows] == ["License signature verification failed"] * 2


def _missing(path: Path) -> str:
    return "No such file"


def _folder(path: Path) -> str:
    path.mkdir()
    return "it is not a file"


def _huge(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(1 << 30)
    return "it is longer than 16384 bytes"


def _empty(path: Path) -> str:
    path.write_text("\n \n")
    return "it is empty"


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return "it is not a file"


def _binary(path: Path) -> str:
    path.write_bytes(bytes(range(256)))
    return "characters that are not base64"


@pytest.mark.parametrize("make", [_missing, _folder, _huge, _empty, _pipe, _binary])
async def test_a_token_file_that_cannot_be_read_is_invalid_with_the_reason(
    quick_start: Start, tmp_path: Path, make: Any
) -> None:
    path = tmp_path / "license.tok"
    reason = make(path)
    server = await quick_start(CLAVITOR_LICENSE_FILE=str(path))
    usage = await server.get(USAGE)
    assert usage["state"] == "INVALID"
    assert reason in usage["message"]
    (row,) = await server.audit("reject_license")
    assert row["source"] == "file" and reason in row["reason"]


def test_a_token_file_that_another_user_may_not_read_is_refused_with_the_reason() -> None:
    code = "import sys, pathlib; from clavitor_licensing.source import _read; print(_read(pathlib.Path(sys.argv[1])))"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "license.tok"
        path.write_text(token())
        path.chmod(0)
        another = {"user": 65534, "extra_groups": ()} if os.geteuid() == 0 else {}
        options: Any = {"capture_output": True, "text": True, **another}
        try:
            ran = subprocess.run([sys.executable, "-c", code, str(path)], check=False, **options)
        except OSError as error:
            pytest.skip(f"no other user to be had: {error}")
        if "ModuleNotFoundError" in ran.stderr:
            pytest.skip("the other user cannot read this program")
    assert ran.stdout == f"License file {path} cannot be read: Permission denied\n", ran.stderr


async def test_a_public_key_that_cannot_be_used_stops_the_start_and_says_why(
    quick_start: Start, tmp_path: Path
) -> None:
    (tmp_path / "broken.pem").write_text("nothing")
    for value, reason in (
        ("no-such-file.pem", "No such file"),
        (str(tmp_path / "broken.pem"), "license public key 1"),
        (public_pem(private_key(0)) + ",AAAA", "license public key 2"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            await quick_start(variables={"CLAVITOR_LICENSE_PUBLIC_KEY": value})
        assert "CLAVITOR_LICENSE_PUBLIC_KEY" in str(caught.value)


async def test_without_a_public_key_every_license_is_rejected(start: Start) -> None:
    server = await start(CLAVITOR_LICENSE_PUBLIC_KEY="")
    body = await server.install(token(), expect=400)
    assert (body["code"], body["state"]) == ("no_public_key", "ABSENT")
    assert "CLAVITOR_LICENSE_PUBLIC_KEY" in body["message"]


async def test_a_restart_without_the_public_key_is_invalid_and_with_it_active_again(start: Start, logged: Log) -> None:
    server = await start()
    await server.install(token())
    server = await start(stop=server, CLAVITOR_LICENSE_PUBLIC_KEY="")
    assert await server.state() == "INVALID"
    assert (await server.audit("reject_license"))[-1]["source"] == "database"
    assert logged.lines(level="ERROR", state="INVALID", reason="boot")
    server = await start(stop=server, CLAVITOR_LICENSE_PUBLIC_KEY=public_pem(private_key(1)))
    assert await server.state() == "INVALID"
    server = await start(stop=server)
    assert await server.state() == "ACTIVE"


async def test_another_tenant_id_finds_the_license_of_another_tenant(start: Start) -> None:
    server = await start()
    await server.install(token())
    server = await start(stop=server, CLAVITOR_TENANT_ID="beta-corp")
    message = (await server.get(USAGE))["message"]
    assert "License tenantId 'acme-corp' does not match server tenant 'beta-corp'" in message


async def test_keys_may_be_rotated_the_new_one_first(start: Start) -> None:
    server = await start()
    await server.install(token())
    both = ",".join(public_pem(private_key(number)) for number in (1, 0))
    server = await start(stop=server, CLAVITOR_LICENSE_PUBLIC_KEY=both)
    assert await server.state() == "ACTIVE"
    assert (await server.install(token(key=1)))["state"] == "ACTIVE"


# --- revalidation


async def test_revalidation_notes_when_the_token_was_last_good(server: Server, clock: FrozenClock) -> None:
    await server.install(token())
    await server.heard()
    clock.now += 5 * DAY
    assert (await server.metrics())["last_validated_age_seconds"] == 5 * DAY
    await server.service.revalidate()
    assert (await server.get())["lastValidatedAt"] == "2025-10-14T08:53:20Z"
    assert (await server.metrics())["last_validated_age_seconds"] == 0
    assert await server.audit("revalidate_license") == []
    assert await server.heard() == []


async def test_the_public_key_goes_while_the_server_runs_and_comes_back(
    start: Start, tmp_path: Path, logged: Log
) -> None:
    key = tmp_path / "vendor.pem"
    key.write_text(public_pem(private_key(0)))
    server = await start(CLAVITOR_LICENSE_PUBLIC_KEY=str(key))
    await server.install(token())
    await server.heard()
    validated = (await server.get())["lastValidatedAt"]
    key.unlink()
    await server.service.revalidate()
    assert await server.state() == "INVALID"
    assert await server.heard() == [("revalidated", "INVALID")]
    (row,) = await server.audit("revalidate_license")
    assert row == {"licenseId": LICENSE_ID, "reason": row["reason"]}
    assert "public key" in row["reason"] and "No such file" in row["reason"]
    assert logged.lines(level="ERROR", message="The stored license is not valid any more")
    assert (await server.get())["lastValidatedAt"] == validated
    await server.service.revalidate()  # each failure is audited
    assert len(await server.audit("revalidate_license")) == 2
    key.write_text(public_pem(private_key(0)))
    await server.heard()
    await server.service.revalidate()
    assert await server.state() == "ACTIVE"
    assert await server.heard() == [("revalidated", "ACTIVE")]
    key.write_text(public_pem(private_key(1)))  # the minute's look finds it too
    await server.tick()
    assert await server.state() == "INVALID"
    assert len(await server.audit("revalidate_license")) == 3
    await server.tick()
    assert len(await server.audit("revalidate_license")) == 3


async def test_a_row_that_was_tampered_with_is_invalid_and_back(server: Server, logged: Log) -> None:
    text = token()
    await server.install(text)
    await server.heard()
    for wrong in (text[:-8] + "AAAAAA==", "", "\x01", "x" * 100_000, token(key=1)):
        await server.host.db.execute(sa.update(license_table).values(token=wrong, license_id="nonsense\n" * 9))
        await server.service.revalidate()
        assert await server.state() == "INVALID"
        assert (await server.audit("revalidate_license"))[-1]["licenseId"] == ""
        assert await server.heard() == [("revalidated", "INVALID")]
    await server.host.db.execute(sa.update(license_table).values(token=text))
    await server.service.revalidate()
    assert await server.state() == "ACTIVE"
    assert await server.heard() == [("revalidated", "ACTIVE")]
    await server.host.db.execute(sa.delete(license_table))  # gone out of band
    await server.tick()
    assert await server.state() == "ABSENT"
    assert await server.heard() == [("state", "ABSENT")]


async def test_a_state_row_that_somebody_deleted_comes_back(server: Server) -> None:
    await server.host.db.execute(sa.delete(state_table))
    assert await server.state() == "ABSENT"
    assert (await server.install(token()))["state"] == "ACTIVE"
    assert await server.state() == "ACTIVE"


async def test_it_is_validated_at_three_and_a_minute_after_the_start_in_one_process(server: Server) -> None:
    status = {job.name: job for job in server.harness.app.jobs.status()}
    assert {name: job.exclusive for name, job in status.items() if name.startswith("licensing.")} == {
        "licensing.revalidate": True,
        "licensing.revalidate-after-boot": True,
        "licensing.tick": False,
    }
    jobs = {name: entry.job for name, entry in server.harness.app.jobs._entries.items()}
    nightly, after_boot = jobs["licensing.revalidate"], jobs["licensing.revalidate-after-boot"]
    assert (nightly.expression, nightly.run_missed) == ("0 3 * * *", True)
    assert after_boot.first_after == 60.0
    assert jobs["licensing.tick"].seconds == 60.0


async def test_a_night_that_was_missed_is_caught_up_within_the_minute(start: Start, clock: FrozenClock) -> None:
    """The database was away at 03:00, or the process with the lease hung."""
    one, two = await start(), await start()
    await one.install(token())
    validated = (await one.get())["lastValidatedAt"]
    clock.now += 25 * 3600
    await two.tick()
    assert (await one.get())["lastValidatedAt"] == validated
    clock.now += 1
    await two.tick()
    await one.tick()
    assert (await one.get())["lastValidatedAt"] == "2025-10-10T09:53:21Z"
    assert [row["action"] for row in await one.audit()] == ["install_license"]


async def test_a_key_that_vanishes_is_reported_whoever_read_the_keys_first(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "vendor.pem"
    key.write_text(public_pem(private_key(0)))
    server = await start(CLAVITOR_LICENSE_PUBLIC_KEY=str(key))
    await server.install(token())
    key.unlink()
    await server.install(token(), expect=400, dry_run="true")  # reads the keys anew
    await server.tick()
    assert await server.state() == "INVALID"
    (row,) = await server.audit("revalidate_license")
    assert row["licenseId"] == LICENSE_ID
    await server.tick()
    assert len(await server.audit("revalidate_license")) == 1
    key.write_text(public_pem(private_key(0)))
    await server.tick()
    assert await server.state() == "ACTIVE"
    assert await server.host.db.fetch_val(sa.select(state_table.c.failed_code)) is None


async def test_servers_with_other_keys_do_not_take_turns(start: Start) -> None:
    """While keys are rotated server by server, each judges by its own."""
    one = await start()
    two = await start(CLAVITOR_LICENSE_PUBLIC_KEY=public_pem(private_key(1)))
    await one.install(token())
    for _ in range(3):
        await two.tick()
        await one.tick()
    assert await one.state() == "ACTIVE"
    assert len(await one.audit("revalidate_license")) == 1


async def test_a_writer_that_takes_its_time_holds_up_neither_usage_nor_a_preview(start: Start) -> None:
    server = await start()
    await server.install(token())
    writing = asyncio.Event()

    async def hold() -> None:
        async with server.host.db.transaction() as tx:
            await tx.lock("clavitor_licensing")
            writing.set()
            await asyncio.sleep(1.5)

    holder = asyncio.create_task(hold())
    await writing.wait()
    began = time.monotonic()
    assert (await server.get(USAGE))["state"] == "ACTIVE"
    assert (await server.install(token(), dry_run="true"))["state"] == "ACTIVE"
    assert (await server.metrics())['limit_utilisation{limit="max_users"}'] == 0.2
    assert time.monotonic() - began < 1
    assert not holder.done()
    await holder


async def test_rows_of_wrong_types_are_no_errors(quick_start: Start) -> None:
    """SQLite keeps anything in any column."""
    server = await quick_start()
    for table, values in (
        ("license", "last_validated_at = 'abc', installed_at = x'00', installed_by = x'ff', source = 5"),
        ("license", "token = 5, license_id = x'00', tenant_id = x'00'"),
        ("license_state", "version = 'x', reason = 7, seen_at = 'abc', clock_stopped = 'yes', boots = 4.5"),
        ("license_state", f"version = {2**63 - 1}, seen_at = {2**63 - 1}, failed_code = 5"),
        ("license_state", "rejected_code = 'signature', rejected_message = NULL, rejected_at = 'x'"),
        ("license_state", "rejected_code = 9, rejected_source = 9, rejected_digest = 9, rejected_node = 9"),
    ):
        await server.install(token())
        await server.host.db.execute(f"UPDATE {table} SET {values}")
        await server.tick()
        for path in (LICENSE, USAGE, METRICS, "/api/v1/status"):
            reply = await server.admin.get(path)
            assert reply.status_code == 200, (values, reply.text)
        assert (await server.create_user("x")).status_code in (201, 403, 409), values
        await server.service.revalidate()
        server = await quick_start(stop=server)
    assert (await server.install(token()))["state"] == "ACTIVE"


async def test_what_was_refused_can_be_forgotten(server: Server) -> None:
    refused = f"{LICENSE}/refused"
    nothing = await server.admin.delete(refused)
    assert (nothing.status_code, nothing.json()["code"]) == (404, "nothing_refused")
    await server.install(token())
    await server.install(BAD, expect=400)
    await server.heard()
    reply = await server.admin.delete(refused)
    assert (reply.status_code, reply.json()["state"]) == (200, "ACTIVE")
    assert await server.heard() == [("forgotten", "ACTIVE")]
    row = (await server.audit())[-1]
    assert (row["action"], row["source"], row["forgottenBy"]) == ("forget_refused_license", "api", "admin")
    assert row["reason"].startswith("License token is malformed")
    operator = await server.harness.client_for("OPERATOR")
    assert (await operator.delete(refused)).status_code == 403


async def test_a_key_that_openssl_made_opens_all_three_ways_in(quick_start: Start, tmp_path: Path) -> None:
    private, public = tmp_path / "vendor.key", tmp_path / "vendor.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    key = load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)

    def made(label: str) -> str:
        return signed({**GOOD, "iat": NOW - DAY, "exp": NOW + DAY, "label": label}, key)

    file = tmp_path / "license.tok"
    file.write_text(made("file"))
    ways: tuple[dict[str, str], ...] = (
        {"CLAVITOR_LICENSE_TOKEN": made("env")},
        {"CLAVITOR_LICENSE_FILE": str(file)},
        {},
    )
    server = None
    for more in ways:
        server = await quick_start(stop=server, CLAVITOR_LICENSE_PUBLIC_KEY=str(public), **more)
        if not more:
            await server.install(made("api"))
        view = server.service.known()
        assert view.installed is not None
        assert (view.state, view.installed.label) == ("ACTIVE", view.source)


async def test_a_missed_night_is_run_on_the_scheduler_by_one_process_of_two(start: Start, clock: FrozenClock) -> None:
    def nightly(server: Server) -> JobStatus:
        return next(job for job in server.harness.app.jobs.status() if job.name == "licensing.revalidate")

    server = await start()
    await server.install(token())
    clock.now += 2 * DAY
    one, two = await start(stop=server), await start()
    async with asyncio.timeout(20):
        while not nightly(one).runs + nightly(two).runs:  # noqa: ASYNC110 - the job tells nobody
            await asyncio.sleep(0.05)
    assert [(job.runs, job.errors) for job in (nightly(one), nightly(two))] == [(1, 0), (0, 0)]
    for each in (one, two):
        assert (await each.get())["lastValidatedAt"] == "2025-10-11T08:53:20Z"
    clock.now += 60
    await two.service.revalidate()
    assert (await one.get())["lastValidatedAt"] == "2025-10-11T08:54:20Z"  # whoever did it


# --- preview


async def test_a_dry_run_changes_nothing_and_shows_every_cap(server: Server) -> None:
    server.neighbour.counts = {"max_apps": 7}
    await server.install(token(limits={"max_apps": 50, "max_users": 5}))
    await server.heard()
    preview = await server.install(token(limits={"max_apps": 4}, label="smaller"), dry_run="true")
    assert preview["dry_run"] is True
    assert preview["state"] == "ACTIVE"
    assert preview["envelope"]["label"] == "smaller"
    assert [limit["key"] for limit in preview["limits"]] == list(LIMITS)
    by_key = {limit["key"]: limit for limit in preview["limits"]}
    assert by_key["max_apps"] == {"key": "max_apps", "old": 50, "new": 4, "used": 7, "over_by": 3}
    assert by_key["max_users"] == {"key": "max_users", "old": 5, "new": 3, "used": 1, "over_by": 0}
    assert preview["retention"] == []
    assert (preview["effective_until_restart"], preview["shadowed_by"]) == (False, None)
    assert (await server.install(token(key=1), expect=400, dry_run="true"))["code"] == "signature"
    assert (await server.install(token(exp=NOW - 40 * DAY, iat=1), dry_run="true"))["state"] == "EXPIRED"
    assert await server.state() == "ACTIVE"
    assert (await server.install(token(), expect=400, dry_run="yes"))["field"] == "dry_run"
    assert len(await server.audit()) == 1
    assert await server.heard() == []


async def test_a_preview_lists_where_less_would_be_kept(server: Server) -> None:
    limits = {"max_log_retention_days": 30, "max_execution_retention_days": 10, "max_jar_retention_count": 5}
    await server.install(token(limits=limits))
    server.neighbour.values = {
        "max_jar_retention_count": {"prod": 5},
        "max_log_retention_days": {"test": 7, "prod": 30, "high": 90, "dev": 6},
        "max_execution_retention_days": {"prod": 10, "dev": 1},
        "max_metric_retention_days": {"prod": 1},
        "max_moons": {"prod": 9},
    }
    fewer = {"max_log_retention_days": 6, "max_execution_retention_days": 60, "max_jar_retention_count": 2}
    preview = await server.install(token(limits=fewer), dry_run="true")
    assert preview["retention"] == [
        {"environment": "high", "limit": "max_log_retention_days", "old": 30, "new": 6},
        {"environment": "prod", "limit": "max_log_retention_days", "old": 30, "new": 6},
        {"environment": "test", "limit": "max_log_retention_days", "old": 7, "new": 6},
        {"environment": "prod", "limit": "max_jar_retention_count", "old": 5, "new": 2},
    ]
    assert (await server.install(token(limits=limits), dry_run="true"))["retention"] == []
    expired = await server.install(token(exp=NOW - 40 * DAY, iat=1, limits=limits), dry_run="true")
    assert {(each["environment"], each["new"]) for each in expired["retention"]} == {
        *(("high", 1), ("prod", 1), ("test", 1), ("dev", 1), ("prod", 3)),
    }
