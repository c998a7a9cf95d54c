"""What a browser does with our pages, without a browser: follow, read, fill in, send."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import httpx

from clavitor_host.testing import Harness

PASSWORD = "correct horse battery"
BASE_URL = "https://vault.test"


class Html(HTMLParser):
    """A page: its text, forms (fields by name, by action), links and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.title = ""
        self.forms: dict[str, dict[str, str]] = {}
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._action: str | None = None
        self._select: str | None = None
        self._tag = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._tag = tag
        self.tags.append((tag, found))
        if tag == "a":
            self.links.append(found.get("href") or "")
        if tag == "form":
            self._action = found["action"] or ""
            self.forms[self._action] = {}
        if self._action is None:
            return
        name = found.get("name")
        if tag == "input" and name and (found.get("type") != "checkbox" or "checked" in found):
            self.forms[self._action][name] = found.get("value") or ""
        if tag == "select" and name:
            self._select = name
        if tag == "option" and self._select:
            fields = self.forms[self._action]
            if "selected" in found or self._select not in fields:
                fields[self._select] = found.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""
        if tag == "form":
            self._action = None
        if tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._tag == "title":
            self.title += data
        self.text += data + " "

    def by_id(self, name: str) -> dict[str, str | None]:
        """Return the attributes of the element with an id."""
        return next(attrs for _, attrs in self.tags if attrs.get("id") == name)


class Visitor:
    """Somebody with a browser. `page` is what they look at, `answer` the last answer before redirects."""

    def __init__(self, harness: Harness) -> None:
        transport = httpx.ASGITransport(app=harness.web, client=("192.0.2.7", 50000))  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers={"user-agent": "Tester/1"})
        self.answer: httpx.Response
        self.response: httpx.Response
        self.page: Html

    @property
    def at(self) -> str:
        """Path and query of the page they look at."""
        return self.response.request.url.raw_path.decode()

    async def open(self, path: str, **options: Any) -> Html:
        """Open a page, following redirects."""
        return await self._arrive(await self.client.get(path, **options))

    async def submit(self, action: str, **filled_in: str) -> Html:
        """Fill in the form of the current page that goes to `action`, and send it."""
        fields = self.page.forms[action] | filled_in
        return await self._arrive(await self.client.post(action, data=fields, headers={"origin": BASE_URL}))

    async def log_in(self, name: str, password: str = PASSWORD) -> Html:
        await self.open("/login")
        return await self.submit("/login", name=name, password=password)

    async def _arrive(self, answer: httpx.Response) -> Html:
        self.answer = answer
        while answer.is_redirect:
            answer = await self.client.get(answer.headers["location"])
        self.response = answer
        self.page = Html(answer.text)
        return self.page
