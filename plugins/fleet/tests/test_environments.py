"""Environments and apps through REST."""

from __future__ import annotations

from typing import Any

import pytest
from clavitor_fleet_testing.server import Server, Start
from clavitor_licensing_testing.server import environ, token


async def test_an_environment_is_made_read_changed_listed_and_deleted(fleet: Server) -> None:
    made = await fleet.post("environments", {"name": "production", "log_retention_days": 7})
    assert made["execution_retention_days"] == made["metric_retention_days"] == 1
    assert made["jar_retention_count"] == 3
    path = f"environments/{made['id']}"
    changed = await fleet.put(path, {"name": "Production", "metric_retention_days": 3})
    assert (changed["name"], changed["log_retention_days"], changed["metric_retention_days"]) == ("Production", 7, 3)
    counted = await fleet.put(f"admin/{path}/jar-retention", {"jar_retention_count": 5})
    assert counted == await fleet.get(path)
    counted = await fleet.put(path, {"jar_retention_count": 4})
    assert (counted["jar_retention_count"], counted) == (4, await fleet.get(path))
    assert (await fleet.get("environments"))["environments"] == [counted]
    await fleet.delete(path)
    await fleet.get(path, expect=404)
    actions = [row["action"] for row in await fleet.audit(category="FLEET")]
    assert actions == [
        "delete_environment",
        "update_environment",
        "update_environment",
        "update_environment",
        "create_environment",
    ]


async def test_a_name_is_taken_whatever_its_case(fleet: Server) -> None:
    await fleet.environment("Production")
    refused = await fleet.post("environments", {"name": "PRODUCTION"}, expect=409)
    assert (refused["code"], refused["field"]) == ("environment_exists", "name")


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": " x"}, {"name": "x", "log_retention_days": 0}, {"nam": "x"}]
)
async def test_what_is_no_environment_is_a_400_that_names_the_field(fleet: Server, body: dict[str, object]) -> None:
    refused = await fleet.post("environments", body, expect=400)
    assert refused["code"] == "invalid_field"
    assert refused["field"] in ("name", "nam", "log_retention_days")


async def test_an_environment_in_use_is_not_deleted_and_what_uses_it_is_named(fleet: Server) -> None:
    environment = await fleet.environment()
    await fleet.app(environment)
    entry = {"encrypted_data": "AAAA", "environment_id": environment}
    assert (await fleet.admin.put("/api/entries/key", json=entry)).status_code == 201
    refused = await fleet.delete(f"environments/{environment}", expect=409)
    assert (refused["code"], refused["used_by"]) == ("environment_in_use", {"apps": 1, "entries": 1})


async def test_an_app_needs_an_environment_that_is_there(fleet: Server) -> None:
    refused = await fleet.post("apps", {"name": "shop", "environment_id": "nowhere"}, expect=422)
    assert (refused["code"], refused["field"]) == ("unknown_reference", "environment_id")


async def test_two_apps_of_one_name_are_in_two_environments(fleet: Server) -> None:
    first, second = await fleet.environment("a"), await fleet.environment("b")
    await fleet.app(first)
    await fleet.app(second)
    refused = await fleet.post("apps", {"name": "SHOP", "environment_id": first}, expect=409)
    assert refused["code"] == "app_exists"
    listed = await fleet.get("apps", environment_id=second)
    assert [app["environment_id"] for app in listed["apps"]] == [second]


async def test_pages_show_every_app_once(fleet: Server) -> None:
    environment = await fleet.environment()
    made = [await fleet.app(environment, f"app-{number}") for number in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = await fleet.get("apps", **query)
        seen += [app["id"] for app in page["apps"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert sorted(seen) == sorted(made)
    assert len(seen) == 5


async def test_a_token_of_an_environment_reaches_no_other(fleet: Server) -> None:
    mine, other = await fleet.environment("mine"), await fleet.environment("other")
    app = await fleet.app(other)
    client = await fleet.harness.client_for("OPERATOR", environment_id=mine)
    assert [one["id"] for one in (await client.get("/api/v1/environments")).json()["environments"]] == [mine]
    assert (await client.get(f"/api/v1/apps/{app}")).status_code == 404
    assert (await client.get("/api/v1/apps")).json()["apps"] == []
    body = {"name": "x", "environment_id": other}
    assert (await client.post("/api/v1/apps", json=body)).status_code == 403
    assert (await client.put(f"/api/v1/environments/{other}", json={"name": "x"})).status_code == 403


async def test_entries_name_environments_that_are_there_once_there_is_one(fleet: Server) -> None:
    free = {"encrypted_data": "AAAA", "environment_id": "anything"}
    assert (await fleet.admin.put("/api/entries/early", json=free)).status_code == 201
    environment = await fleet.environment()
    refused = await fleet.admin.put("/api/entries/late", json=free)
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_reference")
    assert refused.json()["entry_id"] == "late"
    known = {"encrypted_data": "AAAA", "environment_id": environment}
    assert (await fleet.admin.put("/api/entries/late", json=known)).status_code == 201


async def test_an_environment_that_says_nothing_keeps_three_artifacts_or_as_many_as_the_license_allows(
    start: Start,
) -> None:
    fleet = await start(licensing=True, **environ())
    two = token(limits={"max_jar_retention_count": 2, "max_environments": 3})
    made = await fleet.post("environments", {"name": "no license"})
    await fleet.post("admin/license", {"token": two}, expect=200)
    lower = await fleet.post("environments", {"name": "two"})
    assert (made["jar_retention_count"], lower["jar_retention_count"]) == (3, 2)
    refused = await fleet.put(f"environments/{lower['id']}", {"jar_retention_count": 3}, expect=422)
    assert (refused["limit"], refused["cap"]) == ("max_jar_retention_count", 2)
    await fleet.put(f"environments/{made['id']}", {"jar_retention_count": 3})


async def test_entries_of_an_environment_that_was_never_made_can_still_be_changed(fleet: Server) -> None:
    async def put(**body: object) -> int:
        reply = await fleet.admin.put("/api/entries/old", json={"encrypted_data": "QUJD", **body})
        return int(reply.status_code)

    assert await put(environment_id="legacy") == 201
    known = await fleet.environment("first")
    assert (await put(), await put(environment_id="legacy")) == (200, 200)
    assert await put(environment_id="other") == 422
    assert await put(environment_id=known) == 200
    assert await put(environment_id="legacy") == 422
    assert (await fleet.admin.delete("/api/entries/old")).status_code == 204
    assert await put(environment_id="legacy") == 422
