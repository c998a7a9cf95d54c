"""`host.outbound`: makes HTTP clients with safe defaults and counts their requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from clavitor_host import __version__
from clavitor_host.outbound.tls import tls_context

if TYPE_CHECKING:
    import ssl

    import httpx

    from clavitor_host.metrics import Metrics
    from clavitor_host.outbound.addresses import Network
    from clavitor_host.outbound.guard import Guard
    from clavitor_host.outbound.lookup import Lookup

TIMEOUT = 10.0
"""Seconds a request may wait for each of: connecting, writing, reading, a free connection."""

GUARDED = "guarded"
"""What stands for the host in the metrics of guarded clients: users choose those, and may choose any number."""

_FIXED = frozenset({"transport", "mounts", "proxy", "cert", "http1", "http2", "follow_redirects"})
"""Options with which a guarded client would not be one."""


class Outbound:
    """Makes HTTP clients. `lookup`: finds the addresses of a name, for guarded clients; the system's resolver."""

    def __init__(self, metrics: Metrics, lookup: Lookup | None = None) -> None:
        self._requests = metrics.counter(
            "clavitor_outbound_requests_total", "HTTP requests to other servers, by outcome.", ("host", "outcome")
        )
        self._lookup = lookup
        self._clients: WeakSet[httpx.AsyncClient] = WeakSet()
        self._tls: ssl.SSLContext | None = None

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Return a new `httpx.AsyncClient`; use it as a context manager or close it yourself.

        Unless `options` say otherwise: 10 s time-outs, redirects are not followed, TLS servers are checked as
        `tls_context` says. Proxy variables and .netrc are never read.
        """
        if "verify" not in options and "transport" not in options:
            options["verify"] = self.tls
        return self._made(None, options)

    def guarded(self, allow: Sequence[Network] = (), **options: Any) -> httpx.AsyncClient:
        """Return a client for URLs that a user configured: it reaches public addresses and those in `allow` only.

        Every address of a name is checked, and a checked address is dialled, so a name that is given other addresses
        in between gains nothing; certificates are checked by the name. Redirects are never followed. A time-out for
        connecting is for looking the name up and trying all its addresses together. Requests raise `UnusableURL`,
        `BlockedAddress` or `Unresolvable` before anything is sent, and httpx's own errors (`InvalidURL` for what is no
        URL at all). `options` are those of `client`, but for what could lead around the guard: TypeError.
        """
        from clavitor_host.outbound.transport import GuardedTransport

        if refused := _FIXED & options.keys():
            raise TypeError(f"a guarded client takes no {', '.join(sorted(refused))}")
        verify, limits = options.pop("verify", self.tls), options.pop("limits", None)
        options["transport"] = GuardedTransport(self._guard(allow), verify, limits)
        return self._made(GUARDED, options)

    async def check(self, url: str, allow: Sequence[Network] = ()) -> None:
        """Refuse a URL to which a guarded client would send nothing, when a user configures it.

        Raises `UnusableURL` (422): `BlockedAddress` for an address that is neither public nor in `allow`,
        `Unresolvable` for a name that has no address now.
        """
        await self._guard(allow).check(url, within=TIMEOUT)

    def _guard(self, allow: Sequence[Network]) -> Guard:
        from clavitor_host.outbound.guard import Guard
        from clavitor_host.outbound.lookup import NameLookup

        if self._lookup is None:
            self._lookup = NameLookup()
        return Guard(self._lookup, allow)

    def _made(self, label: str | None, options: dict[str, Any]) -> httpx.AsyncClient:
        from clavitor_host.outbound.counted import CountedClient

        defaults = {
            "timeout": TIMEOUT,
            "follow_redirects": False,
            "headers": {"User-Agent": f"clavitor/{__version__}"},
        }
        client = CountedClient(self._count, label, {**defaults, **options, "trust_env": False})
        self._clients.add(client)
        return client

    def _count(self, host: str, outcome: str) -> None:
        self._requests.labels(host, outcome).inc()

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
