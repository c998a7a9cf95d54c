"""The client that `host.outbound` hands out. Imported when the first one is made: httpx takes its time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import httpx

from clavitor_host.errors import UnusableURL

Count = Callable[[str, str], None]
"""Called with a host and an outcome."""

if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    # httpcore imports it several times a request, and every failing import looks through the whole path: a sixth of
    # what a request costs. None makes it fail at once.
    sys.modules["sniffio"] = None  # type: ignore[assignment]


class CountedClient(httpx.AsyncClient):
    """Counts its requests by outcome: `2xx` and so on, `error`, `blocked`.

    `guarded_as`: the host they are counted under when it is a guarded client, which follows no redirect even when a
    single request asks for it.
    """

    def __init__(self, count: Count, guarded_as: str | None, options: Mapping[str, Any]) -> None:
        super().__init__(**options)
        self._counter = count
        self._guarded_as = guarded_as

    async def send(self, request: httpx.Request, **keywords: Any) -> httpx.Response:
        """Send a request, and count it."""
        if self._guarded_as is not None:
            keywords["follow_redirects"] = False
        outcome = "error"
        try:
            response = await super().send(request, **keywords)
            outcome = f"{response.status_code // 100}xx"
            return response
        except UnusableURL:
            outcome = "blocked"
            raise
        finally:
            self._counter(self._guarded_as or request.url.host, outcome)
