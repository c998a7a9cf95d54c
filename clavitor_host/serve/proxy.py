"""The client's own address and scheme behind trusted reverse proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from clavitor_host.errors import ConfigError
from clavitor_host.serve.handlers import ASGIApp, Receive, Send

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
HeaderKind = Literal["x-forwarded-for", "forwarded"]

_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*(;|,|$)')


def trust_proxies(app: ASGIApp, trusted: Sequence[str], header: HeaderKind = "x-forwarded-for") -> ASGIApp:
    """Return `app`, seeing as `client` and `scheme` what trusted proxies forward.

    `trusted`: addresses, CIDR networks, or `unix` for connections over a unix socket. `header`: the kind that these
    proxies set; the other is never read, since a proxy passes it on as the client sent it. With no trusted proxy
    the application itself is returned. Raises `ConfigError` for an entry that is no network.
    """
    return TrustedProxies(app, trusted, header) if trusted else app


class TrustedProxies:
    """ASGI middleware: see `trust_proxies`."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str], header: HeaderKind) -> None:
        self._app = app
        self._unix = "unix" in trusted
        self._networks = [_network(entry) for entry in trusted if entry != "unix"]
        self._header = header
        self._is_trusted = lru_cache(maxsize=1024)(self._lookup)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get("client")
            if self._unix if peer is None else self._is_trusted(peer[0]):
                scope = self._seen_through(scope)
        await self._app(scope, receive, send)

    def _seen_through(self, scope: Any) -> Any:
        hops = list(_forwarded(scope) if self._header == "forwarded" else _x_forwarded(scope))
        client, scheme = scope.get("client"), scope["scheme"]
        for address, proto in reversed(hops):  # the nearest proxy wrote the last
            if proto is not None:
                scheme = proto
            if address is None:
                break  # not an address: nothing before it can be believed
            client = (str(address), 0)
            if not self._is_trusted(client[0]):
                break
        return {**scope, "client": client, "scheme": scheme}

    def _lookup(self, text: str) -> bool:
        address = parse_ip(text)
        return address is not None and any(address in network for network in self._networks)


def parse_ip(text: str) -> Address | None:
    """Read an address, with or without port and brackets; an IPv4 address mapped into IPv6 becomes IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        raise ConfigError(
            f"proxies: {entry!r} is no address, no network such as 10.0.0.0/8 (host bits zero), and not 'unix'."
        ) from None


def _values(scope: Any, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _x_forwarded(scope: Any) -> Iterator[tuple[Address | None, str | None]]:
    """Yield address and scheme of each hop. Proxies that overwrite the scheme instead of adding to it leave one."""
    addresses = _split(_values(scope, b"x-forwarded-for"))
    protos = [_scheme(proto) for proto in _split(_values(scope, b"x-forwarded-proto"))]
    if not addresses and protos:
        yield None, protos[-1]
    for index, address in enumerate(addresses):
        fromend = len(addresses) - index
        yield parse_ip(address), protos[-fromend] if fromend <= len(protos) else None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _forwarded(scope: Any) -> Iterator[tuple[Address | None, str | None]]:
    """Yield `for` and `proto` of each element (RFC 7239 section 4). After bad syntax nothing before it is kept."""
    text = _values(scope, b"forwarded")
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            comma = text.find(",", position)
            if comma < 0:
                elements = [{}]
                break
            elements, position = [{}, {}], comma + 1
            continue
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elements[-1][match[1].lower()] = value
        position = match.end()
        if match[3] == ",":
            elements.append({})
    for element in elements:
        if element:
            yield parse_ip(element.get("for", "")), _scheme(element.get("proto", ""))
        elif text:
            yield None, None


def _scheme(text: str) -> str | None:
    text = text.lower()
    return text if text in ("http", "https") else None
