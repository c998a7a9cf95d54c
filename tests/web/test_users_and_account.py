"""`/admin/users` and `/account`: every form does what it says, and says what went wrong where it was filled in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clavitor_host.identity.models import SYSTEM, Role, User
from clavitor_host.identity.users import create_user, get_user_by_name, list_users
from clavitor_host.testing import Harness
from tests.web.visitor import PASSWORD, Visitor

LogIn = Callable[..., Awaitable[Visitor]]
NEW_PASSWORD = "a wholly new password"


async def user(harness: Harness, name: str) -> User:
    return await get_user_by_name(harness.host, name)


async def test_a_user_is_created_and_can_log_in(harness: Harness, ada: Visitor, stranger: Visitor) -> None:
    await ada.open("/admin/users/new")
    page = await ada.submit("/admin/users/new", name="bob", role="OPERATOR", password=PASSWORD)
    assert ada.answer.status_code == 303
    assert ada.at == "/admin/users?done=user-created"
    assert "bob OPERATOR active password never" in page.text
    await stranger.log_in("bob")
    assert stranger.at == "/admin"


async def test_creating_says_in_place_what_is_wrong(harness: Harness, ada: Visitor) -> None:
    await ada.open("/admin/users/new")
    for fields, status, said in (
        ({"name": "Ada"}, 409, "A user with this name exists."),
        ({"name": "bob", "password": "short"}, 400, "Password: expected at least 12"),
        ({"name": "agent:1"}, 400, "Name: expected"),
        ({"name": "bob", "role": "GOD"}, 400, "Role: expected ADMIN, OPERATOR or VIEWER"),
    ):
        page = await ada.submit("/admin/users/new", **({"role": "OPERATOR", "password": PASSWORD} | fields))
        assert ada.response.status_code == status
        assert said in page.text
        kept = page.forms["/admin/users/new"]
        assert kept["name"] == fields["name"]
        assert kept["role"] == ("OPERATOR" if "role" not in fields else "VIEWER")
        assert kept["password"] == ""
    assert len((await list_users(harness.host))[0]) == 1


async def test_a_user_is_changed_disabled_enabled_and_deleted(
    harness: Harness, ada: Visitor, log_in: LogIn, stranger: Visitor
) -> None:
    bob = await log_in("bob", "OPERATOR")
    path = f"/admin/users/{(await user(harness, 'bob')).id}"
    await ada.open(path)
    page = await ada.submit(path, name="robert", role="VIEWER")
    assert ada.at == f"{path}?done=user-changed"
    assert page.title.startswith("robert")
    assert (await user(harness, "robert")).role is Role.VIEWER

    page = await ada.submit(f"{path}/disabled")
    assert "robert disabled" in page.text
    assert (await bob.client.get("/admin")).headers["location"] == "/login"
    await stranger.log_in("robert")
    assert stranger.response.status_code == 401
    page = await ada.submit(f"{path}/disabled")
    assert "robert active" in page.text
    await stranger.log_in("robert")
    assert stranger.at == "/admin"

    page = await ada.submit(f"{path}/delete")
    assert ada.response.status_code == 400
    assert "Confirmation: expected the box to be ticked" in page.text
    page = await ada.submit(f"{path}/delete", sure="yes")
    assert ada.at == "/admin/users?done=user-deleted"
    assert "robert" not in page.text
    assert (await stranger.client.get("/admin")).headers["location"] == "/login"


async def test_the_last_admin_stays(harness: Harness, ada: Visitor) -> None:
    path = f"/admin/users/{(await user(harness, 'ada')).id}"
    await ada.open(path)
    for action, fields in ((path, {"role": "VIEWER"}), (f"{path}/disabled", {}), (f"{path}/delete", {"sure": "yes"})):
        page = await ada.submit(action, **fields)
        assert ada.response.status_code == 409
        assert "This is the last enabled ADMIN" in page.text
        assert path in page.forms
    assert (await user(harness, "ada")).role is Role.ADMIN


async def test_setting_a_password_ends_the_users_sessions(harness: Harness, ada: Visitor, log_in: LogIn) -> None:
    bob = await log_in("bob", "VIEWER")
    path = f"/admin/users/{(await user(harness, 'bob')).id}"
    await ada.open(path)
    page = await ada.submit(f"{path}/password", password="short")
    assert ada.response.status_code == 400
    assert "Password: expected" in page.text
    await ada.submit(f"{path}/password", password=NEW_PASSWORD)
    assert ada.at == f"{path}?done=password-set"
    assert (await bob.client.get("/admin")).headers["location"] == "/login"
    await bob.log_in("bob", NEW_PASSWORD)
    assert bob.at == "/admin"


async def test_many_users_come_in_pages(harness: Harness, ada: Visitor) -> None:
    for number in range(105):
        await create_user(harness.host, name=f"user-{number:03}", role=Role.VIEWER, requested_by=SYSTEM)
    page = await ada.open("/admin/users")
    assert "user-098" in page.text
    assert "user-099" not in page.text
    page = await ada.open(next(link for link in page.links if "after=" in link))
    assert "user-098" not in page.text
    assert "user-104" in page.text
    assert "/admin/users" in page.links
    assert not [link for link in page.links if "after=" in link]


async def test_changing_ones_password_keeps_this_session_and_ends_the_others(
    harness: Harness, ada: Visitor, stranger: Visitor
) -> None:
    await stranger.log_in("ada")
    before = dict(ada.client.cookies)
    await ada.open("/account")
    page = await ada.submit(
        "/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD, repeat_password=NEW_PASSWORD
    )
    assert ada.at == "/account?done=password-changed"
    assert "Your password was changed." in page.text
    assert dict(ada.client.cookies) != before
    assert (await stranger.client.get("/admin")).headers["location"] == "/login"
    await stranger.log_in("ada", NEW_PASSWORD)
    assert stranger.at == "/admin"


async def test_a_wrong_current_password_changes_nothing(harness: Harness, ada: Visitor, stranger: Visitor) -> None:
    await ada.open("/account")
    for current, new, again, status, field in (
        ("wrong password", NEW_PASSWORD, NEW_PASSWORD, 403, "current_password"),
        (PASSWORD, NEW_PASSWORD, "something else", 400, "repeat_password"),
        (PASSWORD, "short", "short", 400, "new_password"),
    ):
        page = await ada.submit("/account/password", current_password=current, new_password=new, repeat_password=again)
        assert ada.response.status_code == status
        assert page.by_id(field)["aria-invalid"] == "true"
        assert ada.client.cookies
    await stranger.log_in("ada", PASSWORD)
    assert stranger.at == "/admin"


async def test_sessions_are_listed_and_ended(harness: Harness, ada: Visitor, stranger: Visitor) -> None:
    await stranger.log_in("ada")
    page = await ada.open("/account")
    assert "Tester/1 this one 192.0.2.7" in page.text
    (other,) = [action for action in page.forms if action.startswith("/account/sessions/0")]
    await ada.submit(other)
    assert ada.at == "/account?done=session-ended"
    assert (await stranger.client.get("/admin")).headers["location"] == "/login"
    page = await ada.open("/account")
    assert "/account/sessions/end" not in page.forms

    await stranger.log_in("ada")
    await ada.open("/account")
    await ada.submit("/account/sessions/end")
    assert ada.at == "/account?done=sessions-ended"
    assert (await stranger.client.get("/admin")).headers["location"] == "/login"
    assert (await ada.client.post(other, data=ada.page.forms["/logout"])).status_code == 404


async def test_nobody_ends_sessions_of_others(ada: Visitor, log_in: LogIn) -> None:
    eve = await log_in("eve", "VIEWER")
    ada.client.cookies.clear()
    await ada.log_in("ada")
    page = await ada.open("/account")
    (others,) = [action for action in page.forms if action.startswith("/account/sessions/0")]
    answer = await eve.client.post(others, data=eve.page.forms["/logout"])
    assert answer.status_code == 404
    assert others in (await ada.open("/account")).forms
