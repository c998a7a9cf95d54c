"""Logging in through an identity provider, and everything a bad one, or a bad browser, can try."""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from quart import Response

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity import oidc, oidc_provider, users
from clavitor_host.identity.models import SYSTEM, OidcSubject, Role
from clavitor_host.identity.state import state_of
from clavitor_host.identity.tables import oidc_logins
from clavitor_host.identity.tables import sessions as sessions_table
from clavitor_host.identity.tables import users as users_table
from tests.identity.conftest import Browser, Policies, ShiftedClock, audit_rows, everything_stored, make_user
from tests.identity.idp import CLIENT_ID, CLIENT_SECRET, Provider, running

BEGIN = "/login/oidc"
BACK = "/login/oidc/callback"
Claims = dict[str, Any]


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with running(Provider()) as provider:
        yield provider


@pytest.fixture
def variables(idp: Provider) -> dict[str, str]:
    return {
        "CLAVITOR_OIDC_ISSUER": idp.issuer,
        "CLAVITOR_OIDC_CLIENT_ID": CLIENT_ID,
        "CLAVITOR_OIDC_CLIENT_SECRET": CLIENT_SECRET,
    }


async def begin(client: httpx.AsyncClient, idp: Provider, query: str = "") -> dict[str, str]:
    """Go to the provider and log in there; return what the browser brings back."""
    reply = await client.get(BEGIN + query)
    assert reply.status_code == 302, reply.text
    return idp.authorize(reply.headers["Location"])


async def log_in(client: httpx.AsyncClient, idp: Provider, query: str = "") -> httpx.Response:
    return await client.get(BACK, params=await begin(client, idp, query))


async def assert_refused(client: httpx.AsyncClient, host: Host, reply: httpx.Response) -> None:
    """Nobody is logged in, nobody was made, and the audit log says so."""
    assert (reply.status_code, reply.json()["code"]) == (401, "oidc_login_failed")
    assert "set-cookie" not in reply.headers
    assert (await client.get("/api/v1/me")).status_code == 401
    assert await host.db.fetch_all(sa.select(users_table)) == []
    assert {row["actor"] for row in await audit_rows(host, "login_failed")} == {"anonymous"}


async def test_a_new_person_becomes_a_viewer_and_is_logged_in(
    client: httpx.AsyncClient, host: Host, idp: Provider
) -> None:
    reply = await log_in(client, idp, "?next=/admin/audit%3Fx%3D%22%26y")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert 'content="0;url=/admin/audit?x=&quot;&amp;y"' in reply.text
    assert "SameSite=Strict" in reply.headers["set-cookie"]
    me = (await client.get("/api/v1/me")).json()
    assert (me["actor"], me["role"], me["via"]) == ("grace", "VIEWER", "session")
    assert (me["user"]["oidc_issuer"], me["user"]["oidc_subject"]) == (idp.issuer, "subject-1")
    assert me["user"]["has_password"] is False
    created, login = (await audit_rows(host))[-2:]
    assert (created["action"], created["actor"]) == ("create_user", "oidc")
    assert (login["action"], json.loads(login["payload"])["method"]) == ("login", "oidc")
    assert await host.db.fetch_all(sa.select(oidc_logins)) == []


async def test_the_same_person_is_the_same_user_whatever_they_call_themselves(
    client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider
) -> None:
    await log_in(client, idp)
    first = (await client.get("/api/v1/me")).json()["user"]["id"]
    await users.set_role(host, first, Role.OPERATOR, requested_by=SYSTEM)
    idp.profile = {"preferred_username": "somebody else", "email": "x@example.org"}
    again = await browser()
    await log_in(again, idp)
    me = (await again.get("/api/v1/me")).json()
    assert (me["user"]["id"], me["actor"], me["role"]) == (first, "grace", "OPERATOR")


