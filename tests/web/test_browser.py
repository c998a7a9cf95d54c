"""The pages in a real browser (Chromium), served by the real program."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PASSWORD = "correct horse battery"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1280), ("dark", 360))
"""Colour scheme and width in pixels."""
LINK = re.compile(r"(http://127\.0\.0\.1:\d+)/setup\?token=(\w+)")

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium: apt-get install chromium")


class Server:
    """The running program. `link` is the setup link that it printed, `token` the secret in it."""

    def __init__(self, folder: Path, program: Sequence[str] = ("-m", "clavitor_host"), **environ: str) -> None:
        self.data = folder / "data"
        command = [sys.executable, *program, "serve", "--data-dir", str(self.data)]
        self._process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "CLAVITOR_LOG_ACCESS": "true", **environ},
            cwd=folder,
            text=True,
        )
        assert self._process.stderr is not None
        self._log = self._process.stderr
        self._lines: list[str] = []
        found = None
        while found is None:
            line = self._log.readline()
            assert line, "".join(self._lines)
            self._lines.append(line)
            found = LINK.search(line)
        self.link, self.url, self.token = found[0], found[1], found[2]
        self._reader = Thread(target=lambda: self._lines.extend(self._log))
        self._reader.start()

    def stop(self) -> str:
        """End the program and return all it has logged."""
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(15)
        self._reader.join(15)
        self._log.close()
        log = "".join(self._lines)
        assert code == 0, log
        return log


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that fails the test when anything is blocked by the security policy, or not found."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda response: wrong.append(response.url) if response.status >= 500 else None)
    yield page
    assert wrong == []


def set_up(page: Page, server: Server) -> None:
    page.goto(server.link)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Create administrator").click()
    expect(page).to_have_title("Overview · Clavitor")


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()


def test_from_the_setup_link_to_logging_out(
    server: Server, browser: Browser, context: BrowserContext, page: Page
) -> None:
    set_up(page, server)
    (cookie,) = context.cookies()
    assert (cookie["name"], cookie["secure"], cookie["sameSite"]) == ("__Host-clavitor_session", True, "Strict")
    expect(page.get_by_role("link", name="Overview")).to_have_attribute("aria-current", "page")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")

    go(page, "Users")
    page.get_by_role("link", name="New user").click()
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Role").select_option("OPERATOR")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("status")).to_have_text("The user was created.")
    expect(page.get_by_role("row", name="bob OPERATOR active")).to_be_visible()

    go(page, "Tokens")
    page.get_by_role("link", name="New token").click()
    page.get_by_label("Name").fill("browser test")
    page.get_by_label("Scope").select_option("write")
    page.get_by_role("button", name="Create token").click()
    token = page.locator("#token").inner_text()
    bearer = {"Authorization": f"Bearer {token}"}
    written = context.request.put(f"{server.url}/api/entries/a", data={"encrypted_data": "AAAA"}, headers=bearer)
    assert written.status == 201

    go(page, "Audit")
    expect(page.get_by_role("row", name="created user bob")).to_be_visible()
    page.get_by_label("Entry").fill("a")
    page.get_by_role("button", name="Filter").click()
    assert page.get_by_role("row").count() == 2
    page.get_by_text("create_entry").click()
    expect(page.get_by_role("definition").first).to_be_visible()
    page.get_by_role("button", name="Check the chain").click()
    expect(page.get_by_role("status")).to_contain_text("The chain is whole.")
    with sqlite3.connect(server.data / "vault.db") as database:
        database.execute("update audit_log set actor = 'mallory' where id = 3")
    database.close()
    page.get_by_role("link", name="Check again").click()
    expect(page.get_by_role("alert")).to_contain_text("The chain is broken at row 3")
    page.get_by_role("link", name="Show row 3").click()
    expect(page.locator("#row-3")).to_contain_text("mallory")

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.")
    assert context.cookies() == []
    page.goto(f"{server.url}/admin/users")
    expect(page).to_have_title("Log in · Clavitor")
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("Password")).to_be_focused()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{server.url}/admin/users")

    log = server.stop()
    assert "path=/setup" in log
    assert log.count(server.token) == 1  # the link that was printed, and never again
    for secret in (PASSWORD, token, cookie["value"]):
        assert secret not in log


def test_a_link_on_another_site_leads_in_without_a_new_login(
    server: Server, context: BrowserContext, page: Page
) -> None:
    set_up(page, server)
    elsewhere = server.url.replace("127.0.0.1", "localhost")  # another site to the browser
    context.route(
        f"{elsewhere}/chat",
        lambda route: route.fulfill(
            body=f'<a href="{server.url}/admin/audit?actor=ada">look</a>', content_type="text/html"
        ),
    )
    page.goto(f"{elsewhere}/chat")
    page.get_by_role("link", name="look").click()
    expect(page).to_have_url(f"{server.url}/admin/audit?actor=ada")
    expect(page).to_have_title("Audit · Clavitor")


def test_it_is_used_with_the_keyboard_alone(server: Server, page: Page) -> None:
    set_up(page, server)
    page.goto(f"{server.url}/admin/users")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New user")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page).to_have_title("New user · Clavitor")


def axe() -> str:
    """Return the source of axe-core, from the package that carries it."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-core: pip install axe-playwright-python")
    return Path(found.origin).with_name("axe.min.js").read_text()


def violations(page: Page, source: str) -> list[Any]:
    page.evaluate(source)
    result = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [(found["id"], [node["target"] for node in found["nodes"]]) for found in result["violations"]]


@pytest.mark.timeout(300)
def test_every_page_is_accessible_and_fits_a_phone(server: Server, context: BrowserContext, page: Page) -> None:
    source = axe()
    page.goto(server.link)
    found = check(page, source)
    set_up(page, server)
    page.goto(f"{server.url}/admin/tokens/new")
    page.get_by_label("Name").fill("a token with quite a long name, as people like to give them")
    page.get_by_role("button", name="Create token").click()
    found += check(page, source)
    page.goto(f"{server.url}/admin/users")
    user = page.get_by_role("link", name="ada").last.get_attribute("href")
    for path in (
        "/admin",
        "/admin/users",
        "/admin/users/new",
        user,
        "/admin/tokens",
        "/admin/tokens/new?kind=agent",
        "/admin/audit",
        "/admin/audit?actor=nobody",
        "/admin/audit?since=x",
        "/admin/audit/check",
        "/admin/plugins",
        "/account",
        "/api/docs",
        "/admin/users/none",
    ):
        page.goto(f"{server.url}{path}")
        found += check(page, source)
    context.clear_cookies()
    for path in ("/login", "/setup?token=x"):
        page.goto(f"{server.url}{path}")
        found += check(page, source)
    assert found == []


def check(page: Page, source: str) -> list[Any]:
    """Return what is wrong with the current page, in every look."""
    found = []
    page.evaluate("document.querySelectorAll('details:nth-of-type(-n + 2)').forEach(details => details.open = true)")
    for colours, width in LOOKS:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=colours)
        found += [(page.url, colours, width, wrong) for wrong in violations(page, source)]
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wider > 0:
            found.append((page.url, colours, width, f"{wider} px too wide"))
    return found
