"""How many bytes of body a route takes: its own `max_body`, or what the configuration says for all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quart import Quart
from werkzeug.exceptions import HTTPException

from clavitor_host.endpoint import endpoint_of
from clavitor_host.errors import StartError

if TYPE_CHECKING:
    from clavitor_host.host import Host

BATCH_PATH = "/api/entries/batch"


def body_limits(app: Quart, host: Host) -> Callable[[str, str], int]:
    """Return what tells, by method and path, how many bytes of body are taken.

    Call it when every route is on `app`. A `max_body` that is a function is called here, once. Only a path that begins
    as that of a route with `max_body` does is looked up among the routes. Raises `StartError` for a limit that is none.
    """
    limits = host.config.limits
    own: dict[str, int] = {}
    beginnings: set[str] = set()
    for rule in app.url_map.iter_rules():
        operation = endpoint_of(app.view_functions[rule.endpoint])
        if operation is None or operation.max_body is None:
            continue
        size = operation.max_body if isinstance(operation.max_body, int) else operation.max_body(host)
        if type(size) is not int or size < 0:
            raise StartError(f"The route {rule.rule} has max_body {size!r}: expected a number of bytes.")
        own[rule.endpoint] = size
        beginnings.add(rule.rule.partition("<")[0])
    urls, prefixes = app.url_map.bind(""), tuple(beginnings)

    def limit(method: str, path: str) -> int:
        if path.startswith(prefixes):
            try:
                name, _ = urls.match(path, method)
            except HTTPException:  # no route, or a redirect
                return limits.body_bytes
            if name in own:
                return own[name]
        return limits.batch_bytes if path == BATCH_PATH else limits.body_bytes

    return limit