async def test_another_person_of_the_same_name_or_email_is_another_user(
    client: httpx.AsyncClient, host: Host, idp: Provider
) -> None:
    admin = await make_user(host, "Grace", role=Role.ADMIN)
    idp.profile = {"preferred_username": "GRACE", "email": "grace@example.org", "email_verified": True}
    await log_in(client, idp)
    me = (await client.get("/api/v1/me")).json()
    assert me["user"]["id"] != admin.id
    assert (me["actor"], me["role"]) == ("GRACE-2", "VIEWER")


NAMES: list[tuple[Claims, str]] = [
    ({"email": "g@example.org"}, "g@example.org"),
    ({}, "subject-1"),
    ({"preferred_username": "a\nb\u202ec"}, "a_b_c"),
    ({"preferred_username": "agent:1"}, "agent_1"),
    ({"preferred_username": "system", "email": "h@example.org"}, "h@example.org"),
    ({"preferred_username": ["x"], "email": 7}, "subject-5"),
    ({"preferred_username": " " * 5}, "subject-6"),
    ({"preferred_username": "x" * 500}, "x" * 112),
    ({"preferred_username": "\u00aa\u00aa"}, "\u00aa\u00aa"),
    ({"preferred_username": "AA"}, "AA-2"),
]


async def test_names_are_made_fit(browser: Browser, idp: Provider) -> None:
    for number, (profile, name) in enumerate(NAMES):
        idp.subject, idp.profile = f"subject-{number}", profile
        client = await browser()
        await log_in(client, idp)
        assert (await client.get("/api/v1/me")).json()["actor"] == name


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_other_signatures_are_accepted(client: httpx.AsyncClient, idp: Provider) -> None:
    for algorithm in ("ES256", "PS256", "EdDSA"):
        idp.algorithm = algorithm
        assert (await log_in(client, idp)).status_code == 200, algorithm


async def test_the_secret_goes_into_the_body_where_the_provider_wants_it_there(
    client: httpx.AsyncClient, idp: Provider
) -> None:
    idp.auth_methods = ["client_secret_post"]
    assert (await log_in(client, idp)).status_code == 200
    assert idp.last_form["client_secret"] == CLIENT_SECRET


async def test_a_login_needs_no_more_than_its_own_requests(
    client: httpx.AsyncClient, browser: Browser, idp: Provider
) -> None:
    await log_in(client, idp)
    await log_in(await browser(), idp)
    assert sorted(idp.requests) == ["/.well-known/openid-configuration", "/keys", "/token", "/token"]


async def test_the_discovery_document_is_read_again_after_a_while(
    client: httpx.AsyncClient, idp: Provider, clock: ShiftedClock
) -> None:
    await client.get(BEGIN)
    clock.ahead += 3601
    await client.get(BEGIN)
    assert idp.requests == ["/.well-known/openid-configuration"] * 2


# --- a bad ID token ------------------------------------------------------------------------------------------

NOW = int(time.time())
BAD_CLAIMS: dict[str, Callable[[Claims], Claims]] = {
    "another nonce": lambda c: {**c, "nonce": "x" * 43},
    "no nonce": lambda c: {k: v for k, v in c.items() if k != "nonce"},
    "nonce of another type": lambda c: {**c, "nonce": 7},
    "another audience": lambda c: {**c, "aud": "somebody"},
    "no audience": lambda c: {k: v for k, v in c.items() if k != "aud"},
    "an audience that contains ours": lambda c: {**c, "aud": f"x{CLIENT_ID}x"},
    "two audiences and no party": lambda c: {**c, "aud": [CLIENT_ID, "other"]},
    "two audiences and another party": lambda c: {**c, "aud": [CLIENT_ID, "other"], "azp": "other"},
    "another party": lambda c: {**c, "azp": "other"},
    "another issuer": lambda c: {**c, "iss": "https://evil.test"},
    "an issuer with a slash": lambda c: {**c, "iss": c["iss"] + "/"},
    "no issuer": lambda c: {k: v for k, v in c.items() if k != "iss"},
    "expired": lambda c: {**c, "exp": NOW - 3600},
    "no expiry": lambda c: {k: v for k, v in c.items() if k != "exp"},
    "expiry as text": lambda c: {**c, "exp": "9999999999"},
    "expiry true": lambda c: {**c, "exp": True},
    "issued in the future": lambda c: {**c, "iat": NOW + 3600, "exp": NOW + 7200},
    "issued long ago": lambda c: {**c, "iat": NOW - 3600},
    "no time of issue": lambda c: {k: v for k, v in c.items() if k != "iat"},
    "not valid yet": lambda c: {**c, "nbf": NOW + 3600},
    "no subject": lambda c: {k: v for k, v in c.items() if k != "sub"},
    "an empty subject": lambda c: {**c, "sub": ""},
    "a long subject": lambda c: {**c, "sub": "x" * 256},
    "a subject with a NUL": lambda c: {**c, "sub": "a\u0000b"},
    "a subject of another type": lambda c: {**c, "sub": {"a": 1}},
}


