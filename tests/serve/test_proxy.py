"""Who a request comes from, behind proxies and without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.errors import ConfigError
from clavitor_host.serve.proxy import HeaderKind, parse_ip, trust_proxies
from tests.serve.running import Program

TRUSTED = ("10.0.0.0/8", "2001:db8::/32")
Seen = tuple[tuple[str, int] | None, str]


async def seen(
    *headers: tuple[str, str],
    peer: str | None = "10.0.0.1",
    trusted: Sequence[str] = TRUSTED,
    header: HeaderKind = "x-forwarded-for",
) -> Seen:
    result: list[Seen] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        result.append((scope["client"], scope["scheme"]))

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "client": (peer, 5000) if peer else None, "scheme": "http", "headers": raw}

    async def nothing(*args: Any) -> None: ...

    await trust_proxies(app, trusted, header)(scope, nothing, nothing)
    return result[0]


async def test_headers_from_an_untrusted_peer_are_ignored() -> None:
    headers = (("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"))
    assert await seen(*headers, peer="192.0.2.1") == (("192.0.2.1", 5000), "http")
    assert await seen(*headers, peer=None) == (None, "http")


async def test_a_trusted_proxy_is_believed() -> None:
    headers = (("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"))
    assert await seen(*headers) == (("1.2.3.4", 0), "https")


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the client sent the first itself
        ("6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.2.2.2, 10.3.3.3", "10.2.2.2"),
        ("6.6.6.6, nonsense", "10.0.0.1"),
        ("6.6.6.6, nonsense, 10.3.3.3", "10.3.3.3"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("[2001:db9::7]:443", "2001:db9::7"),
        ("2001:db9::7", "2001:db9::7"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, ::ffff:10.3.3.3", "6.6.6.6"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
    ],
)
async def test_the_rightmost_untrusted_address_wins(value: str, client: str) -> None:
    found, _ = await seen(("x-forwarded-for", value))
    assert found is not None
    assert found[0] == client


async def test_header_lines_are_joined_in_order() -> None:
    client, _ = await seen(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4"))
    assert client == ("1.2.3.4", 0)


async def test_the_scheme_is_what_the_nearest_proxies_saw() -> None:
    assert (await seen(("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https, http")))[1] == "http"
    two = ("x-forwarded-for", "1.2.3.4, 10.2.2.2")
    assert (await seen(two, ("x-forwarded-proto", "https, http")))[1] == "https"
    assert (await seen(two, ("x-forwarded-proto", "https")))[1] == "https"
    assert (await seen(("x-forwarded-proto", "https")))[1] == "https"
    assert (await seen(("x-forwarded-proto", "javascript")))[1] == "http"


async def test_the_other_header_is_never_read() -> None:
    assert await seen(("forwarded", "for=6.6.6.6;proto=https")) == (("10.0.0.1", 5000), "http")
    both = (("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"))
    assert await seen(*both, header="forwarded") == (("1.2.3.4", 0), "http")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4;proto=https", (("1.2.3.4", 0), "https")),
        ('For="[2001:db9::7]:47";Proto=HTTPS', (("2001:db9::7", 0), "https")),
        ("for=6.6.6.6, for=1.2.3.4;proto=https", (("1.2.3.4", 0), "https")),
        ("for=1.2.3.4;proto=https, for=10.2.2.2;proto=http", (("1.2.3.4", 0), "https")),
        ('for="6.6.6.6, for=7.7.7.7", for=1.2.3.4', (("1.2.3.4", 0), "http")),
        ("for=6.6.6.6, for=unknown", (("10.0.0.1", 5000), "http")),
        ("for=6.6.6.6, for=_hidden", (("10.0.0.1", 5000), "http")),
        ('for="6.6.6.6', (("10.0.0.1", 5000), "http")),
        ("for=6.6.6.6, %%%", (("10.0.0.1", 5000), "http")),
    ],
)
async def test_forwarded(value: str, expected: Seen) -> None:
    assert await seen(("forwarded", value), header="forwarded") == expected


async def test_a_unix_socket_is_trusted_by_name() -> None:
    assert await seen(("x-forwarded-for", "1.2.3.4"), peer=None, trusted=["unix"]) == (("1.2.3.4", 0), "http")
    assert (await seen(("x-forwarded-for", "1.2.3.4"), trusted=["unix"]))[0] == ("10.0.0.1", 5000)


def test_without_trusted_proxies_nothing_stands_between() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    assert trust_proxies(app, ()) is app


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", ""])
def test_an_entry_that_is_no_network_is_named(entry: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigError, match="proxies: "):
        trust_proxies(app, [entry])


@pytest.mark.parametrize("text", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "1.2.3.4.5", "[::1"])
def test_other_spellings_of_addresses_are_none(text: str) -> None:
    assert parse_ip(text) is None or text == "[::1"


def test_over_a_unix_socket(start: Callable[..., Program], tmp_path: Path) -> None:
    program = start(bind=[f"unix:{tmp_path / 's'}"], settings={"proxy_trusted": ["unix"]})
    with program.connect() as client:
        scope = client.get("/scope", "x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https").json()
    assert scope["client"] == ["1.2.3.4", 0]
    assert scope["scheme"] == "https"
