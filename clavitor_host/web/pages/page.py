"""`@page`: what every page has in common, done in one place.

It finds out who visits, sends strangers to the login, authorises, calls the view, and turns every error into a
page. A POST without the session's CSRF token never reaches its view: `host.authenticate` refuses it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import quart

from clavitor_host import log
from clavitor_host.endpoint import ADMITS, HOST, from_quart, internal_error
from clavitor_host.errors import Problem, unauthorized
from clavitor_host.host import Host
from clavitor_host.http import Request
from clavitor_host.identity.csrf import csrf_token
from clavitor_host.identity.models import Identity, Resource
from clavitor_host.identity.sessions import session_cookie
from clavitor_host.web.pages.forms import local_path, read_form
from clavitor_host.web.pages.navigation import Access, access
from clavitor_host.web.pages.notices import NOTICES
from clavitor_host.web.pages.render import error_page, respond
from clavitor_host.web.pages.sealing import seal, unseal

_SECRET_FIELDS = frozenset({"password", "current_password", "new_password", "repeat_password", "csrf_token", "token"})
_URL_SAFE = "/?&=%:@!$'()*+,;~-._"


class Visit:
    """One visit to a page.

    `request`: what was asked, with the host. `error`: why the form that was sent is shown again.
    `values`: what that form held.
    """

    def __init__(
        self,
        request: Request,
        visitor: Identity | None,
        access: Access,
        notices: Mapping[str, str] = NOTICES,
    ) -> None:
        self.request = request
        self.visitor = visitor
        self.access = access
        self._notices = notices
        self.error: Problem | None = None
        self.values: dict[str, str] = {}
        self._form: Mapping[str, str] | None = None

    @property
    def host(self) -> Host:
        return self.request.host

    @property
    def identity(self) -> Identity:
        """Who visits. Only of pages with an action."""
        assert self.visitor is not None
        return self.visitor

    @property
    def csrf(self) -> str:
        """What forms carry to show that they are ours."""
        return csrf_token(session_cookie(self.request) or "")

    @property
    def notice(self) -> str:
        """What was just done, in one sentence."""
        return self._notices.get(self.request.query.get("done", ""), "")

    @property
    def wrong_field(self) -> str | None:
        """Name of the field that `error` is about."""
        return self.error.extra.get("field") if self.error else None

    def may(self, action: str) -> bool:
        """Whether the visitor may do something, so that the page offers it."""
        return action in self.access.allowed

    def seal(self, text: str) -> str:
        """Return a text for a hidden field of a form, unreadable for whoever sees the page; `unseal` reads it."""
        return seal(text, session_cookie(self.request) or "")

    def unseal(self, sealed: str) -> str:
        """Return what `seal` was given in the same session. Raises a 400 for anything else."""
        return unseal(sealed, session_cookie(self.request) or "")

    async def form(self) -> Mapping[str, str]:
        """Return the fields of the form that was sent."""
        if self._form is None:
            self._form = await read_form(self.request)
            self.values = {name: value for name, value in self._form.items() if name not in _SECRET_FIELDS}
        return self._form

    def render(self, template: str, **context: Any) -> quart.Response:
        """Return a page, with the status of `error` when there is one.

        template: `file.html` of the host, or `package:file.html` from the `templates` folder of a plugin's package. It
        extends `shell.html` (block `main`; `parts.html` has fields, tables and pills); `visit` and `error` are given.
        """
        status = self.error.status if self.error else 200
        response = respond(template, {"visit": self, "error": self.error, **context}, status)
        if self.error is not None and "Retry-After" in self.error.headers:
            response.headers["Retry-After"] = self.error.headers["Retry-After"]
        return response

    def redirect(self, path: str, *, done: str | None = None, cookie: str | None = None) -> quart.Response:
        """Send the visitor on (303), with the word of a notice and a Set-Cookie value."""
        return _see_other(f"{path}{'&' if '?' in path else '?'}done={done}" if done else path, cookie)


View = Callable[..., Awaitable[quart.Response]]


def page(
    *, action: str | None, again: View | None = None, notices: Mapping[str, str] = NOTICES
) -> Callable[[View], View]:
    """Make `async def view(visit, **path)` a Quart view that returns `visit.render(…)` or `visit.redirect(…)`.

    action: what the visitor must be allowed to do; None for a page that anybody may see. Strangers are sent to the
    login, errors become pages, and a POST needs a form with `{{ csrf(visit) }}`.
    again: the page that shows the form anew when this one refuses what it was sent.
    notices: word of `visit.redirect(…, done=word)` → the sentence that the page it leads to shows.
    """
    show_again: View | None = None if again is None else inspect.unwrap(again)

    def wrap(view: View) -> View:
        @functools.wraps(view)
        async def guarded(**path: str) -> quart.Response:
            request = from_quart(quart.current_app.extensions[HOST])
            response = await answer(request, path)
            response.headers.update(request.reply_headers)
            return response

        async def answer(request: Request, path: Mapping[str, str]) -> quart.Response:
            try:
                visit = await _admit(request, action, path, notices)
                try:
                    return await view(visit, **path)
                except Problem as error:
                    if show_again is None or not _is_about_the_form(error):
                        raise
                    visit.error = error
                    return await show_again(visit, **path)
            except Problem as error:
                if error.code == "unauthorized":
                    return _to_login(request)
                return error_page(error, request.id)
            except Exception as error:  # noqa: BLE001 - whatever a bug raises becomes a page
                log.exception("A page failed", error, path=request.path)
                return error_page(internal_error(request.id), request.id)

        guarded.__dict__[ADMITS] = True
        return guarded

    return wrap


def _is_about_the_form(error: Problem) -> bool:
    return 400 <= error.status < 500 and error.code not in ("unauthorized", "csrf") and error.status != 404


async def _admit(request: Request, action: str | None, path: Mapping[str, str], notices: Mapping[str, str]) -> Visit:
    host = request.host
    if action is None:
        identity = await host.identify(request) if request.method in ("GET", "HEAD") else None
        if identity is not None and identity.via != "session":
            identity = None
        request.identity = identity
        await host.admit(request, None)
        if identity is None:
            return Visit(request, None, Access(), notices)
    else:
        identity = await host.authenticate(request)
        if identity.via != "session":
            raise unauthorized()
        request.identity = identity
        await host.admit(request, action)
        resource = Resource(action.partition(".")[0], next(iter(path.values()), None))
        await host.authorize(identity, action, resource)
    return Visit(request, identity, await access(host, identity), notices)


def _to_login(request: Request) -> quart.Response:
    """Send a stranger to the login, and back here after it."""
    if request.method not in ("GET", "HEAD"):
        return _see_other("/login")
    here = local_path(quart.request.full_path.rstrip("?"))
    if request.header(b"sec-fetch-site") in ("cross-site", "same-site") and session_cookie(request) is None:
        # SameSite=Strict: a link on another site brings no cookie along, one on our own page does.
        return respond("continue.html", {"visit": None, "error": None, "target": here})
    return _see_other("/login" if here == "/admin" else f"/login?{urlencode({'next': here})}")


def _see_other(path: str, cookie: str | None = None) -> quart.Response:
    response = quart.Response(b"", status=303)
    del response.headers["Content-Type"]
    response.headers["Location"] = quote(path, safe=_URL_SAFE)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "same-origin"
    if cookie is not None:
        response.headers.add("Set-Cookie", cookie)
    return response