async def test_bad_claims_are_refused(client: httpx.AsyncClient, host: Host, idp: Provider) -> None:
    for what, change in BAD_CLAIMS.items():
        idp.claims = change
        reply = await log_in(client, idp)
        assert reply.status_code == 401, what
        await assert_refused(client, host, reply)


UNUSUAL_CLAIMS: tuple[Callable[[Claims], Claims], ...] = (
    lambda c: {**c, "aud": [CLIENT_ID]},
    lambda c: {**c, "aud": [CLIENT_ID, "other"], "azp": CLIENT_ID},
    lambda c: {**c, "exp": int(time.time()) - 30},
    lambda c: {**c, "iat": int(time.time()) + 30},
)


async def test_unusual_but_good_claims_are_accepted(client: httpx.AsyncClient, idp: Provider) -> None:
    for change in UNUSUAL_CLAIMS:
        idp.claims = change
        assert (await log_in(client, idp)).status_code == 200


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(idp: Provider, claims: Claims, algorithm: str = "none") -> str:
    return f"{b64(json.dumps({'alg': algorithm}).encode())}.{b64(json.dumps(claims).encode())}."


def hmac_with_public_key(idp: Provider, claims: Claims) -> str:
    public = idp.keys["RS256"]
    assert isinstance(public, RSAKey)
    signed = unsigned(idp, claims, "HS256").removesuffix(".")
    return f"{signed}.{b64(hmac.digest(public.as_pem(private=False), signed.encode(), 'sha256'))}"


def with_own_key(idp: Provider, claims: Claims) -> str:
    key = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
    return jwt.encode({"alg": "RS256", "kid": "rsa"}, claims, key, algorithms=["RS256"])


def with_key_in_header(idp: Provider, claims: Claims) -> str:
    key = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
    header = {"alg": "RS256", "kid": "rsa", "jwk": key.as_dict(private=False)}
    return jwt.encode(header, claims, key, algorithms=["RS256"])


def with_unknown_key(idp: Provider, claims: Claims) -> str:
    key = ECKey.generate_key("P-256", {"kid": "stranger"}, private=True)
    return jwt.encode({"alg": "ES256", "kid": "stranger"}, claims, key, algorithms=["ES256"])


def with_swapped_claims(idp: Provider, claims: Claims) -> str:
    header, _, signature = idp.sign(claims).split(".")
    return f"{header}.{b64(json.dumps({**claims, 'sub': 'admin'}).encode())}.{signature}"


def with_other_algorithm(idp: Provider, claims: Claims) -> str:
    _, payload, signature = idp.sign(claims).split(".")
    return f"{b64(json.dumps({'alg': 'ES256', 'kid': 'rsa'}).encode())}.{payload}.{signature}"


def with_critical_header(idp: Provider, claims: Claims) -> str:
    header = {"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": True}
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    key = idp.keys["RS256"]
    assert isinstance(key, RSAKey) and key.private_key is not None
    return f"{signed}.{b64(key.private_key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


