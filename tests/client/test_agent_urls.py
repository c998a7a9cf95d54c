"""An agent with several servers: it belongs to the first, and reads entries from the others while that is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pytest_httpx import HTTPXMock

from clavitor_host.client import AgentClient, Entry, ServerUnavailable, Unauthorized

A, B = "https://calgary.test", "https://zurich.test"
ENTRY = {"entry_id": "one", "encrypted_data": "QUJD", "rev": 7, "created_at": 1, "updated_at": 2}
REGISTERED: dict[str, Any] = {
    "agent": {"id": "agent-1", "environment_id": "blue", "deployment_id": None, "instance_id": "one"},
    "artifact": None,
    "token": "clv_agent_1",
    "heartbeat_interval": 3600,
}


@pytest.fixture
async def agent(httpx_mock: HTTPXMock) -> AsyncIterator[AgentClient]:
    httpx_mock.add_response(url=f"{A}/api/v1/agents/register", json=REGISTERED)
    async with AgentClient([A, B], "clv_agent_0", app_id="shop", instance_id="one", version="1.0") as started:
        yield started


async def test_entries_are_read_from_the_backup_while_the_primary_is_away(
    agent: AgentClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{B}/api/entries/one", json=ENTRY)
    page = {"entries": [ENTRY], "next_cursor": None}
    httpx_mock.add_response(url=f"{B}/api/entries?include=data&limit=100", json=page)
    expected = Entry("one", "QUJD", 7, 1, 2)
    assert await agent.entry("one") == expected
    assert [entry async for entry in agent.entries()] == [expected]
    assert {request.headers["Authorization"] for request in httpx_mock.get_requests()[1:]} == {"Bearer clv_agent_1"}


async def test_everything_else_is_said_to_the_primary_alone(agent: AgentClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/v1/agents/agent-1/heartbeat")
    with pytest.raises(ServerUnavailable):
        await agent.heartbeat()
    assert {request.url.host for request in httpx_mock.get_requests()} == {"calgary.test"}


async def test_a_backup_that_does_not_know_the_token_ends_no_registration(
    agent: AgentClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_exception(httpx.ConnectError("refused"), url=f"{A}/api/entries/one")
    httpx_mock.add_response(url=f"{B}/api/entries/one", status_code=401, json={"code": "unauthorized"})
    with pytest.raises(ServerUnavailable):
        await agent.entry("one")


async def test_a_token_that_has_ended_is_renewed_at_the_primary(agent: AgentClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{A}/api/entries/one", status_code=401, json={"code": "unauthorized"})
    httpx_mock.add_response(url=f"{A}/api/v1/agents/register", json={**REGISTERED, "token": "clv_agent_2"})
    httpx_mock.add_response(
        url=f"{A}/api/entries/one", json=ENTRY, match_headers={"Authorization": "Bearer clv_agent_2"}
    )
    assert (await agent.entry("one")).rev == 7
    httpx_mock.add_response(url=f"{A}/api/v1/agents/agent-1", method="DELETE", status_code=204)
    await agent.leave()
    httpx_mock.add_response(url=f"{A}/api/entries/one", status_code=401, json={"code": "unauthorized"})
    with pytest.raises(Unauthorized):
        await agent.entry("one")
