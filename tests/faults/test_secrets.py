"""Canaries in every place where a client puts a secret: no log, audit row, metric, error or process title has one."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from clavitor_host.testing.postgres import PostgresServer

if TYPE_CHECKING:
    from clavitor_host.testing.process import ServerProcess
    from tests.faults.conftest import Serve

CANARY = "Kanarienvogel7391"
PASSWORD = f"{CANARY}-password-1"
NEXT_PASSWORD = f"{CANARY}-password-2"
WRONG = f"{CANARY}-wrong"
BLOB = base64.b64encode(f"{CANARY} in a blob, long enough to be seen".encode()).decode()
CONFIG = f"""
metrics_token = "{CANARY}-metrics-token"
[log]
level = "debug"
access = true
"""


class Session:
    """A client that keeps every answer that should hold no secret."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = httpx.Client(base_url=server.url, timeout=10)
        self.bodies: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.client.close()

    def ask(self, method: str, path: str, *expected: int, keep: bool = True, **options: Any) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        assert answer.status_code in expected, (method, path, answer.status_code, answer.text)
        if keep:
            self.bodies.append(f"{method} {path} {answer.status_code} {answer.headers} {answer.text}")
        return answer


def _full_session(server: ServerProcess, session: Session) -> list[str]:
    """Do everything a secret takes part in, right and wrong; return the secrets that the server made."""
    admin = server.authorization
    ask = session.ask
    user = {"name": "canary", "role": "OPERATOR", "password": PASSWORD}
    ask("POST", "/api/v1/admin/users", 201, json=user, headers=admin)
    ask("POST", "/api/v1/admin/users", 409, json=user, headers=admin)
    ask("POST", "/api/v1/admin/users", 400, json={**user, "role": "KING"}, headers=admin)
    ask("POST", "/api/v1/admin/users", 400, json={**user, "password": [WRONG]}, headers=admin)
    ask("POST", "/api/v1/admin/users", 400, json={**user, "extra": WRONG}, headers=admin)
    ask("POST", "/api/v1/admin/users", 400, content=f'{{"password": "{WRONG}", '.encode(), headers=admin)
    # logins, wrong in every way
    ask("POST", "/api/v1/login", 401, json={"name": "canary", "password": WRONG})
    ask("POST", "/api/v1/login", 401, json={"name": "nobody", "password": WRONG})
    ask("POST", "/api/v1/login", 400, json={"name": "canary", "password": [WRONG]})
    ask("POST", "/api/v1/login", 400, content=f'{{"password": "{WRONG}'.encode())
    ask("POST", "/api/v1/login", 400, json={"name": "canary", "password": WRONG, WRONG: 1}, keep=False)
    login = ask("POST", "/api/v1/login", 200, keep=False, json={"name": "canary", "password": PASSWORD})
    cookie = login.headers["set-cookie"].partition(";")[0]
    csrf = login.json()["csrf_token"]
    browser = {"Cookie": cookie, "X-CSRF-Token": csrf}
    ask("GET", "/api/v1/me", 200, keep=False, headers=browser)
    change = {"current_password": WRONG, "new_password": NEXT_PASSWORD}
    ask("PATCH", "/api/v1/me", 400, 401, 403, json=change, headers=browser)
    ask("PATCH", "/api/v1/me", 403, json=change, headers={"Cookie": cookie, "X-CSRF-Token": WRONG})
    # tokens
    made = ask("POST", "/api/v1/admin/tokens", 201, keep=False, json={"name": "t"}, headers=admin).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}
    ask("GET", "/api/v1/me", 200, headers=bearer)
    ask("GET", "/api/v1/admin/tokens", 200, headers=bearer)
    ask("GET", "/api/v1/admin/users", 200, headers=bearer)
    for wrong in (f"Bearer clv_user_{WRONG}", f"Basic {WRONG}", WRONG, f"Bearer {made['token']}x"):
        ask("GET", "/api/v1/me", 401, headers={"Authorization": wrong})
        ask("PUT", "/api/entries/x", 401, headers={"Authorization": wrong}, json={"encrypted_data": BLOB})
        ask("GET", "/api/v1/prometheus", 401, headers={"Authorization": wrong})
    # blobs
    ask("PUT", "/api/entries/e", 201, json={"encrypted_data": BLOB}, headers=bearer)
    ask("PUT", "/api/entries/e", 412, json={"encrypted_data": BLOB}, headers={**bearer, "If-Match": '"999"'})
    ask("PUT", "/api/entries/e", 400, json={"encrypted_data": BLOB + CANARY}, headers=bearer)
    ask("PUT", "/api/entries/e", 400, json={"encrypted_data": [BLOB]}, headers=bearer)
    ask("PUT", "/api/entries/e", 415, content=BLOB, headers={**bearer, "Content-Type": "text/plain"})
    ask("POST", "/api/entries", 409, json={"entry_id": "e", "encrypted_data": BLOB}, headers=bearer)
    operations = [{"operation": "put", "entry_id": "b", "encrypted_data": BLOB}, {"operation": WRONG, "entry_id": "c"}]
    ask("POST", "/api/entries/batch", 400, json={"operations": operations}, headers=bearer)
    ask("GET", "/api/entries/e", 200, keep=False, headers=bearer)
    ask("GET", "/api/entries?limit=10", 200, headers=bearer)
    ask("DELETE", f"/api/v1/admin/tokens/{made['id']}", 200, 204, headers=bearer)
    ask("GET", "/api/v1/me", 401, headers=bearer)
    ask("GET", "/api/v1/setup", 405, 404)
    ask("POST", "/api/v1/setup", 400, 401, 403, 404, 409, json={"token": WRONG, "name": "x", "password": PASSWORD})
    ask("GET", "/api/v1/admin/audit?limit=1000", 200, headers=admin)
    ask("GET", "/api/v1/admin/audit/export", 200, headers=admin)
    ask("GET", "/api/v1/prometheus", 200, headers={"Authorization": f"Bearer {CANARY}-metrics-token"})
    return [made["token"], server.token, cookie.partition("=")[2], csrf]


