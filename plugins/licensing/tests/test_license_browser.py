"""`/admin/license` in a real browser (Chromium), served by the real program: pages, forms and a keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clavitor_licensing_testing.support import license_info, private_key, public_pem, signed
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.web.test_browser import ARGUMENTS, CHROMIUM, Server, axe, check, go, set_up

SHOTS = os.environ.get("LICENSE_SHOTS", "")
"""A folder to put pictures of what was checked into; "" for none."""
YEAR = 365 * 86_400
WIDTHS = (1280, 360)

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium: apt-get install chromium")


def token(*, label: str, days: float = 365, grace: int = 30, key: int = 0, **limits: int) -> str:
    """A token that expires in some days, or did so before."""
    import time

    now = int(time.time())
    info = license_info(exp=now + int(days * 86_400), grace=grace, **limits)
    return signed(info._replace(iat=now - 2 * YEAR, label=label).payload(), private_key(key))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    variables = {
        "CLAVITOR_TENANT_ID": "acme-corp",
        "CLAVITOR_LICENSE_PUBLIC_KEY": public_pem(private_key(0)),
    }
    server = Server(tmp_path, **variables)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test when anything is blocked by the security policy, or not found."""
    context: BrowserContext = browser.new_context()
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda response: wrong.append(response.url) if response.status >= 500 else None)
    yield page
    context.close()
    assert wrong == []


class Looks:
    """Looks at pages in every look, and at last says what was wrong."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.source = axe()
        self.found: list[Any] = []

    def at(self, name: str) -> None:
        self.found += check(self.page, self.source)
        for width in WIDTHS if SHOTS else ():
            for colours in ("light", "dark"):
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.emulate_media(color_scheme=colours)
                self.page.screenshot(path=f"{SHOTS}/{name}-{width}-{colours}.png", full_page=True)


def preview(page: Page, text: str) -> None:
    page.get_by_label("Token").fill(text)
    page.get_by_role("button", name="Preview").click()


@pytest.mark.timeout(300)
def test_from_no_license_to_a_removed_one(server: Server, page: Page) -> None:
    set_up(page, server)
    looks = Looks(page)

    go(page, "License")
    expect(page).to_have_title("License · Clavitor")
    expect(page.get_by_role("heading", level=1)).to_have_text("License ABSENT")
    expect(page.get_by_role("row", name="Users")).to_contain_text("1 of 3")
    looks.at("absent")
    page.get_by_role("link", name="Install a license").click()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Token")).to_be_focused()

    preview(page, token(label="forged", key=1))
    expect(page.get_by_role("alert")).to_have_text("License signature verification failed.")
    expect(page.get_by_label("Token")).to_have_value("")
    looks.at("refused")

    whole = token(label="ACME prod 2026 — site:hamburg", max_apps=50, max_users=1, max_total_memory_mb=65_536)
    preview(page, "\n".join((whole[:60], whole[60:])))
    expect(page.get_by_role("row", name="Memory, in MB")).to_contain_text("65,536")
    assert whole[:60] not in page.content()
    looks.at("preview")
    page.get_by_role("button", name="Install this license").click()
    expect(page.get_by_role("status").first).to_have_text("The license was installed.")
    expect(page.get_by_role("heading", level=1)).to_have_text("License ACTIVE")
    expect(page.get_by_role("row", name="Users")).to_contain_text("all in use")
    looks.at("active")

    preview(page, token(label="ACME 2025", days=-3, max_users=0))
    page.get_by_role("button", name="Install this license").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("License GRACE")
    expect(page.get_by_text("Grace period ends in 27 days.")).to_be_visible()
    expect(page.get_by_role("row", name="Users")).to_contain_text("1 over")
    looks.at("grace")

    preview(page, token(label="ACME 2024", days=-40, max_users=25))
    looks.at("preview-expired")
    page.get_by_role("button", name="Install this license").click()
    expect(page.get_by_role("alert")).to_contain_text("System reverted to default tier.")
    looks.at("expired")

    page.get_by_label("Yes, remove the license").check()
    page.get_by_role("button", name="Remove the license").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("License ABSENT")
    assert looks.found == []


def test_a_license_that_was_rejected_at_the_start_is_a_red_banner(tmp_path: Path, page: Page) -> None:
    server = Server(tmp_path, CLAVITOR_LICENSE_TOKEN=token(label="x"))
    try:
        set_up(page, server)
        looks = Looks(page)
        go(page, "License")
        expect(page.get_by_role("alert")).to_contain_text("License rejected: License public key is not configured")
        looks.at("invalid")
        assert looks.found == []
    finally:
        server.stop()
