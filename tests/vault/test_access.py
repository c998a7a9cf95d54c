"""Who may read and write entries (vault.md section 2), over the hot and the ordinary routes."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

import httpx
import pytest

BLOB = base64.b64encode(b"sealed").decode()
Clients = Callable[..., Awaitable[httpx.AsyncClient]]

pytestmark = pytest.mark.usefixtures("both_paths")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer clv_user_wrong",
        "Bearer \x7f",
        "Basic Zm9vOmJhcg==",
        "Bearer " + "a" * 5000,
        "Bearer clv_user_" + "A" * 43,
        "Bearer clv_metrics_" + "A" * 43,
    ],
)
async def test_every_wrong_credential_gets_the_same_401(client: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    bodies = set()
    for method, path in (("GET", "/api/entries/x"), ("PUT", "/api/entries/x"), ("GET", "/api/changes")):
        reply = await client.request(method, path, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        bodies.add(reply.content)
    missing = await client.get("/api/entries/x")
    assert bodies == {missing.content}


async def test_a_viewer_reads_but_does_not_write(client_for: Clients, writer: httpx.AsyncClient) -> None:
    await writer.put("/api/entries/one", json={"encrypted_data": BLOB})
    viewer = await client_for("VIEWER")
    assert (await viewer.get("/api/entries/one")).status_code == 200
    assert (await viewer.get("/api/changes")).status_code == 200
    for reply in (
        await viewer.put("/api/entries/one", json={"encrypted_data": BLOB}),
        await viewer.delete("/api/entries/one"),
        await viewer.post("/api/entries", json={"encrypted_data": BLOB}),
    ):
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


async def test_a_read_token_of_an_operator_does_not_write(client_for: Clients) -> None:
    reader = await client_for("OPERATOR", scope="read")
    assert (await reader.put("/api/entries/one", json={"encrypted_data": BLOB})).status_code == 403
    assert (await reader.get("/api/entries")).status_code == 200


async def test_an_environment_token_reaches_only_its_own(client_for: Clients, writer: httpx.AsyncClient) -> None:
    inside = await client_for("OPERATOR", environment_id="blue")
    await writer.put("/api/entries/mine", json={"encrypted_data": BLOB, "environment_id": "blue"})
    await writer.put("/api/entries/theirs", json={"encrypted_data": BLOB, "environment_id": "red"})
    await writer.put("/api/entries/nobodys", json={"encrypted_data": BLOB})

    assert (await inside.get("/api/entries/mine")).status_code == 200
    assert (await inside.get("/api/entries/theirs")).status_code == 404
    assert (await inside.get("/api/entries/nobodys")).status_code == 404
    assert (await inside.delete("/api/entries/theirs")).status_code == 404
    assert (await inside.put("/api/entries/theirs", json={"encrypted_data": BLOB})).status_code == 403
    moved = {"encrypted_data": BLOB, "environment_id": "red"}
    assert (await inside.put("/api/entries/mine", json=moved)).status_code == 403
    made = await inside.put("/api/entries/new", json={"encrypted_data": BLOB})
    assert (made.status_code, made.json()["environment_id"]) == (201, "blue")
    listed = (await inside.get("/api/entries")).json()["entries"]
    assert {entry["entry_id"] for entry in listed} == {"mine", "new"}
    changed = (await inside.get("/api/changes")).json()["changes"]
    assert {change["entry_id"] for change in changed} == {"mine", "new"}


async def test_a_put_without_environment_keeps_it(writer: httpx.AsyncClient) -> None:
    await writer.put("/api/entries/one", json={"encrypted_data": BLOB, "environment_id": "blue"})
    await writer.put("/api/entries/one", json={"encrypted_data": BLOB})
    assert (await writer.get("/api/entries/one")).json()["environment_id"] == "blue"
    await writer.put("/api/entries/one", json={"encrypted_data": BLOB, "environment_id": None})
    assert "environment_id" not in (await writer.get("/api/entries/one")).json()


async def test_refusals_are_audited_once(
    client_for: Clients, writer: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    await writer.put("/api/entries/theirs", json={"encrypted_data": BLOB, "environment_id": "red"})
    inside = await client_for("OPERATOR", environment_id="blue")
    for _ in range(3):
        assert (await inside.put("/api/entries/theirs", json={"encrypted_data": BLOB})).status_code == 403
    viewer = await client_for("VIEWER")
    assert (await viewer.delete("/api/entries/theirs")).status_code == 403
    wrong = {"Authorization": "Bearer clv_user_wrong"}
    assert (await viewer.get("/api/entries/theirs", headers=wrong)).status_code == 401
    rows = (await admin.get("/api/v1/admin/audit?action=refuse")).json()["rows"]
    assert [row["actor"] for row in rows] == ["anonymous", "viewer", "operator"]
    assert "clv_user_wrong" not in str(rows)
