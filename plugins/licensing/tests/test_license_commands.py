"""`clavitor license` as a process, in a folder of its own: what it prints, how it ends, and that no token gets out."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clavitor_licensing.commands import _warn as write_warnings
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.models import Preview, RetentionPreview
from clavitor_licensing_testing.support import LICENSE_ID, license_info, private_key, public_keys, public_pem, signed

from clavitor_host.testing.process import ServerProcess

PROGRAM = (sys.executable, "-m", "clavitor_host")
DAY = 86_400


def token(*, days: float = 365, grace: int = 30, key: int = 0, tenant: str = "acme-corp", **limits: int) -> str:
    """A token that expires in some days, or did so before."""
    now = int(time.time())
    info = license_info(exp=now + int(days * DAY), grace=grace, **limits)._replace(iat=now - 700 * DAY)
    return signed(info._replace(tenant_id=tenant).payload(), private_key(key))


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> dict[str, list[str]]:
        """The lines of a table, by their first cell."""
        lines = [line.split("\t") for line in self.out.splitlines() if "\t" in line]
        return {line[0]: line[1:] for line in lines}


class Machine:
    """A folder, the variables of a server, and the program. What was read and printed is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "CLAVITOR_TENANT_ID": "acme-corp",
            "CLAVITOR_LICENSE_PUBLIC_KEY": public_pem(private_key(0)),
            "CLAVITOR_DATA_DIR": str(folder / "data"),
        }
        self.tokens: list[str] = []
        self.printed = ""
        self.run("user", "create", "ada", "--role", "ADMIN", "--no-password")

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> Ran:
        given = {"PATH": os.environ["PATH"], **self.environ, **environ}
        done = subprocess.run(
            [*PROGRAM, *arguments], input=stdin, env=given, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        self.printed += done.stdout + done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def license(self, *arguments: str, **options: str) -> Ran:
        return self.run("license", *arguments, **options)

    def file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        self.tokens.append(text)
        return name

    def state(self) -> str:
        state = self.license("show", "--json").json["state"]
        assert isinstance(state, str)
        return state


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for text in machine.tokens:
        assert text not in machine.printed


def test_a_license_is_previewed_installed_and_shown(machine: Machine) -> None:
    assert machine.license("show").out.split() == [
        *["state:", "ABSENT", "No", "license", "installed.", "Default", "tier", "applies.", "tenant:", "acme-corp"]
    ]
    file = machine.file("acme.tok", token(max_apps=50, max_users=0))
    seen = machine.license("preview", file)
    assert seen.code == 0, seen.err
    assert seen.rows["LIMIT"] == ["OLD", "NEW", "USED", "OVER"]
    assert seen.rows["max_apps"] == ["3", "50", "0", "0"]
    assert seen.rows["max_users"] == ["3", "0", "1", "1"]
    assert "warning: more is in use than it allows: max_users. What is above a cap stays" in seen.err
    assert machine.state() == "ABSENT"
    done = machine.license("install", file)
    assert done.code == 0, done.err
    assert done.out.startswith(f"Installed license {LICENSE_ID} for acme-corp. License active. 365 days remaining.\n")
    assert done.rows["max_apps"] == ["3", "50", "0", "0"]
    shown = machine.license("show")
    assert "by system, with clavitor license install" in shown.out
    used = machine.license("usage")
    assert used.rows["max_users"] == ["1", "0", "1", "license"]
    assert used.rows["max_agents"] == ["0", "5", "0", "default"]
    assert list(used.rows) == ["LIMIT", *LIMITS]
    rows = machine.run("audit", "export").out.splitlines()
    assert any('"install_license"' in row and '"command"' in row.replace("\\", "") for row in rows)


def test_what_would_be_deleted_is_said_by_limit_with_its_environments(capsys: pytest.CaptureFixture[str]) -> None:
    shrunk = (
        RetentionPreview("prod\x1b[2J", "max_log_retention_days", 30, 7),
        RetentionPreview("dev", "max_log_retention_days", 14, 7),
        RetentionPreview("dev", "max_execution_retention_days", 2, 1),
        RetentionPreview("dev", "max_jar_retention_count", 9, 3),
    )
    write_warnings(Preview(LicenseState.ACTIVE, license_info(exp=1, grace=0), None, (), shrunk, None))
    assert capsys.readouterr().err.splitlines() == [
        "warning: logs older than 7 days are deleted soon, in prod\\x1b[2J (now 30), dev (now 14).",
        "warning: executions, processors, route diagrams and agent events older than 1 day are deleted soon, "
        "in dev (now 2).",
        "warning: of each app all but the newest 3 artifacts, and those that a deployment uses, are deleted soon, "
        "in dev (now 9).",
    ]


def test_removing_says_what_it_deletes_and_then_needs_yes(machine: Machine) -> None:
    given = token(max_log_retention_days=30)
    assert machine.license("install", machine.file("good.tok", given)).code == 0
    with closing(sqlite3.connect(next(machine.folder.rglob("*.db")))) as database, database:
        columns = "id, name, name_key, log_retention_days, created_at, updated_at"
        database.execute(f"INSERT INTO environments ({columns}) VALUES ('e', 'prod', 'prod', 30, 0, 0)")
    warning = "warning: logs older than 1 day are deleted soon, in prod (now 30).\n"
    refused = machine.license("remove")
    assert (refused.code, machine.state()) == (1, "ACTIVE")
    assert refused.err == (
        f"{warning}error: nothing was changed: removing the license deletes what is above; confirm with --yes\n"
    )
    less = machine.file("less.tok", token(max_log_retention_days=7))
    assert "warning: logs older than 7 days are deleted soon, in prod (now 30)." in machine.license("preview", less).err
    assert machine.license("remove", "--yes").err == warning
    assert machine.state() == "ABSENT"
    found = machine.license("doctor")
    assert found.rows["max_log_retention_days"] == [
        "look",
        "30 configured, 1 allowed (default): logs older than 1 day are deleted",
    ]


def test_for_a_machine_it_answers_as_the_api_does(machine: Machine) -> None:
    text = machine.file("acme.tok", token(max_apps=50))
    assert machine.license("show", "--json").json == {"state": "ABSENT", "envelope": None, "lastValidatedAt": None}
    seen = machine.license("preview", "acme.tok", "--json").json
    assert (seen["dry_run"], seen["state"], len(seen["limits"])) == (True, "ACTIVE", len(LIMITS))
    done = machine.license("install", "--json", stdin=(machine.folder / text).read_text()).json
    assert (done["state"], done["effective_until_restart"], done["shadowed_by"]) == ("ACTIVE", False, None)
    assert done["envelope"]["limits"] == {"max_apps": 50}
    used = machine.license("usage", "--json").json
    assert used["message"] == "License active. 365 days remaining."
    assert {"key": "max_apps", "current": 0, "cap": 50, "source": "license"} in used["limits"]
    found = machine.license("doctor", "--json")
    assert (found.code, found.json["ok"], found.json["state"]) == (0, True, "ACTIVE")


def test_a_token_comes_from_a_file_or_standard_input_and_never_from_the_arguments(machine: Machine) -> None:
    text = token()
    machine.tokens.append(text)
    refused = machine.license("install", text)
    assert refused.code == 1
    assert refused.err == (
        "error: the argument is no file: give the token in a file or on standard input, never among the arguments, "
        "where everybody on this machine sees it\n"
    )
    assert machine.license("install", "none.tok").err == "error: none.tok cannot be read: No such file or directory\n"
    assert machine.license("install", ".").err == "error: . cannot be read: Is a directory\n"
    assert machine.license("install", stdin=" \n").err == "error: there is no token: what was read is empty\n"
    assert machine.state() == "ABSENT"
    assert machine.license("install", "-", stdin=f"{text[:40]}\r\n{text[40:]}\n").code == 0
    assert machine.state() == "ACTIVE"


def test_a_token_that_is_refused_is_one_line_and_what_follows_from_it(machine: Machine) -> None:
    forged = machine.file("forged.tok", token(key=1))
    for command in ("preview", "install"):
        refused = machine.license(command, forged)
        assert (refused.code, refused.out) == (1, "")
        assert "error: License signature verification failed.\n" in refused.err
    assert machine.state() == "ABSENT"
    assert machine.license("install", machine.file("good.tok", token())).code == 0
    assert machine.license("preview", forged).code == 1
    assert machine.state() == "ACTIVE"
    refused = machine.license("install", forged)
    assert refused.code == 1
    assert "now counts as INVALID, with the caps of the default tier" in refused.err
    assert machine.state() == "INVALID"
    assert "refused:" in machine.license("show").out
    found = machine.license("doctor")
    assert found.code == 5
    assert found.rows["state"][0] == "look"
    assert "-> Compare CLAVITOR_LICENSE_PUBLIC_KEY with your vendor's public key" in found.out
    assert machine.license("install", "good.tok").code == 0
    assert machine.license("doctor").code == 0


def test_the_doctor_says_what_is_wrong_and_what_to_do(machine: Machine) -> None:
    well = machine.license("doctor")
    assert well.code == 0
    assert well.rows["public key"] == ["ok", f"SHA-256 {public_keys(0)[0].fingerprint} (license public key 1)"]
    assert well.rows["tenant"] == ["ok", "acme-corp"]
    assert well.rows["source"][0] == "ok"
    assert "->" not in well.out
    assert machine.license("install", machine.file("a.tok", token(days=-3, max_users=0))).code == 0
    late = machine.license("doctor")
    assert late.code == 5
    assert late.rows["state"][1].startswith("GRACE. License expired 3 days ago. Grace period ends in 27 days.")
    assert late.rows["max_users"] == ["look", "1 in use, 0 allowed (license)"]
    assert "-> Ask your vendor for a renewed license and install it before" in late.out
    moved = machine.license("doctor", CLAVITOR_TENANT_ID="beta-corp")
    assert moved.rows["tenant"] == ["ok", "beta-corp"]
    assert "does not match server tenant 'beta-corp'" in moved.rows["state"][1]
    keyless = machine.license("doctor", CLAVITOR_LICENSE_PUBLIC_KEY="")
    assert keyless.code == 5
    assert keyless.rows["public key"] == ["look", "none: every license is refused"]
    assert "-> Set CLAVITOR_LICENSE_PUBLIC_KEY to your vendor's public key and restart the server." in keyless.out


def test_a_setting_that_wins_at_the_next_start_is_said(machine: Machine) -> None:
    first, second = token(max_users=4), machine.file("second.tok", token(max_users=9))
    machine.tokens.append(first)
    waiting = machine.license("doctor", CLAVITOR_LICENSE_TOKEN=first)
    assert (waiting.code, waiting.rows["source"][1]) == (
        0,
        "CLAVITOR_LICENSE_TOKEN, to be installed at the next start of the server",
    )
    done = machine.license("install", second, CLAVITOR_LICENSE_TOKEN=first)
    assert done.code == 0
    assert "CLAVITOR_LICENSE_TOKEN names another token, which is installed at every start" in done.err
    shadowed = machine.license("doctor", CLAVITOR_LICENSE_TOKEN=first)
    assert (shadowed.code, shadowed.rows["source"][0]) == (5, "look")
    forged = machine.file("forged.tok", token(key=1))
    broken = machine.license("doctor", CLAVITOR_LICENSE_FILE=str(machine.folder / forged))
    assert broken.code == 5
    assert "CLAVITOR_LICENSE_FILE, which is refused: License signature" in broken.rows["source"][1]


def test_a_command_without_the_servers_settings_changes_nothing(machine: Machine) -> None:
    good = machine.file("good.tok", token(max_users=9))
    assert machine.license("install", good).code == 0
    newer = machine.file("newer.tok", token(max_users=8))
    for variable in ("CLAVITOR_LICENSE_PUBLIC_KEY", "CLAVITOR_TENANT_ID"):
        refused = machine.license("install", newer, **{variable: ""})
        assert (refused.code, refused.out) == (1, "")
        (line,) = refused.err.splitlines()  # said once, and not in the log besides
        assert "The settings of this command are to blame: run it with the server's variables" in line
        assert line.endswith("The license of the server is as before")
        assert machine.state() == "ACTIVE"
    rows = machine.run("audit", "export").out
    assert rows.count("reject_license") == 2


def test_what_is_refused_is_forgotten_removed_and_said_once(machine: Machine) -> None:
    assert machine.license("forget-refused").err == "error: No token was refused.\n"
    assert machine.license("install", machine.file("good.tok", token())).code == 0
    refused = machine.license("install", machine.file("forged.tok", token(key=1)))
    assert len(refused.err.splitlines()) == 1
    shown = machine.license("show")
    assert "is still stored: install it again, or run clavitor license forget-refused." in shown.out
    found = machine.license("doctor")
    assert found.rows["refused"][0] == "look"
    done = machine.license("forget-refused")
    assert (done.code, done.out) == (
        0,
        "Forgot the token that was refused. License active. 365 days remaining.\n",
    )
    assert machine.license("reset-clock", "--json").json["state"] == "ACTIVE"
    assert machine.license("remove").err == "error: no terminal to ask at: confirm with --yes\n"
    assert machine.state() == "ACTIVE"
    assert machine.license("remove", "--yes").out.startswith("Removed the license. No license installed.")
    assert machine.state() == "ABSENT"
    assert "No license is installed." in machine.license("remove", "--yes").err


def test_a_cap_that_refuses_is_said_once_and_shown_as_full(machine: Machine) -> None:
    for name in ("b", "c"):
        assert machine.run("user", "create", name, "--no-password").code == 0
    refused = machine.run("user", "create", "d", "--no-password")
    assert refused.code != 0
    assert len(refused.err.splitlines()) == 1
    assert machine.license("usage").rows["max_users"] == ["3", "3", "FULL", "default"]
    found = machine.license("doctor")
    assert found.rows["max_users"] == ["ok", "all 3 in use, the next is refused (default)"]


def test_a_worse_license_is_warned_about(machine: Machine) -> None:
    assert machine.license("install", machine.file("good.tok", token(days=300))).err == ""
    sooner = machine.license("preview", machine.file("sooner.tok", token(days=30)))
    assert "warning: it expires earlier (" in sooner.err
    late = machine.license("install", machine.file("late.tok", token(days=-90)))
    assert (late.code, late.err) == (0, "warning: this license has expired: it would lift nothing.\n")


def test_beside_a_setting_that_waits_both_licenses_are_said(machine: Machine) -> None:
    first, second = token(max_users=4), token(max_users=9)
    machine.tokens += [first, second]
    assert machine.license("install", stdin=second).code == 0
    shown = machine.license("show", CLAVITOR_LICENSE_TOKEN=first)
    assert f"after a restart: {LICENSE_ID}" in shown.out
    used = machine.license("usage", CLAVITOR_LICENSE_TOKEN=first)
    assert used.rows["max_users"] == ["1", "9", "0", "license"]  # what is in force
    assert used.err == f"after a restart: {LICENSE_ID}\n"
    found = machine.license("doctor", CLAVITOR_LICENSE_TOKEN=first)
    assert found.rows["source"][1].endswith(f"; after a restart: {LICENSE_ID}")
    bad = machine.license("show", CLAVITOR_LICENSE_TOKEN="x")
    assert "after a restart: INVALID, License token is malformed" in bad.out


def test_the_doctor_knows_a_stored_license_that_is_refused(machine: Machine) -> None:
    assert machine.license("install", machine.file("good.tok", token())).code == 0
    moved = machine.license("doctor", CLAVITOR_TENANT_ID="beta-corp")
    assert moved.rows["license"] == ["look", "one is stored, and refused (tenant)"]
    assert "-> Set CLAVITOR_TENANT_ID back to the tenant of the stored license" in moved.out
    missing = machine.license("doctor", CLAVITOR_LICENSE_FILE="/no/such.tok")
    assert "-> See that the file CLAVITOR_LICENSE_FILE names is there" in missing.out


def test_the_status_has_times_for_people_and_nothing_that_is_absent(machine: Machine) -> None:
    machine.run("status")
    assert "None" not in machine.run("status").out
    assert machine.license("install", machine.file("good.tok", token())).code == 0
    status = json.loads(machine.run("status", "--json").out)["vault"]["plugins"]["licensing"]
    assert status["state"] == "ACTIVE"
    assert status["expires_at"].endswith("Z")
    assert status["last_validated_at"].endswith("Z")


def test_a_running_server_follows(machine: Machine) -> None:
    file = machine.file("acme.tok", token(max_users=9))
    with ServerProcess(machine.folder, environ=machine.environ) as server:
        url = f"{server.url}/api/v1/admin/license"
        assert httpx.get(url, headers=server.authorization).json()["state"] == "ABSENT"
        assert machine.license("install", file).code == 0
        assert httpx.get(url, headers=server.authorization).json()["state"] == "ACTIVE"
        assert machine.license("doctor").code == 0
    machine.printed += server.log_file.read_text()
