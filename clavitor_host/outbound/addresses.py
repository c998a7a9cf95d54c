"""Which addresses are public, from the registries themselves.

Sources, as of 2025: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), the IPv4 and IPv6
multicast registries, and RFC 4291 section 2.4: IPv6 unicast is assigned from 2000::/3 only. `ipaddress.is_global` is
no help: it takes several forms that carry an IPv4 address, 224.0.0.1 and fec0::1 for global. Forms that carry an IPv4
address are refused whatever it is: where they lead depends on the network, not on what they seem to name.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

IPV4 = (
    ("0.0.0.0/32", "the unspecified address"),  # RFC 1122 section 3.2.1.3
    ("0.0.0.0/8", "an address of this network"),  # RFC 791 section 3.2
    ("10.0.0.0/8", "a private address"),  # RFC 1918
    ("100.64.0.0/10", "a shared (carrier-grade NAT) address"),  # RFC 6598
    ("127.0.0.0/8", "a loopback address"),  # RFC 1122 section 3.2.1.3
    ("168.63.129.16/32", "an address of the cloud platform"),  # Azure's own services for the machine that asks
    ("169.254.0.0/16", "a link-local address"),  # RFC 3927; also where clouds keep credentials
    ("172.16.0.0/12", "a private address"),  # RFC 1918
    ("192.0.0.0/24", "a reserved address"),  # RFC 6890: protocol assignments, NAT64 discovery, DS-Lite
    ("192.0.2.0/24", "a documentation address"),  # RFC 5737
    ("192.88.99.0/24", "a 6to4 relay address"),  # RFC 7526
    ("192.168.0.0/16", "a private address"),  # RFC 1918
    ("198.18.0.0/15", "a benchmarking address"),  # RFC 2544
    ("198.51.100.0/24", "a documentation address"),  # RFC 5737
    ("203.0.113.0/24", "a documentation address"),  # RFC 5737
    ("224.0.0.0/4", "a multicast address"),  # RFC 5771
    ("255.255.255.255/32", "the broadcast address"),  # RFC 919
    ("240.0.0.0/4", "a reserved address"),  # RFC 1112 section 4
)

IPV6 = (
    ("::/128", "the unspecified address"),  # RFC 4291 section 2.5.2
    ("::1/128", "a loopback address"),  # RFC 4291 section 2.5.3
    ("::ffff:0:0/96", "an IPv4-mapped address"),  # RFC 4291 section 2.5.5.2
    ("::ffff:0:0:0/96", "an IPv4-translated address"),  # RFC 2765 section 2.1
    ("::/96", "an IPv4-compatible address"),  # RFC 4291 section 2.5.5.1
    ("64:ff9b::/96", "a NAT64 address"),  # RFC 6052
    ("64:ff9b:1::/48", "a NAT64 address"),  # RFC 8215
    ("100::/64", "a discard-only address"),  # RFC 6666
    ("100:0:0:1::/64", "a dummy address"),  # RFC 9780
    ("2001::/32", "a Teredo address"),  # RFC 4380
    ("2001:2::/48", "a benchmarking address"),  # RFC 5180
    ("2001:db8::/32", "a documentation address"),  # RFC 3849
    ("2001::/23", "a reserved address"),  # RFC 2928: protocol assignments, ORCHID (RFC 4843, RFC 7343)
    ("2002::/16", "a 6to4 address"),  # RFC 3056
    ("3fff::/20", "a documentation address"),  # RFC 9637
    ("5f00::/16", "a segment routing address"),  # RFC 9602
    ("fc00::/7", "a private (unique local) address"),  # RFC 4193
    ("fe80::/10", "a link-local address"),  # RFC 4291 section 2.5.6
    ("fec0::/10", "a site-local address"),  # RFC 3879
    ("ff00::/8", "a multicast address"),  # RFC 4291 section 2.7
)
"""The first entry that holds an address says what it is."""

_UNICAST = IPv6Network("2000::/3")
_ISATAP_MASK, _ISATAP = 0xFDFFFFFF, 0x00005EFE
"""The upper half of an ISATAP interface id, whose lower half is an IPv4 address (RFC 5214 section 6.1)."""

_TABLE = tuple((ip_network(network), what) for network, what in (*IPV4, *IPV6))


def unfit(address: Address, allow: Sequence[Network] = ()) -> str | None:
    """Return what `address` is, such as "a loopback address", when nothing may be sent to it; None when it may.

    It may when it is public or in a network of `allow`. An address with a zone id never may.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "an address with a zone id"
    if any(address in network for network in allow):
        return None
    for network, what in _TABLE:
        if address in network:
            return what
    if isinstance(address, IPv6Address):
        if address not in _UNICAST:
            return "an address that is not assigned"
        if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
            return "an ISATAP address"
    return None
