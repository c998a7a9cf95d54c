"""`/admin/license` as a browser uses it: paste, preview, install, remove; what each state says; what nobody sees."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from html import unescape

import pytest
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing_testing.server import DAY, NOW, FrozenClock, Server, Start, token
from clavitor_licensing_testing.support import LICENSE_ID, private_key, public_pem

from clavitor_host.identity.models import SYSTEM, Role
from clavitor_host.identity.users import create_user
from tests.web.visitor import PASSWORD, Html, Visitor

PAGE = "/admin/license"
PREVIEW = f"{PAGE}/preview"
REMOVE = f"{PAGE}/remove"
CLOCK = f"{PAGE}/clock"
FORGET = f"{PAGE}/forget-refused"
BAD = token(key=1)

LogIn = Callable[..., Awaitable[Visitor]]


@pytest.fixture
async def log_in() -> AsyncIterator[LogIn]:
    """Makes a user of a server and logs them in: `await log_in(server, "OPERATOR")`."""
    made: list[Visitor] = []

    async def make(server: Server, role: str = "ADMIN") -> Visitor:
        name = f"{role.lower()}-{len(made)}"
        await create_user(server.host, name=name, role=Role(role), password=PASSWORD, requested_by=SYSTEM)
        visitor = Visitor(server.harness)
        made.append(visitor)
        await visitor.log_in(name)
        return visitor

    yield make
    for visitor in made:
        await visitor.client.aclose()


def alerts(visitor: Visitor) -> list[str]:
    """Return the text of each element with the role alert."""
    return [
        unescape(" ".join(re.sub("<[^>]+>", " ", found).split()))
        for found in re.findall(r'role="alert"[^>]*>(.*?)</div>', visitor.response.text, re.DOTALL)
    ]


async def paste(visitor: Visitor, text: str) -> Html:
    await visitor.open(PAGE)
    return await visitor.submit(PREVIEW, token=text)


async def test_without_a_license_the_page_is_calm_and_offers_to_install_one(quick_start: Start, log_in: LogIn) -> None:
    admin = await log_in(await quick_start())
    page = await admin.open("/admin")
    assert PAGE in page.links
    page = await admin.open(PAGE)
    assert admin.response.status_code == 200
    assert "No license installed. Default tier applies." in page.text
    assert "Install a license" in page.text
    assert alerts(admin) == []
    assert admin.response.text.count(">default tier<") == len(LIMITS)
    assert "2 of 3" in page.text  # the ADMIN who asks over the API, and this one
    assert set(page.forms) >= {PREVIEW}
    assert not {REMOVE, CLOCK} & set(page.forms)


async def test_a_license_is_previewed_and_then_installed(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    admin = await log_in(server)
    text = token(label="ACME <prod>")
    page = await paste(admin, f"{text[:50]}\r\n  {text[50:]}\n")
    assert admin.response.status_code == 200
    assert "nothing was changed yet" in page.text
    assert "ACME <prod> ACTIVE" in page.text
    assert "max_users 3 5 more 2 0" in page.text
    assert text[:50] not in admin.response.text
    assert await server.state() == "ABSENT"
    page = await admin.submit(PAGE)
    assert admin.at == f"{PAGE}?done=installed"
    assert "The license was installed." in page.text
    assert "License active. 365 days remaining." in page.text
    assert LICENSE_ID in page.text
    assert "2 of 5" in page.text
    assert admin.response.text.count(">default tier<") == len(LIMITS) - 1
    assert text[:50] not in admin.response.text
    (row,) = await server.audit()
    assert (row["action"], row["installedBy"], row["source"]) == ("install_license", "admin-0", "api")


async def test_a_preview_of_a_bad_token_says_why_and_changes_nothing(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token())
    admin = await log_in(server)
    for text, why in (
        (BAD, "License signature verification failed."),
        ("x", "License token is malformed"),
        (token(tenantId="beta-corp"), "License tenantId 'beta-corp' does not match server tenant 'acme-corp'."),
    ):
        page = await paste(admin, text)
        assert admin.answer.status_code == 400
        assert len(alerts(admin)) == 1
        assert why in alerts(admin)[0]
        assert page.by_id("token")["aria-invalid"] == "true"
        assert text == "x" or text not in admin.response.text
    page = await paste(admin, " \n")
    assert "Token: expected a license." in page.text
    assert page.by_id("token")["aria-invalid"] == "true"
    assert await server.state() == "ACTIVE"
    assert [row["action"] for row in await server.audit()] == ["install_license"]


async def test_a_rejected_license_is_a_red_banner_with_the_reason(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token())
    await server.install(BAD, expect=400)
    admin = await log_in(server)
    page = await admin.open(PAGE)
    (alert,) = alerts(admin)
    assert alert.startswith("License rejected: License signature verification failed. Default tier applies.")
    assert "CLAVITOR_LICENSE_PUBLIC_KEY" in alert
    assert "License INVALID" in page.text
    assert "2 of 3" in page.text


async def test_a_refused_token_over_a_good_license_can_be_forgotten(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token())
    await server.install(BAD, expect=400)
    admin = await log_in(server)
    page = await admin.open(PAGE)
    assert (
        "The last token given was refused at 2025-10-09 08:53:20 UTC (it came over the API or on the page): License "
        f"signature verification failed. License {LICENSE_ID} is still stored; install it again or forget the refused "
        "token." in page.text
    )
    assert "#install" in page.links
    page = await admin.submit(FORGET)
    assert "The refused token was forgotten" in page.text
    assert "License ACTIVE" in page.text
    assert FORGET not in page.forms
    assert (await server.audit())[-1]["action"] == "forget_refused_license"


@pytest.mark.parametrize(
    ("variable", "value", "advised"),
    [
        ("CLAVITOR_TENANT_ID", "beta-corp", "Set CLAVITOR_TENANT_ID back to the tenant of the stored license"),
        ("CLAVITOR_LICENSE_PUBLIC_KEY", public_pem(private_key(1)), "another key signed the stored license"),
        ("CLAVITOR_LICENSE_FILE", "/no/such.tok", "See that the file CLAVITOR_LICENSE_FILE names is there"),
    ],
    ids=["tenant", "signature", "file"],
)
async def test_advice_goes_by_what_is_refused(
    quick_start: Start, log_in: LogIn, variable: str, value: str, advised: str
) -> None:
    server = await quick_start()
    await server.install(token())
    server = await quick_start(stop=server, **{variable: value})
    admin = await log_in(server)
    page = await admin.open(PAGE)
    assert advised in alerts(admin)[0]
    assert "#install" in page.links


async def test_grace_warns_and_the_end_of_it_is_an_error(quick_start: Start, log_in: LogIn, clock: FrozenClock) -> None:
    server = await quick_start()
    await server.install(token(exp=NOW + DAY, grace=10))
    clock.now = NOW + 4 * DAY
    page = await (admin := await log_in(server)).open(PAGE)
    assert "License expired 3 days ago. Grace period ends in 7 days." in page.text
    assert 'class="note warn" role="status"' in admin.response.text
    assert "#install" in page.links
    assert alerts(admin) == []
    clock.now = NOW + 11 * DAY
    page = await (admin := await log_in(server)).open(PAGE)
    assert alerts(admin)[0].startswith("License expired 10 days ago. System reverted to default tier.")
    assert "License EXPIRED" in page.text


async def test_what_is_above_a_cap_is_marked(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    server.neighbour.counts = {"max_apps": 1204, "max_agents": 5, "max_log_retention_days": 1}
    admin = await log_in(server)
    page = await admin.open(PAGE)
    assert "1,204 of 3 1,201 over" in page.text
    assert "5 of 5 all in use" in page.text
    assert "1 of 1 default tier" in page.text  # days of retention: a value at its cap is no trouble
    page = await paste(admin, token(limits={"max_apps": 1000}))
    assert "max_apps 3 1,000 more 1,204 204" in page.text
    assert "more is in use than it allows: max_apps." in page.text


async def test_what_would_be_kept_less_is_shown_before_it_is_installed(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token(limits={"max_log_retention_days": 3000, "max_jar_retention_count": 9}))
    server.neighbour.values = {"max_log_retention_days": {"<b>prod": 3000}, "max_jar_retention_count": {"dev": 9}}
    admin = await log_in(server)
    page = await paste(admin, token(limits={"max_log_retention_days": 7, "max_jar_retention_count": 4}))
    assert "<b>prod Days that logs are kept 3,000 7" in page.text
    assert "logs older than 7 days are deleted soon, in <b>prod (now 3000)." in page.text
    assert "dev JAR versions that are kept 9 4" in page.text
    page = await paste(admin, token(limits={"max_log_retention_days": 3000, "max_jar_retention_count": 9}))
    assert "Kept less" not in page.text
    page = await admin.open(PAGE)
    assert "logs older than 1 day are deleted soon, in <b>prod (now 3000)." in page.text


async def test_a_cap_of_nothing_has_a_bar_too(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    server.neighbour.counts = {"max_apps": 2}
    await server.install(token(limits={"max_apps": 0, "max_agents": 0}))
    page = await (await log_in(server)).open(PAGE)
    assert "2 of 0 2 over" in page.text
    assert "0 of 0 all in use" in page.text


async def test_removing_needs_the_box(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token())
    admin = await log_in(server)
    await admin.open(PAGE)
    page = await admin.submit(REMOVE)
    assert admin.answer.status_code == 400
    assert "Confirmation: expected the box to be ticked." in page.text
    assert "aria-invalid" not in page.by_id("token")
    page = await admin.submit(REMOVE, sure="yes")
    assert "The license was removed." in page.text
    assert "No license installed." in page.text
    assert await server.state() == "ABSENT"


async def test_a_setting_that_wins_at_the_next_start_is_said(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start(CLAVITOR_LICENSE_TOKEN=token())
    admin = await log_in(server)
    page = await admin.open(PAGE)
    assert "CLAVITOR_LICENSE_TOKEN names another" not in page.text
    page = await paste(admin, token(label="newer"))
    assert "CLAVITOR_LICENSE_TOKEN names another token" in page.text
    page = await admin.submit(PAGE)
    assert "lasts until the next restart" in page.text


async def test_a_clock_that_went_back_is_shown_and_reset(quick_start: Start, log_in: LogIn, clock: FrozenClock) -> None:
    server = await quick_start()
    await server.install(token())
    clock.now = NOW - 3 * DAY
    await server.tick()
    admin = await log_in(server)
    page = await admin.open(PAGE)
    assert "The clock went back by more than a day." in page.text
    assert "2025-10-09 08:53:20 UTC" in page.text
    page = await admin.submit(CLOCK)
    assert "The clock was reset" in page.text
    assert CLOCK not in page.forms
    assert [row["action"] for row in await server.audit()][-1] == "reset_clock"


async def test_who_may_not_change_it_sees_no_form_and_no_usage(quick_start: Start, log_in: LogIn) -> None:
    server = await quick_start()
    await server.install(token())
    operator = await log_in(server, "OPERATOR")
    page = await operator.open(PAGE)
    assert operator.response.status_code == 200
    assert "License active." in page.text
    assert set(page.forms) == {"/logout"}
    assert "max_users" not in page.text
    fields = page.forms["/logout"]
    for path in (PAGE, PREVIEW, REMOVE, CLOCK, FORGET):
        reply = await operator.client.post(
            path, data={**fields, "sure": "yes"}, headers={"origin": "https://vault.test"}
        )
        assert reply.status_code == 403, path
    viewer = await log_in(server, "VIEWER")
    page = await viewer.open("/admin")
    assert PAGE not in page.links
    await viewer.open(PAGE)
    assert viewer.response.status_code == 403
    stranger = Visitor(server.harness)
    await stranger.open(PAGE)
    assert stranger.at.startswith("/login")
    await stranger.client.aclose()


async def test_what_was_previewed_is_installed_by_whom_and_where_it_was_previewed(
    quick_start: Start, log_in: LogIn
) -> None:
    server = await quick_start()
    ada, eve = await log_in(server), await log_in(server)
    page = await paste(ada, token())
    sealed = page.forms[PAGE]["sealed"]
    for other in (sealed, sealed[:-8] + "AAAAAAA=", "x", ""):
        await paste(eve, token())
        await eve.submit(PAGE, sealed=other)
        assert eve.answer.status_code == 400
        assert alerts(eve) == ["This form belongs to another session: please begin again."]
    assert await server.state() == "ABSENT"
    await ada.submit(PAGE)
    assert await server.state() == "ACTIVE"
