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


def respond(template: str, context: Mapping[str, Any], status: int = 200) -> quart.Response:
    """Return a page."""
    html = environment().get_template(template).render(context)
    response = quart.Response(html, status=status, content_type=HTML)
    response.headers.update(_HEADERS)
    return response


def error_page(error: Problem, request_id: str = "") -> quart.Response:
    """Return an error as a page that needs neither a session nor the database."""
    response = respond("error.html", {"visit": None, "error": error, "request_id": request_id}, error.status)
    response.headers.update({name: value for name, value in error.headers.items() if name == "Retry-After"})
    return response


@cache
def environment() -> Environment:
    """Return the templates. Jinja is imported when the first page is asked for: the server starts without it."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from clavitor_host.web.pages.assets import assets

    folder = files(__package__).joinpath("templates")
    made = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"when": when, "day": day, "number": number, "duration": duration, "seconds": seconds}
    made.globals["asset"] = lambda name: assets()[name].url
    return made


def when(at: int | None, never: str = "never") -> Markup:
    """Return a time (µs since the epoch) as `<time>`, in UTC to the second."""
    return _time(at, "%Y-%m-%d %H:%M:%S UTC", never)


def day(at: int | None, never: str = "never") -> Markup:
    """Return a time (µs since the epoch) as `<time>`, in UTC to the minute."""
    return _time(at, "%Y-%m-%d %H:%M UTC", never)


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
