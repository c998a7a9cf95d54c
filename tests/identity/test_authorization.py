"""The matrix of vault.md section 2, what credentials narrow, and policies."""

from __future__ import annotations

import pytest

from clavitor_host.errors import Problem, forbidden
from clavitor_host.host import Host
from clavitor_host.identity.authorization import ACTIONS, GRANTS, refusal
from clavitor_host.identity.models import SYSTEM, Identity, Resource, Role
from tests.identity.conftest import Policies, ShiftedClock, audit_rows

VIEWER = Identity("user", "v", Role.VIEWER, user_id="v")
OPERATOR = Identity("user", "o", Role.OPERATOR, user_id="o")
ADMIN = Identity("user", "a", Role.ADMIN, user_id="a")
AGENT = Identity("agent", "agent:1", environment_id="prod", agent_id="1")
METRICS = Identity("metrics", "metrics:m")
PEER = Identity("peer", "peer:p")
EVERYBODY = {"VIEWER": VIEWER, "OPERATOR": OPERATOR, "ADMIN": ADMIN, "agent": AGENT, "metrics": METRICS, "peer": PEER}

ALLOWED = {
    "entries.read": {"VIEWER", "OPERATOR", "ADMIN", "agent"},
    "entries.write": {"OPERATOR", "ADMIN", "agent"},
    "fleet.read": {"VIEWER", "OPERATOR", "ADMIN"},
    "fleet.write": {"OPERATOR", "ADMIN"},
    "agents.register": {"OPERATOR", "ADMIN", "agent"},
    "telemetry.write": {"agent"},
    "users.read": {"OPERATOR", "ADMIN"},
    "users.write": {"ADMIN"},
    "tokens.read": {"VIEWER", "OPERATOR", "ADMIN"},
    "tokens.write": {"VIEWER", "OPERATOR", "ADMIN"},
    "license.read": {"OPERATOR", "ADMIN"},
    "license.write": {"ADMIN"},
    "audit.read": {"OPERATOR", "ADMIN"},
    "audit.write": {"ADMIN"},
    "plugins.read": {"OPERATOR", "ADMIN"},
    "plugins.write": {"ADMIN"},
    "metrics.read": {"OPERATOR", "ADMIN", "metrics"},
    "me": {"VIEWER", "OPERATOR", "ADMIN"},
    "me.write": {"VIEWER", "OPERATOR", "ADMIN"},
    "peer": {"peer"},
}


def test_the_matrix_is_the_one_of_the_specification() -> None:
    assert set(ACTIONS) == set(ALLOWED)
    for action, allowed in ALLOWED.items():
        found = {who for who, identity in EVERYBODY.items() if refusal(identity, action, Resource("x")) is None}
        assert found == allowed, action


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("action", ["", "entries", "entries.delete", "users.*", "ENTRIES.READ", "__class__"])
def test_what_is_not_in_the_matrix_is_refused(who: str, action: str) -> None:
    assert refusal(EVERYBODY[who], action, Resource("x")) is not None


def test_a_user_without_a_role_may_do_nothing() -> None:
    nobody = Identity("user", "n", None, user_id="n")
    assert all(refusal(nobody, action, Resource("x")) is not None for action in ACTIONS)


@pytest.mark.parametrize("identity", [VIEWER, OPERATOR, ADMIN])
def test_a_read_token_only_reads(identity: Identity) -> None:
    reader = Identity("user", identity.actor, identity.role, identity.user_id, scope="read")
    for action in ACTIONS:
        if refusal(identity, action, Resource("x")) is None:
            assert (refusal(reader, action, Resource("x")) is None) == (action == "me" or action.endswith(".read"))


def test_an_agent_writes_entries_only_with_scope_write() -> None:
    reader = Identity("agent", "agent:1", environment_id="prod", agent_id="1", scope="read")
    assert refusal(reader, "entries.read", Resource("entries")) is None
    assert refusal(reader, "entries.write", Resource("entries")) is not None


@pytest.mark.parametrize("action", ["agents.register", "telemetry.write"])
def test_what_agents_do_for_themselves_needs_no_scope(action: str) -> None:
    for agent in (AGENT, Identity("agent", "agent:setup", environment_id="prod")):
        assert refusal(agent._replace(scope="read"), action, Resource("agents")) is None
    assert refusal(OPERATOR._replace(scope="read"), action, Resource("agents")) is not None


@pytest.mark.parametrize("action", ["entries.read", "entries.write", "agents.register", "telemetry.write"])
def test_an_agent_reaches_its_environment_only(action: str) -> None:
    assert refusal(AGENT, action, Resource("entries", "e", environment_id="prod")) is None
    assert refusal(AGENT, action, Resource("entries", "e", environment_id="test")) is not None
    stray = Identity("agent", "agent:2", agent_id="2")
    assert refusal(stray, action, Resource("entries", "e", environment_id="prod")) is not None
    assert refusal(stray, action, Resource("entries")) is not None