BAD_TOKENS: dict[str, Callable[[Provider, Claims], str]] = {
    "alg none": unsigned,
    "alg None": lambda idp, c: unsigned(idp, c, "None"),
    "no signature": lambda idp, c: idp.sign(c).rpartition(".")[0] + ".",
    "HS256 with the public key": hmac_with_public_key,
    "another key under a known id": with_own_key,
    "a key of its own in the header": with_key_in_header,
    "an unknown key": with_unknown_key,
    "swapped claims": with_swapped_claims,
    "another algorithm than the key's": with_other_algorithm,
    "a critical header": with_critical_header,
    "two parts": lambda idp, c: idp.sign(c).rpartition(".")[0],
    "nothing": lambda idp, c: "",
    "garbage": lambda idp, c: "a.b.c",
    "no text": lambda idp, c: "é.é.é",
    "header of another type": lambda idp, c: f"{b64(b'[]')}.{b64(b'{}')}.x",
    "huge": lambda idp, c: "x" * 100_000,
}


async def test_bad_tokens_are_refused(client: httpx.AsyncClient, host: Host, idp: Provider) -> None:
    for what, make in BAD_TOKENS.items():
        idp.make_token = functools.partial(make, idp)
        reply = await log_in(client, idp)
        assert reply.status_code == 401, what
        await assert_refused(client, host, reply)
    assert len(BAD_TOKENS) == idp.requests.count("/token")


async def test_a_short_rsa_key_is_refused(client: httpx.AsyncClient, host: Host, idp: Provider) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    weak = rsa.generate_private_key(65537, 1024)
    pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = RSAKey.import_key(pem, {"kid": "rsa"})
        idp.keys["RS256"] = idp.keys["PS256"] = key
        pair = await begin(client, idp)
        await assert_refused(client, host, await client.get(BACK, params=pair))


# --- new keys ------------------------------------------------------------------------------------------------


async def test_a_new_key_is_fetched_and_unknown_ones_do_not_hammer_the_provider(
    client: httpx.AsyncClient, browser: Browser, idp: Provider, clock: ShiftedClock
) -> None:
    assert (await log_in(client, idp)).status_code == 200
    idp.algorithm = "ES256"
    idp.keys["ES256"] = ECKey.generate_key("P-256", {"kid": "new"}, private=True)
    clock.ahead += 31
    assert (await log_in(await browser(), idp)).status_code == 200
    assert idp.requests.count("/keys") == 2
    idp.make_token = lambda claims: with_unknown_key(idp, claims)
    for _ in range(5):
        assert (await log_in(await browser(), idp)).status_code == 401
    assert idp.requests.count("/keys") == 2


# --- a bad browser -------------------------------------------------------------------------------------------


async def test_a_login_can_be_finished_once(client: httpx.AsyncClient, browser: Browser, idp: Provider) -> None:
    brought = await begin(client, idp)
    cookie = client.cookies["__Host-clavitor_oidc"]
    assert (await client.get(BACK, params=brought)).status_code == 200
    again = await browser()
    replay = await again.get(BACK, params=brought, headers={"Cookie": f"__Host-clavitor_oidc={cookie}"})
    assert (replay.status_code, replay.json()["code"]) == (401, "oidc_login_failed")
    assert idp.requests.count("/token") == 1


async def test_of_two_that_finish_it_at_once_one_is_let_in(client: httpx.AsyncClient, idp: Provider) -> None:
    brought = await begin(client, idp)
    replies = await asyncio.gather(*(client.get(BACK, params=brought) for _ in range(5)))
    assert sorted(reply.status_code for reply in replies) == [200, 401, 401, 401, 401]
    assert idp.requests.count("/token") == 1


