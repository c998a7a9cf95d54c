"""Getting in and out: the start page, the setup link, the login, the logout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.setup import setup_link
from clavitor_host.identity.users import create_user, list_users
from clavitor_host.plugins.frozen import BundleInfo
from clavitor_host.testing import Harness, running_app, settings
from tests.web.visitor import BASE_URL, PASSWORD, Visitor

COOKIE = "__Host-clavitor_session"


async def open_setup(harness: Harness, stranger: Visitor) -> str:
    link = await setup_link(harness.host, BASE_URL)
    assert link is not None
    await stranger.open(link)
    return link


async def test_without_a_user_the_start_page_says_how_to_make_one(stranger: Visitor) -> None:
    for path in ("/", "/login", "/setup"):
        page = await stranger.open(path)
        assert stranger.at == "/"
        assert "clavitor user create NAME --role ADMIN" in page.text


async def test_the_setup_link_makes_the_first_admin_and_logs_them_in(harness: Harness, stranger: Visitor) -> None:
    await open_setup(harness, stranger)
    page = await stranger.submit("/setup", name="ada", password=PASSWORD, repeat_password=PASSWORD)
    assert stranger.answer.status_code == 303
    assert stranger.at == "/admin?done=welcome"
    assert "ada ADMIN" in page.text
    users, _ = await list_users(harness.host)
    assert [(user.name, user.role) for user in users] == [("ada", Role.ADMIN)]


async def test_the_setup_link_works_once(
    harness: Harness, stranger: Visitor, visitors: Callable[[Harness], Visitor]
) -> None:
    link = await open_setup(harness, stranger)
    second = visitors(harness)
    await second.open(link)
    await stranger.submit("/setup", name="ada", password=PASSWORD, repeat_password=PASSWORD)
    page = await second.submit("/setup", name="eve", password=PASSWORD, repeat_password=PASSWORD)
    assert second.response.status_code == 409
    assert "There is an administrator already" in page.text
    assert "/setup" not in page.forms
    await second.open(link)
    assert second.response.status_code == 409


async def test_a_wrong_setup_token_shows_no_form(harness: Harness, stranger: Visitor) -> None:
    page = await stranger.open("/setup?token=wrong")
    assert stranger.response.status_code == 403
    assert page.forms == {}


async def test_the_setup_page_tells_nobody_its_address(harness: Harness, stranger: Visitor) -> None:
    await open_setup(harness, stranger)
    assert stranger.response.headers["referrer-policy"] == "strict-origin"
    assert stranger.response.headers["cache-control"] == "no-store"


async def test_setup_says_in_place_what_is_wrong(harness: Harness, stranger: Visitor) -> None:
    await open_setup(harness, stranger)
    good = {"name": "ada", "password": PASSWORD, "repeat_password": PASSWORD}
    for fields, said, field in (
        ({"repeat_password": "another password"}, "The two passwords differ.", "repeat_password"),
        ({"password": "short", "repeat_password": "short"}, "Password: expected at least 12 characters", "password"),
        ({"name": "system"}, "Name: expected a name that the server does not use itself", "name"),
        ({"name": ""}, "Name: expected 1 to 128", "name"),
    ):
        given = good | fields
        page = await stranger.submit("/setup", **given)
        assert stranger.response.status_code == 400
        assert said in page.text
        assert page.title.startswith("Error: ")
        assert page.by_id(field)["aria-invalid"] == "true"
        assert "problem" in str(page.by_id(field)["aria-describedby"])
        assert page.forms["/setup"]["name"] == given["name"]
        assert page.forms["/setup"]["password"] == ""
        assert given["password"] not in stranger.response.text
    await stranger.submit("/setup", **good)
    assert stranger.at.startswith("/admin")


async def test_a_login_leads_to_where_one_wanted_to_go(
    harness: Harness, log_in: Callable[..., Awaitable[Visitor]], stranger: Visitor
) -> None:
    await log_in("ada", "ADMIN")
    await stranger.open("/admin/audit?actor=ada&action=login")
    assert stranger.at.startswith("/login?next=")
    await stranger.submit("/login", name="ada", password=PASSWORD)
    assert stranger.answer.status_code == 303
    assert stranger.at == "/admin/audit?actor=ada&action=login"


ELSEWHERE = (
    "https://evil.test/",
    "//evil.test/",
    "/\\evil.test",
    "\\\\evil.test",
    "javascript:alert(1)",
    "/\tevil.test",
    "/\n/evil.test",
    "///evil.test",
    "evil.test",
    "",
    "/\u00e9",
    "/" + "a" * 3000,
)


async def test_a_login_leads_nowhere_else(ada: Visitor, stranger: Visitor) -> None:
    for target in ELSEWHERE:
        page = await stranger.open("/login", params={"next": target})
        assert page.forms["/login"]["next"] == "/admin"
        answer = await ada.client.get("/login", params={"next": target})
        assert answer.headers["location"] == "/admin"
        stranger.client.cookies.clear()
        data = {"name": "ada", "password": PASSWORD, "next": target}
        answer = await stranger.client.post("/login", data=data)
        assert answer.headers["location"] == "/admin"
        stranger.client.cookies.clear()


async def test_wrong_name_and_wrong_password_look_the_same(ada: Visitor, stranger: Visitor) -> None:
    wrong_password = await stranger.log_in("ada", "not this password")
    assert stranger.response.status_code == 401
    assert "The name or the password is wrong." in wrong_password.text
    assert wrong_password.forms["/login"]["name"] == "ada"
    assert COOKIE not in stranger.client.cookies
    wrong_name = await stranger.log_in("eda", "not this password")
    assert stranger.response.status_code == 401
    assert wrong_name.text == wrong_password.text


async def test_too_many_failures_say_how_long_to_wait(ada: Visitor, stranger: Visitor) -> None:
    for _ in range(10):
        await stranger.log_in("ada", "not this password")
    page = await stranger.log_in("ada", PASSWORD)
    assert stranger.response.status_code == 429
    assert f"Try again in {stranger.response.headers['retry-after']} s." in page.text
    assert "/login" in page.forms


async def test_the_cookie_is_kept_from_scripts_and_other_sites(ada: Visitor) -> None:
    cookie = ada.answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for attribute in ("Path=/", "Secure", "HttpOnly", "SameSite=Strict"):
        assert f"; {attribute}" in cookie
    assert "Domain" not in cookie


async def test_who_is_logged_in_needs_no_login(ada: Visitor) -> None:
    await ada.open("/")
    assert ada.at == "/admin"
    await ada.open("/login?next=/account")
    assert ada.at == "/account"


async def test_logging_out_ends_the_session_on_the_server(ada: Visitor) -> None:
    cookie = ada.client.cookies[COOKIE]
    page = await ada.submit("/logout")
    assert ada.at == "/login?done=logged-out"
    assert "You are logged out." in page.text
    assert COOKIE not in ada.client.cookies
    answer = await ada.client.get("/admin", headers={"cookie": f"{COOKIE}={cookie}"})
    assert answer.headers["location"] == "/login"


async def test_a_login_from_another_site_is_refused(ada: Visitor, stranger: Visitor) -> None:
    for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        data = {"name": "ada", "password": PASSWORD}
        answer = await stranger.client.post("/login", data=data, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


async def test_what_no_form_sends_is_refused_readably(ada: Visitor, stranger: Visitor) -> None:
    form = "application/x-www-form-urlencoded"
    for body, content_type, status in (
        (b'{"name":"ada"}', "application/json", 415),
        (b"name=\xff", form, 400),
        (b"name=%ff", form, 400),
        (b"name=a&name=b", form, 400),
        (b"name=a%00b", form, 400),
        (b"&".join(b"f%d=1" % number for number in range(200)), form, 400),
        (b"name=" + b"a" * 70_000, form, 413),
        (b"", form, 401),
    ):
        answer = await stranger.client.post("/login", content=body, headers={"content-type": content_type})
        assert answer.status_code == status, body[:20]
        assert answer.headers["content-type"].startswith("text/html")


async def test_the_login_offers_single_sign_on_when_it_is_configured(
    tmp_path: Path, bundle: BundleInfo, visitors: Callable[[Harness], Visitor], stranger: Visitor, ada: Visitor
) -> None:
    page = await stranger.open("/login?next=/account")
    assert not [link for link in page.links if "oidc" in link]
    environ = {
        "CLAVITOR_OIDC_ISSUER": "https://id.test",
        "CLAVITOR_OIDC_CLIENT_ID": "vault",
        "CLAVITOR_OIDC_LABEL": "Log in with Example",
    }
    async with running_app(settings(tmp_path / "oidc", bundle, environ), bundle) as other:
        await create_user(other.host, name="ada", role=Role.ADMIN, requested_by=SYSTEM)
        visitor = visitors(other)
        page = await visitor.open("/login?next=/account")
        assert "Log in with Example" in page.text
        assert "/login/oidc?next=%2Faccount" in page.links


async def test_setup_counts_against_the_cap_like_any_other_user(
    harness: Harness, stranger: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clavitor_host.errors import CapExceeded

    async def refuse(*args: Any, **kwargs: Any) -> None:
        raise CapExceeded(limit="max_users", current=0, cap=0, state="ABSENT", message="No more users, says the cap.")

    await open_setup(harness, stranger)
    monkeypatch.setattr(harness.host, "assert_within_cap", refuse)
    page = await stranger.submit("/setup", name="ada", password=PASSWORD, repeat_password=PASSWORD)
    assert stranger.response.status_code == 403
    assert "No more users, says the cap." in page.text
    assert "/setup" in page.forms
