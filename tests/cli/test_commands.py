"""What a person and a script do with the command line, on a data folder and beside a running server."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clavitor_host import __version__
from clavitor_host.cli.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]

PASSWORD = "correct horse battery staple"


@pytest.fixture
def admin(clavitor: Any) -> Any:
    """The administrator `ada`, made offline."""
    result = clavitor("user", "create", "ada", "--role", "ADMIN", "--password-stdin", stdin=PASSWORD + "\n")
    assert (result.code, result.out) == (0, "Made user ada (ADMIN).\n"), result.err
    return clavitor


def test_a_user_and_a_token_are_made_offline(admin: Any) -> None:
    result = admin("token", "create", "--user", "ada", "--scope", "read", "--json")
    assert result.code == 0
    assert result.json["token"].startswith("clv_user_")
    assert (result.json["scope"], result.json["kind"]) == ("read", "user")
    plain = admin("token", "create", "--user", "ada")
    assert plain.out.startswith("clv_user_")
    assert plain.out.count("\n") == 1
    assert "not shown again" in plain.err


def test_a_token_is_listed_and_revoked(admin: Any) -> None:
    made = admin("token", "create", "--user", "ada", "--name", "laptop", "--expires", "30d", "--json").json
    (listed,) = admin("token", "list", "--user", "ada", "--json").json["tokens"]
    assert listed == {key: value for key, value in made.items() if key != "token"}
    lines = admin("token", "list").out.splitlines()
    assert lines[0].split("\t")[:4] == ["ID", "KIND", "OWNER", "NAME"]
    assert lines[1].split("\t")[1:5] == ["user", "ada", "laptop", "write"]
    assert admin("token", "revoke", made["id"]).out == f"Revoked token {made['id']}.\n"
    assert admin("token", "list", "--json").json == {"tokens": []}
    again = admin("token", "revoke", made["id"])
    assert (again.code, again.error()) == (ExitCode.FAILED, "There is no such token.")


def test_a_user_is_changed(admin: Any) -> None:
    admin("user", "create", "bob", "--no-password")
    assert admin("user", "role", "bob", "operator").out == "User bob is now OPERATOR.\n"
    assert admin("user", "disable", "bob").code == 0
    shown = admin("user", "show", "bob", "--json").json
    assert (shown["role"], shown["disabled"], shown["has_password"]) == ("OPERATOR", True, False)
    assert admin("user", "enable", "bob", "--json").json["disabled"] is False
    assert admin("user", "password", "bob", "--password-stdin", stdin=PASSWORD).code == 0
    assert [user["name"] for user in admin("user", "list", "--json").json["users"]] == ["ada", "bob"]
    assert admin("user", "delete", "bob", "--yes").out == "Removed user bob.\n"
    gone = admin("user", "show", "bob")
    assert (gone.code, gone.error()) == (ExitCode.FAILED, "There is no such user.")


def test_without_a_terminal_nothing_is_asked(admin: Any) -> None:
    result = admin("user", "create", "bob")
    assert result.code == ExitCode.USAGE
    assert "--password-stdin" in result.error()
    result = admin("user", "delete", "ada")
    assert result.code == ExitCode.USAGE
    assert "--yes" in result.error()


def test_what_the_service_refuses_is_one_line(admin: Any) -> None:
    result = admin("user", "create", "ada", "--password-stdin", stdin=PASSWORD)
    assert (result.code, result.error()) == (ExitCode.FAILED, "A user with this name exists.")
    result = admin("user", "delete", "ada", "--yes")
    assert result.code == ExitCode.FAILED
    assert "last enabled ADMIN" in result.error()


def test_no_password_reaches_output_or_the_data_folder(admin: Any, tmp_path: Path) -> None:
    shown = admin("user", "show", "ada", "--json")
    assert PASSWORD not in shown.out
    for file in (tmp_path / "data").iterdir():
        if file.is_file():
            assert PASSWORD.encode() not in file.read_bytes()


def test_the_audit_chain_is_whole_until_a_row_is_changed(admin: Any, tmp_path: Path) -> None:
    admin("user", "create", "bob", "--no-password")
    result = admin("audit", "verify")
    assert result.code == 0
    assert result.out.startswith("ok: the audit chain is whole: 2 rows, head 2 ")
    with sqlite3.connect(tmp_path / "data" / "vault.db") as db:
        db.execute("UPDATE audit_log SET title = 'nothing happened' WHERE id = 1")
    result = admin("audit", "verify")
    assert result.code == ExitCode.UNHEALTHY
    assert "broken at row 1" in result.out
    found = admin("audit", "verify", "--json")
    assert (found.code, found.json["ok"], found.json["broken_id"]) == (ExitCode.UNHEALTHY, False, 1)
    assert admin("doctor").code == ExitCode.UNHEALTHY


def test_audit_rows_are_exported(admin: Any, tmp_path: Path) -> None:
    admin("user", "create", "bob", "--no-password")
    rows = [json.loads(line) for line in admin("audit", "export").out.splitlines()]
    assert [row["title"] for row in rows] == ["created user ada", "created user bob"]
    assert admin("audit", "export", "--until", "2001-01-01").out == ""
    assert admin("audit", "export", "--format", "csv", "-o", "rows.csv").out == ""
    assert (tmp_path / "rows.csv").read_text().startswith("id,at,category")
    refused = admin("audit", "export", "-o", "nowhere/rows.csv")
    assert (refused.code, refused.error()) == (1, "nowhere/rows.csv cannot be written: No such file or directory")


def test_a_backup_is_restored(admin: Any, tmp_path: Path) -> None:
    result = admin("backup", "vault.backup", "--json")
    assert result.code == 0, result.err
    assert result.json["bytes"] == (tmp_path / "vault.backup").stat().st_size
    admin("user", "create", "bob", "--no-password")
    refused = admin("restore", "vault.backup")
    assert refused.code != 0
    assert "force" in refused.error()
    assert len(admin("user", "list", "--json").json["users"]) == 2
    assert admin("restore", "vault.backup", "--force").code == 0
    assert [user["name"] for user in admin("user", "list", "--json").json["users"]] == ["ada"]
    assert admin("restore", "vault.backup", "--data-dir", "other").code == 0
    assert admin("audit", "verify", "--data-dir", "other").code == 0


def test_the_doctor_finds_a_new_installation_well(admin: Any) -> None:
    result = admin("doctor", "--json")
    assert (result.code, result.json["ok"]) == (0, True), result.out
    assert {"configuration", "data folder", "database", "audit chain"} <= {c["name"] for c in result.json["checks"]}


def test_the_doctor_names_what_is_wrong(clavitor: Any, tmp_path: Path) -> None:
    result = clavitor("doctor", "--json")
    assert result.code == ExitCode.UNHEALTHY
    assert "no database" in next(c["problem"] for c in result.json["checks"] if c["name"] == "database")
    (tmp_path / "clavitor.toml").write_text("wrokers = 1")
    (check,) = clavitor("doctor", "--json").json["checks"]
    assert "did you mean workers?" in check["problem"]


def test_the_configuration_is_checked_and_shown(clavitor: Any, tmp_path: Path) -> None:
    assert clavitor("config", "check").code == 0
    result = clavitor("config", "show", env={"CLAVITOR_METRICS_TOKEN": "a-secret-of-mine-1"})
    assert 'metrics_token = "********"  # CLAVITOR_METRICS_TOKEN' in result.out
    assert "a-secret-of-mine" not in result.out
    assert clavitor("config", "show", "--json").json["values"]["data_dir"] == str(tmp_path / "data")
    missing = clavitor("config", "check", env={"CLAVITOR_TLS_CERT": "c.pem", "CLAVITOR_TLS_KEY": "k.pem"})
    assert (missing.code, missing.out) == (ExitCode.CONFIG, "")
    assert "tls.cert" in missing.error()


def test_the_plugins_of_an_unbuilt_checkout_are_the_community_edition(clavitor: Any) -> None:
    result = clavitor("plugins", "--json")
    assert (result.code, result.json["edition"]) == (0, "community")
    stock = tomllib.loads((ROOT / "bundles" / "community.toml").read_text())["plugins"]
    found = [(plugin["name"], plugin["state"]) for plugin in result.json["plugins"]]
    assert found == [(name.removeprefix("clavitor-"), "configured") for name in stock]
    assert "community" in clavitor("plugins").out


def test_a_server_starts_says_so_and_stops_cleanly(serve: Any, clavitor: Any) -> None:
    server = serve()
    log = server.log.read_text()
    assert f"Starting Clavitor Vault v{__version__} - Community Edition\n" in log
    assert f"Listening on http://{server.bind}\n" in log
    assert clavitor("status", "--bind", server.bind, "--json").json["server"]["state"] == "ready"
    assert server.stop() == 0


def test_the_setup_link_is_printed_until_there_is_a_user(serve: Any, clavitor: Any) -> None:
    server = serve()
    assert f"http://{server.bind}/setup?token=" in server.log_with("no administrator yet")
    assert clavitor("user", "create", "ada", "--role", "ADMIN", "--password-stdin", stdin=PASSWORD).code == 0
    server.stop()
    server.log.write_text("")
    again = serve()
    assert clavitor("status", "--bind", again.bind).code == 0
    again.stop()
    assert "setup?token=" not in again.log.read_text()


def test_commands_work_on_the_database_of_a_running_server(serve: Any, clavitor: Any, tmp_path: Path) -> None:
    server = serve()
    clavitor("user", "create", "ada", "--role", "ADMIN", "--password-stdin", stdin=PASSWORD)
    token = clavitor("token", "create", "--user", "ada", "--json").json["token"]
    (tmp_path / "token").write_text(token)
    answer = clavitor("status", "--bind", server.bind, "--token-file", "token", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["vault"]["edition"] == "community"
    wrong = clavitor("status", "--bind", server.bind, "--token-file", "-", stdin="clv_user_wrong")
    assert wrong.code == ExitCode.FAILED
    assert wrong.error().startswith("the server answers 401")


def test_the_status_of_a_server_that_does_not_run(admin: Any) -> None:
    result = admin("status", "--bind", "127.0.0.1:1", "--json")
    assert result.code == ExitCode.UNHEALTHY
    assert result.json["server"]["state"] == "not running"
    assert result.json["vault"]["entries"] == 0


def test_a_taken_port_is_one_line_and_exit_code_4(serve: Any, clavitor: Any) -> None:
    server = serve()
    result = clavitor("serve", "--bind", server.bind, "--data-dir", "other")
    assert result.code == ExitCode.UNAVAILABLE
    assert result.err.splitlines()[-1].startswith(f"error: {server.bind} is already in use")
    assert "Traceback" not in result.err


def test_several_workers_serve_and_stop_with_exit_code_0(serve: Any) -> None:
    server = serve("--workers", "2")
    log = server.log_with(f"Listening on http://{server.bind}\n")  # the first worker answers before all are there
    assert log.count("Starting Clavitor Vault") == 1
    assert server.get("/healthz") == 200
    assert server.stop() == 0


def test_a_server_over_a_unix_socket_is_asked_for_its_status(serve: Any, clavitor: Any, tmp_path: Path) -> None:
    server = serve(bind=f"unix:{tmp_path}/s")
    assert f"Listening on unix:{tmp_path}/s" in server.log.read_text()
    result = clavitor("status", "--bind", "unix:s", "--json")
    assert (result.code, result.json["server"]["state"]) == (0, "ready"), result.err
    assert server.stop() == 0
    assert not (tmp_path / "s").exists()
