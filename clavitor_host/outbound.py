"""Outbound HTTP. Every client of the program is made here, so a simulation can replace the network, and a test
can prove that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from clavitor_host import __version__

if TYPE_CHECKING:
    import httpx

    from clavitor_host.metrics import Metrics

TIMEOUT = 10.0
"""Seconds a request may wait for each of: connecting, writing, reading, a free connection."""


class Outbound:
    """Makes HTTP clients with safe defaults and counts their requests."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "clavitor_outbound_requests_total", "HTTP requests to other servers, by outcome.", ("host", "outcome")
        )
        self._clients: WeakSet[httpx.AsyncClient] = WeakSet()

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Return a new `httpx.AsyncClient`; use it as a context manager or close it yourself.

        Unless `options` say otherwise: 10 s time-outs, redirects are not followed. Proxy variables and .netrc
        are never read.
        """
        import httpx

        count = self._requests

        class Client(httpx.AsyncClient):
            async def send(self, request: httpx.Request, **keywords: Any) -> httpx.Response:
                outcome = "error"
                try:
                    response = await super().send(request, **keywords)
                    outcome = f"{response.status_code // 100}xx"
                    return response
                finally:
                    count.labels(request.url.host, outcome).inc()

        defaults = {
            "timeout": TIMEOUT,
            "follow_redirects": False,
            "headers": {"User-Agent": f"clavitor/{__version__}"},
        }
        client = Client(**{**defaults, **options, "trust_env": False})
        self._clients.add(client)
        return client

    async def close(self) -> None:
        """Close every client that is still open."""
        for client in list(self._clients):
            await client.aclose()
