"""The transport of guarded clients: it dials the addresses that have been checked, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence

import httpcore
import httpx

from clavitor_host.outbound.guard import Guard, usable

TRIED = 8
"""Addresses of a name that are tried at most."""

CONNECT = 10.0
"""Seconds for connecting when a request has no time-out of its own."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class GuardedBackend(httpcore.AnyIOBackend):
    """Opens connections. TLS goes over them under the name, not the address: httpcore takes it from the URL."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers; `timeout` seconds for the lookup and all of them."""
        ends = asyncio.get_running_loop().time() + (CONNECT if timeout is None else timeout)
        try:
            async with asyncio.timeout_at(ends):
                addresses = (await self._guard.addresses(host))[:TRIED]
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} could not be looked up in time") from None
        return await self._dial(addresses, port, ends, local_address, socket_options)

    async def _dial(
        self,
        addresses: Sequence[str],
        port: int,
        ends: float,
        local_address: str | None,
        socket_options: Iterable[SocketOption] | None,
    ) -> httpcore.AsyncNetworkStream:
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share = (ends - asyncio.get_running_loop().time()) / left
            try:
                return await super().connect_tcp(address, port, max(share, 0.0), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("a guard returns at least one address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no URL leads to a file."""
        raise httpcore.ConnectError("unix sockets are not for guarded clients")


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over such connections. httpx has no argument for them, so its pool is exchanged."""

    def __init__(self, guard: Guard, verify: ssl.SSLContext, limits: httpx.Limits | None = None) -> None:
        super().__init__(verify=verify, trust_env=False)
        if not isinstance(vars(self).get("_pool"), httpcore.AsyncConnectionPool):
            raise RuntimeError("this httpx keeps its connections elsewhere: the guard would be left out")
        limits = limits or httpx.Limits(max_connections=100, max_keepalive_connections=20)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=GuardedBackend(guard),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises `UnusableURL`, `BlockedAddress`, `Unresolvable`, and httpx's errors."""
        usable(request.url)
        return await super().handle_async_request(request)
