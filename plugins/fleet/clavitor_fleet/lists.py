"""Lists, page by page: keyset paging by an id that grows with time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from clavitor_host.api import Parameter, invalid_field

if TYPE_CHECKING:
    import sqlalchemy as sa

    from clavitor_host.api import Host, Request

_T = TypeVar("_T")
MAX_ID = 128


class Page(NamedTuple):
    """Where a page begins and how long it is. `after`: the last id of the page before, None for the first page."""

    after: str | None
    limit: int


PAGE = (
    Parameter("limit", "Rows a page.", "integer", minimum=1, maximum=1000),
    Parameter("cursor", "`next_cursor` of the page before.", pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_ID}}}$"),
)
"""The parameters of every list, for the OpenAPI document."""


def page_of(request: Request) -> Page:
    """Return the page that a request asks for. Raises a 400 that names the parameter."""
    return Page(query_id(request, "cursor"), request.query_int("limit", 100, low=1, high=1000))


def query_id(request: Request, name: str) -> str | None:
    """Return an id from the query, None when it is not given. Raises a 400 for what can be no id."""
    text = request.query.get(name)
    if text is None or (0 < len(text) <= MAX_ID and text.isascii() and text.isprintable() and " " not in text):
        return text
    raise invalid_field(name, "an id")


async def fetch_page(
    host: Host,
    query: sa.Select[Any],
    key: sa.ColumnElement[str],
    page: Page,
    make: Callable[[Mapping[str, Any]], _T],
) -> tuple[Sequence[_T], str | None]:
    """Return the rows of a page in the order of `key`, and the cursor of the next page, None on the last."""
    if page.after is not None:
        query = query.where(key > page.after)
    rows = await host.db.fetch_all(query.order_by(key).limit(page.limit + 1))
    shown = rows[: page.limit]
    more = str(shown[-1][key.key]) if len(rows) > page.limit and key.key else None
    return [make(row) for row in shown], more