@pytest.mark.parametrize("action", ["fleet.read", "fleet.write"])
def test_an_agent_reaches_itself_only(action: str) -> None:
    reader = Identity("agent", "agent:1", environment_id="prod", agent_id="1", scope="read")
    for agent in (AGENT, reader):
        assert refusal(agent, action, Resource("agents", "1")) is None
        assert refusal(agent, action, Resource("agents", "2")) is not None
        assert refusal(agent, action, Resource("apps", "1")) is not None
        assert refusal(agent, action, Resource("agents")) is not None
    assert refusal(Identity("agent", "agent:x", environment_id="prod"), action, Resource("agents")) is not None


@pytest.mark.parametrize("role", list(Role))
def test_a_token_tied_to_an_environment_reaches_nothing_else(role: Role) -> None:
    tied = Identity("user", "u", role, "u", environment_id="prod")
    free = Identity("user", "u", role, "u")
    for action in ACTIONS:
        inside = action.startswith(("entries.", "fleet.", "agents.", "telemetry.")) or action == "me"
        if refusal(free, action, Resource("x")) is None:
            assert (refusal(tied, action, Resource("x")) is None) == inside, action
    assert refusal(tied, "entries.read", Resource("entries", "e", environment_id="test")) is not None
    assert refusal(tied, "entries.read", Resource("entries", "e", environment_id="prod")) is None


def test_own_tokens_are_ones_own() -> None:
    for identity, action in ((VIEWER, "tokens.read"), (VIEWER, "tokens.write"), (OPERATOR, "tokens.write")):
        assert refusal(identity, action, Resource("tokens", "t", owner_id=identity.user_id)) is None
        assert refusal(identity, action, Resource("tokens", "t", owner_id="somebody")) is not None
        assert refusal(identity, action, Resource("tokens", "t", owner_id="")) is not None
    assert refusal(OPERATOR, "tokens.read", Resource("tokens", "t", owner_id="somebody")) is None
    assert refusal(ADMIN, "tokens.write", Resource("tokens", "t", owner_id="somebody")) is None
    plugin = Identity("user", "scim", Role.VIEWER, None)
    assert refusal(plugin, "tokens.read", Resource("tokens")) is not None


def test_commands_may_do_what_an_admin_may() -> None:
    for action, row in GRANTS.items():
        assert (refusal(SYSTEM, action, Resource("x")) is None) == (row["ADMIN"].value == "yes")


async def test_a_policy_refuses_what_the_matrix_allows(host: Host, policies: Policies) -> None:
    seen = []

    def refuse(identity: Identity, action: str, resource: Resource) -> None:
        seen.append((identity, action, resource))
        raise forbidden("This server is a backup.", code="backup")

    policies.refuse = refuse
    with pytest.raises(Problem) as refused:
        await host.authorize(ADMIN, "entries.write", Resource("entries", "e"))
    assert refused.value.code == "backup"
    assert seen == [(ADMIN, "entries.write", Resource("entries", "e"))]
    (row,) = await audit_rows(host, "refuse")
    assert row["actor"] == "a"
    assert "This server is a backup." in row["payload"]


async def test_a_broken_policy_refuses(host: Host, policies: Policies) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    policies.refuse = broken
    with pytest.raises(Problem) as refused:
        await host.authorize(ADMIN, "entries.read", Resource("entries"))
    assert refused.value.status == 403


async def test_no_policy_is_asked_about_what_the_matrix_refuses(host: Host, policies: Policies) -> None:
    policies.refuse = lambda *_: pytest.fail("asked")
    with pytest.raises(Problem):
        await host.authorize(VIEWER, "entries.write", Resource("entries"))


async def test_refusals_are_audited_once_a_minute_and_counted(host: Host, clock: ShiftedClock) -> None:
    async def refused(identity: Identity = VIEWER) -> None:
        with pytest.raises(Problem):
            await host.authorize(identity, "users.write", Resource("users", "u1"))

    for _ in range(5):
        await refused()
    await refused(Identity("user", "w", Role.VIEWER, user_id="w", source="192.0.2.1"))
    first, other = await audit_rows(host, "refuse")
    assert first["category"] == "IDENTITY"
    assert '"action":"users.write"' in first["payload"] and '"resource_id":"u1"' in first["payload"]
    assert (other["actor"], other["source"]) == ("w", "192.0.2.1")
    clock.ahead += 61
    await refused()
    assert '"times":5' in (await audit_rows(host, "refuse"))[-1]["payload"]


async def test_refusals_of_all_kinds_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clavitor_host.identity.state.NOTES_PER_INTERVAL", 3)
    for number in range(10):
        with pytest.raises(Problem):
            await host.authorize(Identity("user", f"u{number}", Role.VIEWER), "users.write", Resource("users"))
    assert len(await audit_rows(host, "refuse")) == 3
