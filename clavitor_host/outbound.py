"""Outbound HTTP. Every client of the program is made here, so a simulation can replace the network, and a test
can prove that there is none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from clavitor_host import __version__

if TYPE_CHECKING:
    import ssl

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
        self._tls: ssl.SSLContext | None = None

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Return a new `httpx.AsyncClient`; use it as a context manager or close it yourself.

        Unless `options` say otherwise: 10 s time-outs, redirects are not followed, TLS servers are checked as
        `tls_context` says. Proxy variables and .netrc are never read.
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
        if "verify" not in options and "transport" not in options:
            defaults["verify"] = self.tls
        client = Client(**{**defaults, **options, "trust_env": False})
        self._clients.add(client)
        return client

    @property
    def tls(self) -> ssl.SSLContext:
        """How clients check TLS servers. Made at the first use, then shared: reading the store takes 50 ms."""
        if self._tls is None:
            self._tls = tls_context()
        return self._tls

    async def close(self) -> None:
        """Close every client that is still open."""
        for client in list(self._clients):
            await client.aclose()


def tls_context() -> ssl.SSLContext:
    """Return a new client context: TLS 1.2 or newer; host names and certificates are checked.

    Trusted are the authorities in `SSL_CERT_FILE` and `SSL_CERT_DIR` when either is set: then whoever runs the server
    has chosen. Otherwise those of the system, and Mozilla's list for a system without any. The list is read as data,
    not as a file: in a bundle it is a member of the archive.
    """
    import ssl

    context = ssl.create_default_context()  # the system's store, or what the two variables name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        import certifi

        context.load_verify_locations(cadata=certifi.contents())
    return context