@pytest.mark.parametrize("spoil", ["no cookie", "another cookie", "no state", "another state", "no code", "bad code"])
async def test_what_does_not_belong_together_is_refused(
    client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider, spoil: str
) -> None:
    brought = await begin(client, idp)
    victim = await browser()
    if spoil == "another cookie":
        await begin(victim, idp)
    elif spoil == "no state":
        del brought["state"]
    elif spoil == "another state":
        brought["state"] = "x" * 43
    elif spoil == "no code":
        del brought["code"]
    elif spoil == "bad code":
        brought["code"] = "x"
    who = victim if spoil.endswith("cookie") else client
    reply = await who.get(BACK, params=brought)
    await assert_refused(who, host, reply)
    if spoil != "bad code":
        assert "/token" not in idp.requests


async def test_a_login_is_bound_to_its_own_pkce_verifier(
    client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider
) -> None:
    stolen = (await begin(await browser(), idp))["code"]
    brought = await begin(client, idp)
    await assert_refused(client, host, await client.get(BACK, params={**brought, "code": stolen}))
    assert len(idp.last_form["code_verifier"]) >= 43


async def test_a_login_without_pkce_does_not_pass_at_the_provider(
    client: httpx.AsyncClient, host: Host, idp: Provider
) -> None:
    brought = await begin(client, idp)
    await host.db.execute(sa.update(oidc_logins).values(code_verifier=""))
    await assert_refused(client, host, await client.get(BACK, params=brought))


async def test_who_takes_too_long_begins_again(
    client: httpx.AsyncClient, host: Host, idp: Provider, clock: ShiftedClock
) -> None:
    brought = await begin(client, idp)
    clock.ahead += oidc.LIFETIME + 1
    await assert_refused(client, host, await client.get(BACK, params=brought))


async def test_a_refusal_of_the_provider_is_a_failed_login(
    client: httpx.AsyncClient, host: Host, idp: Provider
) -> None:
    state = (await begin(client, idp))["state"]
    reply = await client.get(BACK, params={"state": state, "error": "access_denied", "error_description": "<script>"})
    await assert_refused(client, host, reply)
    assert "<script>" not in reply.text


async def test_an_answer_of_another_issuer_is_refused(client: httpx.AsyncClient, host: Host, idp: Provider) -> None:
    brought = await begin(client, idp)
    await assert_refused(client, host, await client.get(BACK, params={**brought, "iss": "https://evil.test"}))
    assert "/token" not in idp.requests


@pytest.mark.parametrize(
    "path",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "evil.test",
        "",
        "/a\tb",
        "/a b",
        "/\n/evil",
        "javascript:x",
        "/é",
        "/a\\b",
        "/" + "x" * 600,
        "/\x7f",
    ],
)
async def test_a_login_leads_nowhere_else(path: str) -> None:
    with pytest.raises(Problem) as refused:
        oidc.local_path(path)
    assert refused.value.status == 400


async def test_a_bad_next_begins_nothing(client: httpx.AsyncClient, host: Host, idp: Provider) -> None:
    assert (await client.get(BEGIN, params={"next": "//evil.test"})).status_code == 400
    assert await host.db.fetch_all(sa.select(oidc_logins)) == []


async def test_the_cookie_of_a_login_under_way_survives_the_way_back(client: httpx.AsyncClient) -> None:
    reply = await client.get(BEGIN)
    attributes = set(reply.headers["set-cookie"].split("; ")[1:])
    assert reply.headers["set-cookie"].startswith("__Host-clavitor_oidc=")
    assert attributes == {"Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=600"}


async def test_nothing_of_a_login_under_way_can_be_read_from_the_state(
    client: httpx.AsyncClient, host: Host, idp: Provider
) -> None:
    brought = await begin(client, idp)
    stored = await everything_stored(host)
    assert brought["state"] not in stored
    assert client.cookies["__Host-clavitor_oidc"] not in stored


