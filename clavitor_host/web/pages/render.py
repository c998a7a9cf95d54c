"""From a template to a response: Jinja, the filters that templates use, and the headers of every page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import quart

from clavitor_host.errors import Problem

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
"""The content security policy of every page: no script, nothing from elsewhere."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    # With no-referrer a browser sends `Origin: null` for our own forms, and they would count as another site's.
    "Referrer-Policy": "same-origin",
}


_LABELS = {
    "agent_id": "Agent id",
    "days": "Expires",
    "environment_id": "Environment",
    "new_password": "New password",
    "sure": "Confirmation",
    "since": "From",
}
"""What forms call a field, where it is not the field's own name."""


_TITLES = {
    400: "That did not work",
    403: "You may not do this",
    404: "There is nothing here",
    500: "The server failed",
    503: "Not available just now",
}
"""What error pages are called, where it is not the status's own phrase."""


def respond(template: str, context: Mapping[str, Any], status: int = 200) -> quart.Response:
    """Return a page."""
    html = environment().get_template(template).render(context)
    response = quart.Response(html, status=status, content_type=HTML)
    response.headers.update(_HEADERS)
    return response


def error_page(error: Problem, request_id: str = "") -> quart.Response:
    """Return an error as a page that needs neither a session nor the database."""
    title = _TITLES.get(error.status, error.title)
    context = {"visit": None, "error": error, "title": title, "request_id": request_id}
    response = respond("error.html", context, error.status)
    response.headers.update({name: value for name, value in error.headers.items() if name != "WWW-Authenticate"})
    return response


@cache
def environment() -> Environment:
    """Return the templates. Jinja is imported when the first page is asked for: the server starts without it."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from clavitor_host.web.pages.assets import assets

    made = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for function in (when, second, minute, number, duration, seconds, complaint):
        made.filters[function.__name__] = function
    made.globals["asset"] = lambda name: assets()[name].url
    return made


def _template(name: str) -> str:
    """Return the source of `file.html` of ours, or of `package:file.html` from that package's `templates` folder."""
    package, _, file = name.rpartition(":")
    return files(package or __package__).joinpath("templates", file).read_text("utf-8")


def when(at: int | None, never: str = "never") -> Markup:
    """Return a time (µs since the epoch) as `<time>`, in UTC to the second."""
    return _time(at, "%Y-%m-%d %H:%M:%S UTC", never)


def minute(at: int | None, never: str = "never") -> Markup:
    """Return a time (µs since the epoch) as `<time>`, in UTC to the minute."""
    return _time(at, "%Y-%m-%d %H:%M UTC", never)


def second(at: int) -> Markup:
    """Return a time (µs since the epoch) as `<time>`, to the second; the column's head says that it is UTC."""
    return _time(at, "%Y-%m-%d %H:%M:%S", "")


def number(value: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,}"


def duration(value: float | None) -> str:
    """Return a number of seconds in its two largest units, such as `3 d 4 h`."""
    if value is None:
        return "unknown"
    left = int(value)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def seconds(value: float) -> str:
    """Return a measured time in the unit that suits it."""
    if value >= 1:
        return f"{value:,.2f} s"
    return f"{value * 1000:.1f} ms" if value else "0 ms"


def complaint(error: Problem) -> str:
    """Return an error in words for the person who filled in a form: its fields by the names they have there."""
    name = error.extra.get("field")
    if name is None or not error.detail.startswith(f"{name}: "):
        return error.detail
    return f"{_LABELS.get(name, name.capitalize())}{error.detail.removeprefix(name)}"


def _time(at: int | None, form: str, never: str) -> Markup:
    from markupsafe import Markup

    if at is None:
        return Markup('<span class="quiet">{}</span>').format(never)
    try:
        moment = datetime.fromtimestamp(at // 1_000_000, UTC)
    except (OverflowError, ValueError):
        return Markup("{}").format(at)
    machine = f"{moment:%Y-%m-%dT%H:%M:%S}.{at % 1_000_000:06d}Z"
    return Markup('<time datetime="{}">{}</time>').format(machine, moment.strftime(form))
