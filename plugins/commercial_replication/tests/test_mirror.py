"""Tokens of the primary's clients read at the backup, and only read while it is one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from clavitor_commercial_replication import digests, mirror, state
from clavitor_commercial_replication.models import MirroredToken
from clavitor_commercial_replication_testing.apps import Pop
from clavitor_commercial_replication_testing.backup import Backup, batch, item

from clavitor_host.api import ClavitorError, Role
from clavitor_host.identity.models import SYSTEM
from clavitor_host.identity.tokens import create_token
from clavitor_host.identity.users import create_user, update_user

AGENT = "clv_agent"
USER = "clv_user"
READER = "clv_reader"
EXPIRED = "clv_expired"


def token(secret: str, **more: Any) -> MirroredToken:
    from hashlib import sha256

    values = {
        "hash": sha256(secret.encode()).hexdigest(),
        "kind": "user",
        "owner": "alice",
        "role": "OPERATOR",
        "scope": "write",
        "environment_id": None,
        "agent_id": None,
        "expires_at": None,
        **more,
    }
    return MirroredToken(**values)


TOKENS = [
    token(USER),
    token(READER, owner="bob", role="VIEWER", scope="read"),
    token(AGENT, kind="agent", owner="agent:billing", role=None, environment_id="env-1", agent_id="agent-1"),
    token(EXPIRED, owner="carol", expires_at=1),
]


async def ask(backup: Backup, secret: str, method: str = "GET", path: str = "/api/entries/a") -> httpx.Response:
    client = await backup.client(headers={"authorization": f"Bearer {secret}"})
    body = {"encrypted_data": "YmxvYg=="} if method == "PUT" else None
    return await client.request(method, path, json=body)


async def test_a_mirrored_token_reads_and_does_not_write(backup: Backup) -> None:
    answer = await backup.applied(item("a", 1), tokens=TOKENS)
    assert answer["tokens_digest"] == mirror.digest(TOKENS)
    for secret in (USER, READER):
        assert (await ask(backup, secret)).status_code == 200
        assert (await ask(backup, secret, "PUT")).status_code == 503
    assert (await ask(backup, EXPIRED)).status_code == 401
    assert (await ask(backup, "clv_unknown")).status_code == 401
    assert (await ask(backup, "clv_" + "x" * 300)).status_code == 401


async def test_an_agents_token_reaches_its_own_environment_alone(backup: Backup) -> None:
    await backup.applied(item("a", 1), item("b", 2, environment_id="env-1"), tokens=TOKENS)
    assert (await ask(backup, AGENT)).status_code in (403, 404)
    assert (await ask(backup, AGENT, path="/api/entries/b")).status_code == 200


EVERYWHERE_ELSE = (
    ("GET", "/api/v1/admin/users"),
    ("POST", "/api/v1/admin/users"),
    ("GET", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/admin/tokens"),
    ("GET", "/api/v1/admin/audit"),
    ("PATCH", "/api/v1/me"),
    ("GET", "/api/v1/me/sessions"),
    ("DELETE", "/api/v1/me/sessions"),
    ("GET", "/api/v1/prometheus"),
)


@pytest.mark.parametrize("role", ["backup", "primary"])
async def test_a_mirrored_token_is_good_for_entries_only(backup: Backup, role: str) -> None:
    """Whoever shows it is no user of this POP, whatever the owner is at the other one, and whatever this POP became."""
    await backup.applied(item("a", 1), tokens=[token(USER, role="ADMIN"), *TOKENS[1:]])
    if role == "primary":
        await promoted(backup)
    client = await backup.client(headers={"authorization": f"Bearer {USER}"})
    bodies: dict[tuple[str, str], Any] = {
        ("POST", "/api/v1/admin/users"): {"name": "mallory", "role": "ADMIN"},
        ("POST", "/api/v1/admin/tokens"): {"name": "more"},
        ("PATCH", "/api/v1/me"): {"current_password": "correct horse", "new_password": "battery staple"},
    }
    for method, path in EVERYWHERE_ELSE:
        response = await client.request(method, path, json=bodies.get((method, path)))
        assert response.status_code == 403, (method, path, response.text)
    assert (await client.get("/api/entries/a")).status_code == 200
    assert (await client.get("/api/changes")).status_code == 200
    me = await client.get("/api/v1/me")
    assert (me.status_code, me.json()["actor"], me.json()["user"]) == (200, "alice", None)
    assert me.json()["token_id"] == f"mirrored:{token(USER).hash[:12]}"
    for secret in (READER, AGENT):
        assert (await ask(backup, secret, path="/api/v1/admin/users")).status_code == 403


async def promoted(backup: Backup) -> None:
    async with backup.host.db.transaction() as tx:
        await state.update(tx, role="primary", epoch=2, stream_id="own")


async def test_after_a_promotion_a_token_may_write_entries_as_at_the_old_primary(backup: Backup) -> None:
    await backup.applied(item("a", 1), tokens=TOKENS)
    await promoted(backup)
    assert (await ask(backup, USER, "PUT")).status_code == 200
    assert (await ask(backup, READER, "PUT")).status_code == 403


async def test_tokens_are_listed_and_forgotten(backup: Backup) -> None:
    await backup.applied(item("a", 1), tokens=TOKENS)
    await promoted(backup)
    found = await mirror.listed(backup.host.db)
    assert [(one.kind, one.owner) for one in found] == [
        ("agent", "agent:billing"),
        ("user", "alice"),
        ("user", "bob"),
        ("user", "carol"),
    ]
    alice = found[1]
    assert tuple(alice) == (token(USER).hash[:12], "user", "alice", "OPERATOR", "write", None, None, None)
    assert await mirror.forget(backup.service, [alice.id, alice.id], by="system") == 1
    assert (await ask(backup, USER)).status_code == 401
    assert (await ask(backup, READER)).status_code == 200
    with pytest.raises(ClavitorError, match="no mirrored token has the id abc"):
        await mirror.forget(backup.service, [found[2].id, "abc"], by="system")
    assert len(await mirror.listed(backup.host.db)) == 3
    assert await mirror.forget(backup.service, None, by="system") == 3
    assert await mirror.forget(backup.service, None, by="system") == 0
    assert await mirror.listed(backup.host.db) == []
    audited = [row for row in await backup.audited() if row["action"] == "forget_tokens"]
    assert [row["title"] for row in audited] == [
        "forgot 1 token of the other POP",
        "forgot 3 tokens of the other POP",
    ]


async def test_a_late_duplicate_brings_no_revoked_token_back(backup: Backup) -> None:
    made: dict[str, Any] = {"head_rev": 0, "complete_rev": 0, "buckets": digests.NOTHING}
    late = batch(tokens=TOKENS, audit_head="3:aa", sent_at=1_000, as_of=1_000, **made)
    assert (await backup.answer(late))["tokens_digest"] == mirror.digest(TOKENS)
    revoked = batch(tokens=TOKENS[1:], audit_head="4:bb", sent_at=2_000, as_of=2_000, **made)
    assert (await backup.answer(revoked))["tokens_digest"] == mirror.digest(TOKENS[1:])
    assert (await backup.answer(late))["tokens_digest"] == mirror.digest(TOKENS[1:])
    assert (await backup.peer()).audit_head == "4:bb"
    restored = late._replace(sent_at=3_000)  # a shorter log said later: the primary is an older copy
    assert (await backup.answer(restored))["tokens_digest"] == mirror.digest(TOKENS)


async def test_tokens_are_replaced_whole(backup: Backup) -> None:
    await backup.applied(tokens=TOKENS)
    assert (await ask(backup, READER, path="/api/entries/none")).status_code == 404
    answer = await backup.applied(tokens=[TOKENS[0]])
    assert answer["tokens_digest"] == mirror.digest(TOKENS[:1])
    assert (await ask(backup, READER)).status_code == 401
    assert (await ask(backup, USER)).status_code == 404
    assert (await backup.applied())["tokens_digest"] == mirror.digest(TOKENS[:1])
    assert (await backup.applied(tokens=[]))["tokens_digest"] == mirror.digest([])
    assert (await ask(backup, USER)).status_code == 401


async def test_a_token_that_is_there_twice_counts_once(backup: Backup) -> None:
    await backup.applied(tokens=[TOKENS[0], TOKENS[0]])
    assert (await ask(backup, USER)).status_code == 404


async def test_a_token_of_this_pops_own_is_not_asked_for_here(backup: Backup) -> None:
    own = await backup.client_for("ADMIN")
    assert (await own.get("/api/v1/me")).status_code == 200


async def test_the_primary_tells_of_its_good_tokens(lone_primary: Pop) -> None:
    host = lone_primary.host
    user = await create_user(host, name="alice", role=Role.OPERATOR, requested_by=SYSTEM)
    _, secret = await create_token(host, name="laptop", user_id=user.id, scope="read", requested_by=SYSTEM)
    async with host.db.transaction() as tx:
        found = await mirror.grants(lone_primary.service, tx)
    assert found == (token(secret, scope="read"),)
    await update_user(host, user.id, disabled=True, requested_by=SYSTEM)
    async with host.db.transaction() as tx:
        assert await mirror.grants(lone_primary.service, tx) == ()


def test_the_digest_is_that_of_the_set() -> None:
    assert mirror.digest(TOKENS) == mirror.digest(TOKENS[::-1])
    for changed in (TOKENS[:-1], [TOKENS[0]._replace(scope="read"), *TOKENS[1:]], []):
        assert mirror.digest(changed) != mirror.digest(TOKENS)


@pytest.mark.parametrize("prefix", ["Basic ", "", "Bearer  "])
async def test_only_a_bearer_counts(quick_backup: Backup, prefix: str) -> None:
    await quick_backup.applied(tokens=TOKENS)
    client = await quick_backup.client(headers={"authorization": f"{prefix}{USER}"})
    expected = 404 if prefix == "Bearer  " else 401
    assert (await client.get("/api/entries/none")).status_code == expected
    assert batch(tokens=TOKENS).tokens == TOKENS
