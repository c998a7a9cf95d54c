"""One of everything that a vault is used for: what is watched from outside should not be an idle server."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import httpx

from clavitor_host.testing.process import ServerProcess

PASSWORD = "correct horse battery"
BLOB = base64.b64encode(b"sealed").decode()
PAGES = ("/account", "/admin", "/admin/audit", "/admin/plugins", "/admin/tokens", "/admin/users", "/api/docs")
READS = ("/api/v1/me", "/api/v1/status", "/api/v1/admin/plugins", "/api/v1/admin/audit", "/api/v1/openapi.json")
NOWHERE = ("/nothing", "/api/nothing", "/api/v1/nothing", "/admin/nothing", "/static/nothing")


def use(server: ServerProcess) -> None:
    """Set up, log in, look at every page, write, read and delete entries, be refused, scrape, ask for nothing."""
    with httpx.Client(base_url=server.url, headers={"Origin": server.url}, timeout=60) as browser:
        set_up(browser, server.log)
        token = _page_of_everything(browser)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as api:
        _entries(api)
        for path in READS:
            assert api.get(path).status_code == 200, path
        for path in NOWHERE:
            assert api.get(path).status_code == 404, path
        assert api.put("/api/v1/me").status_code == 405
    with httpx.Client(base_url=server.url, timeout=60) as nobody:
        for path in ("/healthz", "/readyz", "/api/v1/prometheus"):
            assert nobody.get(path).status_code == 200, path
        assert nobody.get("/api/entries").status_code == 401


ASK_THE_SERVER = ("status",)
"""Commands that ask the running server."""


def commands(folder: Path) -> list[tuple[str, ...]]:
    """Return commands to run beside the server; a backup goes to `folder`."""
    return [("backup", str(folder / "vault.backup")), ("status",), ("doctor",), ("audit", "verify"), ("plugins",)]


def set_up(browser: httpx.Client, log: str, name: str = "Root") -> None:
    """Open the setup link that the server printed, make the first administrator, and stay logged in."""
    link = re.search(r"/setup\?token=(\S+)", log)
    assert link is not None, log
    assert browser.get(link[0]).status_code == 200
    made = browser.post("/api/v1/setup", json={"token": link[1], "name": name, "password": PASSWORD})
    assert made.status_code == 201, made.text
    browser.headers["X-CSRF-Token"] = made.json()["csrf_token"]
    browser.headers["Cookie"] = made.headers["Set-Cookie"].partition(";")[0]  # a jar keeps it for https alone


def _page_of_everything(browser: httpx.Client) -> str:
    """Return the token of a new user."""
    for page in PAGES:
        assert browser.get(page).status_code == 200, page
    user = browser.post("/api/v1/admin/users", json={"name": "someone", "role": "ADMIN", "password": PASSWORD})
    wrong = browser.post("/api/v1/login", json={"name": "someone", "password": "wrong wrong wrong"})
    assert (user.status_code, wrong.status_code) == (201, 401), user.text
    token = browser.post("/api/v1/admin/tokens", json={"name": "test", "user_id": user.json()["id"]})
    assert token.status_code == 201, token.text
    secret: str = token.json()["token"]
    return secret


def _entries(api: httpx.Client) -> None:
    for number in range(20):
        assert api.put(f"/api/entries/e{number}", json={"encrypted_data": BLOB}).status_code == 201
    assert api.get("/api/entries/e1").json()["encrypted_data"] == BLOB
    assert api.get("/api/entries/none").status_code == 404
    assert len(api.get("/api/entries?include=data").json()["entries"]) == 20
    assert len(api.get("/api/changes?since=5").json()["changes"]) == 15
    assert api.delete("/api/entries/e1").status_code == 204
    batch = [{"operation": "put", "entry_id": "e2", "encrypted_data": BLOB}, {"operation": "delete", "entry_id": "e3"}]
    assert api.post("/api/entries/batch", json={"operations": batch}).status_code == 200
