"""URLs that a user configured: their form, and the addresses that they lead to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from ipaddress import ip_address

import httpx

from clavitor_host.errors import BlockedAddress, Unresolvable, UnusableURL
from clavitor_host.outbound.addresses import Address, Network, unfit
from clavitor_host.outbound.lookup import Lookup

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?", re.ASCII)
"""Names that a resolver may take for an address in one of its old notations: 127.1, 0x7f.1, 0177.0.0.1, 2130706433."""


class Guard:
    """Says where requests may go: to public addresses, and to those in `allow`."""

    def __init__(self, lookup: Lookup, allow: Sequence[Network]) -> None:
        self._lookup = lookup
        self._allow = tuple(allow)

    async def check(self, url: str, *, within: float) -> None:
        """Refuse a URL that nothing may be sent to. Raises `UnusableURL` and its kinds, `within` so many seconds."""
        host = usable(url)
        try:
            async with asyncio.timeout(within):
                await self.addresses(host)
        except TimeoutError:
            raise Unresolvable(f"{host} could not be looked up within {within:g} seconds.") from None

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, every one of them checked. Raises `BlockedAddress`, `Unresolvable`."""
        literal = _address(host)
        if literal is not None:
            self._admit(literal, str(literal))
            return [str(literal)]
        if _NUMBER.fullmatch(host.lower()):
            raise BlockedAddress(f"{host} is an address in an unusual notation; write it as in 192.0.2.1.")
        try:
            found = [ip_address(text) for text in await self._lookup(host)]
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise Unresolvable(f"{host} has no address; check the name, or try again later.")
        for address in found:
            self._admit(address, f"{host} leads to {address}, which")
        return [str(address) for address in found]

    def _admit(self, address: Address, subject: str) -> None:
        what = unfit(address, self._allow)
        if what is not None:
            raise BlockedAddress(
                f"{subject} is {what}; requests go to public addresses only, and to networks that the operator allows."
            )


def usable(url: str | httpx.URL) -> str:
    """Return the host of a URL. Raises `UnusableURL` unless it is http or https with a host and nothing unusual."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UnusableURL(f"The URL cannot be read: {error}.") from None
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in ("http", "https"):
        raise UnusableURL("The URL must begin with http:// or https://.")
    if parsed.userinfo:
        raise UnusableURL("The URL must not have a user name or password.")
    if "#" in str(url):
        raise UnusableURL("The URL must not have a fragment (#).")
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise UnusableURL("The port must be a number from 1 to 65535.")
    if _address(host) is None and not _NAME.fullmatch(host):
        raise UnusableURL("The URL has no valid host name.")
    return host


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