async def test_only_so_many_logins_are_under_way(
    client: httpx.AsyncClient, host: Host, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "MAX_UNDER_WAY", 3)
    assert [(await client.get(BEGIN)).status_code for _ in range(4)] == [302, 302, 302, 503]
    clock.ahead += oidc.LIFETIME + 1
    assert (await client.get(BEGIN)).status_code == 302
    clock.ahead += oidc.LIFETIME + 1
    await oidc.purge(host)
    assert await host.db.fetch_all(sa.select(oidc_logins)) == []


# --- who may come in -----------------------------------------------------------------------------------------


async def test_a_disabled_user_is_not_let_in(
    client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider
) -> None:
    await log_in(client, idp)
    user = await users.get_user_by_name(host, "grace")
    await users.set_disabled(host, user.id, True, requested_by=SYSTEM)
    again = await browser()
    reply = await log_in(again, idp)
    assert (reply.status_code, reply.json()["code"]) == (403, "user_disabled")
    assert (await again.get("/api/v1/me")).status_code == 401
    assert "user_disabled" in (await audit_rows(host, "login_failed"))[-1]["payload"]


async def test_a_new_person_passes_the_cap_or_stays_out(
    client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider, policies: Policies
) -> None:
    policies.max_users = 1
    await log_in(client, idp)
    idp.subject = "subject-2"
    reply = await log_in(await browser(), idp)
    assert (reply.status_code, reply.json()["code"], reply.json()["limit"]) == (403, "license_cap_reached", "max_users")
    assert len(await host.db.fetch_all(sa.select(users_table))) == 1
    assert "license_cap_reached" in (await audit_rows(host, "login_failed"))[-1]["payload"]
    idp.subject = "subject-1"
    assert (await log_in(await browser(), idp)).status_code == 200


async def test_a_person_who_logs_in_twice_at_once_becomes_one_user(
    browser: Browser, host: Host, idp: Provider, policies: Policies
) -> None:
    policies.max_users = 1
    clients = [await browser() for _ in range(4)]
    pairs = [await begin(one, idp) for one in clients]
    replies = await asyncio.gather(*(one.get(BACK, params=pair) for one, pair in zip(clients, pairs, strict=True)))
    assert [reply.status_code for reply in replies] == [200] * 4
    assert len(await host.db.fetch_all(sa.select(users_table))) == 1


class TestWithoutSignup:
    @pytest.fixture
    def variables(self, idp: Provider) -> dict[str, str]:
        return {
            "CLAVITOR_OIDC_ISSUER": idp.issuer,
            "CLAVITOR_OIDC_CLIENT_ID": CLIENT_ID,
            "CLAVITOR_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "CLAVITOR_OIDC_AUTO_SIGNUP": "false",
        }

    async def test_only_who_is_known_comes_in(
        self, client: httpx.AsyncClient, browser: Browser, host: Host, idp: Provider
    ) -> None:
        reply = await log_in(client, idp)
        assert (reply.status_code, reply.json()["code"]) == (403, "no_signup")
        await make_user(host, "known", oidc=OidcSubject(idp.issuer, "subject-1"))
        assert (await log_in(await browser(), idp)).status_code == 200


class TestNotConfigured:
    @pytest.fixture
    def variables(self) -> dict[str, str]:
        return {}

    async def test_there_is_no_such_login(self, client: httpx.AsyncClient) -> None:
        for path in (BEGIN, BACK):
            reply = await client.get(path)
            assert (reply.status_code, reply.json()["code"]) == (404, "oidc_not_configured")


# --- a provider in trouble -----------------------------------------------------------------------------------


async def answer(text: str, status: int = 200, content_type: str = "application/json") -> Response:
    return Response(text, status, content_type=content_type)


ENDPOINTS = {
    "authorization_endpoint": "https://evil.test/a",
    "token_endpoint": "https://evil.test/t",
    "jwks_uri": "https://evil.test/k",
}


async def redirect(idp: Provider) -> Response:
    return Response("", 302, headers={"Location": f"{idp.issuer}/elsewhere"})