def _process_titles(server: ServerProcess) -> str:
    pids = [server.pid, *server.worker_pids()]
    return "".join(
        Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace") for pid in pids for name in ("cmdline", "comm")
    )


def _check_clean(what: str, text: str, secrets: list[str]) -> None:
    for secret in secrets:
        assert secret not in text, f"{what}: {[line for line in text.splitlines() if secret in line][:3]}"


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_leaves_its_place_on_sqlite(serve: Serve, form: str) -> None:
    server = serve(config=CONFIG + f'format = "{form}"\n')
    with Session(server) as session:
        made = _full_session(server, session)
        secrets = [CANARY, BLOB, *made]
        _check_clean("an answer", "\n".join(session.bodies), secrets)
        _check_clean("a process title", _process_titles(server), secrets)
        # errors of the database itself, with values at hand
        with sqlite3.connect(server.data_dir / "vault.db", isolation_level=None) as other:
            other.execute("ALTER TABLE audit_log RENAME TO audit_log_away")
            session.ask("PUT", "/api/entries/e2", 500, 503, json={"encrypted_data": BLOB}, headers=server.authorization)
            bad_login = {"name": "canary", "password": WRONG}
            session.ask("POST", "/api/v1/login", 401, 500, 503, json=bad_login)
            other.execute("ALTER TABLE audit_log_away RENAME TO audit_log")
        other.close()
        _check_clean("an answer", "\n".join(session.bodies), secrets)
        shown = server.run("config", "show")
        assert "metrics_token" in shown.stdout
        _check_clean("config show", shown.stdout + shown.stderr, secrets)
    server.terminate()
    _check_clean("the log", server.log, secrets)
    assert "Request" in server.log  # it is the whole log
    connection = sqlite3.connect(server.data_dir / "vault.db")
    for table in ("audit_log", "users", "tokens", "sessions", "login_failures"):
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        _check_clean(table, repr(rows), secrets)
    connection.close()


async def test_no_secret_leaves_its_place_on_postgresql(serve: Serve, postgres_url: str) -> None:
    server = serve(config=CONFIG, database_url=postgres_url)
    with Session(server) as session:
        secrets = [CANARY, BLOB, *_full_session(server, session)]
        postgres = PostgresServer(postgres_url)
        await postgres.run("ALTER TABLE entries ADD CONSTRAINT faults CHECK (entry_id <> 'refused')")
        for entry_id in ("refused", "other"):
            session.ask(
                "PUT", f"/api/entries/{entry_id}", 201, 500, json={"encrypted_data": BLOB}, headers=server.authorization
            )
        await postgres.run("ALTER TABLE audit_log RENAME TO audit_log_away")
        session.ask("PUT", "/api/entries/e2", 500, 503, json={"encrypted_data": BLOB}, headers=server.authorization)
        await postgres.run("ALTER TABLE audit_log_away RENAME TO audit_log")
    server.terminate()
    _check_clean("an answer", "\n".join(session.bodies), secrets)
    _check_clean("the log", server.log, secrets)
    for table in ("audit_log", "users", "tokens", "sessions", "login_failures"):
        _check_clean(table, repr(await postgres.run(f"SELECT * FROM {table}")), secrets)