TROUBLE: dict[str, Callable[[Provider], Any]] = {
    "error": lambda idp: answer("{}", 500),
    "not found": lambda idp: answer("{}", 404),
    "a page": lambda idp: answer("<html>", content_type="text/html"),
    "a list": lambda idp: answer("[]"),
    "nothing": lambda idp: answer(""),
    "another issuer": lambda idp: answer(json.dumps({"issuer": "https://evil.test", **ENDPOINTS})),
    "no endpoints": lambda idp: answer(json.dumps({"issuer": idp.issuer})),
    "bad endpoints": lambda idp: answer(json.dumps({"issuer": idp.issuer, **dict.fromkeys(ENDPOINTS, "file:///x")})),
    "endpoints of another type": lambda idp: answer(json.dumps({"issuer": idp.issuer, **dict.fromkeys(ENDPOINTS, 7)})),
    "too much": lambda idp: answer(json.dumps({"x": "y" * 600_000})),
    "a redirect": redirect,
    "deep": lambda idp: answer("[" * 100_000),
}


async def test_a_bad_discovery_document_is_a_502(client: httpx.AsyncClient, idp: Provider, clock: ShiftedClock) -> None:
    for what, trouble in TROUBLE.items():
        idp.hooks["/.well-known/openid-configuration"] = functools.partial(trouble, idp)
        reply = await client.get(BEGIN)
        assert (reply.status_code, reply.json()["code"]) == (502, "oidc_unavailable"), what
        assert idp.issuer not in reply.text
        clock.ahead += oidc_provider.FAILED_FOR + 1
    assert idp.requests == ["/.well-known/openid-configuration"] * len(TROUBLE)


@pytest.mark.parametrize("path", ["/token", "/keys"])
async def test_a_provider_that_fails_half_way_is_a_502(
    client: httpx.AsyncClient, host: Host, idp: Provider, clock: ShiftedClock, path: str
) -> None:
    for what in ("error", "a page", "a list", "nothing", "too much", "deep"):
        idp.hooks.clear()
        clock.ahead += oidc_provider.FAILED_FOR + 1
        brought = await begin(client, idp)
        idp.hooks[path] = functools.partial(TROUBLE[what], idp)
        reply = await client.get(BACK, params=brought)
        assert (reply.status_code, reply.json()["code"]) == (502, "oidc_unavailable"), what
    assert await host.db.fetch_all(sa.select(sessions_table)) == []
    assert len(await audit_rows(host, "login_failed")) == 1


async def test_a_slow_provider_is_given_up_on_and_does_not_queue_logins_up(
    client: httpx.AsyncClient, browser: Browser, idp: Provider, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_provider, "TIMEOUT", 1.0)
    release = asyncio.Event()

    async def never() -> Response:
        await release.wait()
        return Response("{}")

    idp.hooks["/.well-known/openid-configuration"] = never
    start = time.monotonic()
    replies = await asyncio.gather(*[(await browser()).get(BEGIN) for _ in range(20)])
    assert {reply.status_code for reply in replies} == {502}
    assert time.monotonic() - start < 5
    assert len(idp.requests) == 1
    release.set()
    idp.hooks.clear()
    clock.ahead += oidc_provider.FAILED_FOR + 1
    assert (await log_in(client, idp)).status_code == 200


async def test_a_provider_that_is_down_is_a_502_and_recovers(
    client: httpx.AsyncClient, host: Host, idp: Provider, clock: ShiftedClock
) -> None:
    brought = await begin(client, idp)
    provider = state_of(host).provider
    assert provider is not None
    real = provider._request

    async def down(*about: Any, **more: Any) -> Any:
        raise oidc_provider.ProviderDown("ConnectError")

    provider._request = down  # type: ignore[method-assign]
    assert (await client.get(BACK, params=brought)).status_code == 502
    provider._request = real  # type: ignore[method-assign]
    assert (await log_in(client, idp)).status_code == 200
