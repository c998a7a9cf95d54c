"""URLs that users configure lead to public addresses, and to those that the operator allows (fleet.md).

No test leaves the machine: where a public address is dialled, nothing listens but what the test put there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from clavitor_host.api import BlockedAddress, ClavitorError, Problem, Unresolvable, UnusableURL
from clavitor_host.metrics import Metrics
from clavitor_host.outbound import Outbound
from clavitor_host.outbound.addresses import IPV4, IPV6, unfit
from clavitor_host.outbound.lookup import AT_ONCE, MOST_LATE
from tests.serve import certificates

LOOPBACK = [ip_network("127.0.0.0/8")]

BLOCKED = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "this network"),
    ("10.0.0.0", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.0", "shared"),
    ("100.100.100.200", "shared"),  # a cloud's metadata
    ("100.127.255.255", "shared"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.255", "loopback"),
    ("168.63.129.16", "cloud platform"),
    ("169.254.0.0", "link-local"),
    ("169.254.169.254", "link-local"),  # most clouds' metadata
    ("172.16.0.0", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.0", "reserved"),
    ("192.0.0.171", "reserved"),
    ("192.0.0.192", "reserved"),  # a cloud's metadata
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.0.0", "private"),
    ("192.168.255.255", "private"),
    ("198.18.0.0", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.0", "reserved"),
    ("255.255.255.254", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "IPv4-compatible"),
    ("::127.0.0.1", "IPv4-compatible"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:10.0.0.1", "IPv4-mapped"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "IPv4-translated"),
    ("64:ff9b::7f00:1", "NAT64"),
    ("64:ff9b::8.8.8.8", "NAT64"),
    ("64:ff9b:1::a00:1", "NAT64"),
    ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "NAT64"),
    ("64:ff9b:2::1", "not assigned"),
    ("100::", "discard"),
    ("100::ffff:ffff:ffff:ffff", "discard"),
    ("100:0:0:1::1", "dummy"),
    ("100:0:0:2::1", "not assigned"),
    ("1fff:ffff::1", "not assigned"),
    ("2001::1", "Teredo"),
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", "Teredo"),  # 127.0.0.1, obfuscated
    ("2001:1::1", "reserved"),
    ("2001:2::1", "benchmarking"),
    ("2001:10::1", "reserved"),
    ("2001:2f:ffff::1", "reserved"),
    ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
    ("2001:db8::1", "documentation"),
    ("2001:db8:ffff::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::1", "6to4"),
    ("3fff::1", "documentation"),
    ("3fff:fff:ffff::1", "documentation"),
    ("4000::1", "not assigned"),
    ("5f00::1", "segment routing"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),  # a cloud's metadata
    ("fdff:ffff::1", "private"),
    ("fe00::1", "not assigned"),
    ("fe80::1", "link-local"),
    ("febf:ffff::1", "link-local"),
    ("fec0::1", "site-local"),
    ("feff:ffff::1", "site-local"),
    ("ff00::", "multicast"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
    ("2a00:1450:4001:81b:0:5efe:7f00:1", "ISATAP"),
    ("2a00:1450:4001:81b:200:5efe:10.0.0.1", "ISATAP"),
    ("fe80::1%eth0", "zone"),
    ("2606:4700:4700::1111%2", "zone"),
]
PUBLIC = [
    *("1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("191.255.255.255", "192.0.1.0", "192.0.3.0", "192.31.196.1", "192.52.193.1", "192.88.98.255", "192.88.100.0"),
    *("192.167.255.255", "192.169.0.0", "192.175.48.1", "198.17.255.255", "198.20.0.0", "198.51.99.255"),
    *("198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2000::1", "2001:200::1", "2001:4860:4860::8888", "2001:db7:ffff::1", "2001:db9::1", "2003::1"),
    *("2606:4700:4700::1111", "2620:4f:8000::1", "2a00:1450:4001:81b::200e", "3ffe:ffff::1", "3fff:1000::1"),
    "2a00:1450:4001:81b:100:5efe:7f00:1",  # no ISATAP interface id
]


@pytest.mark.parametrize(("address", "what"), BLOCKED)
def test_addresses_that_are_not_public(address: str, what: str) -> None:
    assert what in (unfit(ip_address(address)) or "public")


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address: str) -> None:
    assert unfit(ip_address(address)) is None


def test_both_ends_of_every_registered_block_are_refused() -> None:
    for network, _ in (*IPV4, *IPV6):
        for address in (ip_network(network)[0], ip_network(network)[-1]):
            assert unfit(address)


def test_allowed_networks_are_allowed_and_nothing_beside_them() -> None:
    allow = [ip_network("10.1.0.0/16"), ip_network("fd00::/8"), ip_network("64:ff9b::/96")]
    for address in ("10.1.2.3", "fd00::1", "64:ff9b::a00:1"):
        assert unfit(ip_address(address), allow) is None
    for address in ("10.2.0.1", "fc00::1", "::ffff:10.1.2.3", "2002:a01:203::", "fd00::1%eth0"):
        assert unfit(ip_address(address), allow)


# --- URLs, when they are configured


class Names:
    """A resolver under the test's control: each lookup of a name takes the next of its answers, the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name not in self.answers:
            raise OSError("unknown name")
        given = self.answers[name]
        return given.pop(0) if len(given) > 1 else given[0]


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com/", "/path", "ftp://example.com/", "file:///etc/passwd", "gopher://h/"),
        *("javascript:alert(1)", "http://", "http:///path", "https://:443/", "http://user@example.com/"),
        *("http://user:secret@example.com/", "http://example.com/#part", "http://example.com/#", "http://h:0/"),
        *("http://h:65536/", "http://h:-1/", "http://h:port/", "http://h h/", "http://h%2e/", "http://a..b/"),
        *("http://.example.com/", f"http://{'a' * 64}.example/", f"http://{'a.' * 130}example/", "http://h\x00/"),
        *(
            "http://[::1/",
            "http://[::1%25lo]/",
            "http://[fe80::1%lo]/",
            "http://[v1.x]/",
            "http://\uff11\uff12\uff17.0.0.1/",
        ),
        *(
            "http://\u2460\u2461\u2466.0.0.1/",
            "http://h\r\nHost: x/",
            "http://127.0.0.1\\@example.com/",
            "http://*/",
            "http://h,i/",
        ),
    ],
)
async def test_unusual_urls_are_refused(url: str) -> None:
    names = Names(h=[["8.8.8.8"]], example_com=[["8.8.8.8"]])
    with pytest.raises(UnusableURL) as refused:
        await Outbound(Metrics(), names).check(url, [ip_network("::/0"), ip_network("0.0.0.0/0")])
    assert isinstance(refused.value, Problem)
    assert isinstance(refused.value, ClavitorError)
    assert refused.value.status == 422
    assert refused.value.code in ("unusable_url", "blocked_address")
    assert not names.asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "[::ffff:7f00:1]", "0.0.0.0", "localhost", "169.254.169.254", "[fd00:ec2::254]"),
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0", "0x0", "127.0.0.1.", "1.1.1.1.", "1.2.3.0x"),
        *("017700000001", "0X7F.1", "0177.1", "0x7f.0.0.1", "127.0.0.0x1", "4294967297"),
    ],
)
async def test_every_way_to_write_an_address_is_checked(host: str) -> None:
    outbound = Outbound(Metrics())  # with the system's resolver
    with pytest.raises(BlockedAddress) as refused:
        await outbound.check(f"http://{host}/")
    assert (refused.value.status, refused.value.code) == (422, "blocked_address")
    async with outbound.guarded() as client:
        with pytest.raises(BlockedAddress):
            await client.get(f"http://{host}/")


@pytest.mark.parametrize("host", ["0177.0.0.1", "0300.0250.0.1", "127.000.000.001", "256.256.256.256"])
async def test_four_numbers_that_are_no_address_are_no_url(host: str) -> None:
    outbound = Outbound(Metrics())
    with pytest.raises(UnusableURL):
        await outbound.check(f"http://{host}/")
    async with outbound.guarded(LOOPBACK) as client:
        with pytest.raises(httpx.InvalidURL):
            await client.get(f"http://{host}/")


async def test_a_refusal_says_why() -> None:
    outbound = Outbound(Metrics(), Names(hooks_example=[["10.0.0.5"]]))
    with pytest.raises(BlockedAddress, match=r"^127\.0\.0\.1 is a loopback address; requests go to public"):
        await outbound.check("https://127.0.0.1:8443/hook")
    with pytest.raises(BlockedAddress, match=r"^hooks\.example leads to 10\.0\.0\.5, which is a private address; "):
        await outbound.check("https://hooks.example/hook")
    with pytest.raises(Unresolvable, match=r"^other\.example has no address") as unknown:
        await outbound.check("https://other.example/hook")
    assert (unknown.value.status, unknown.value.code) == (422, "unresolvable")


async def test_one_bad_address_among_good_ones_is_enough() -> None:
    names = Names(a_example=[["8.8.8.8", "127.0.0.1"]], b_example=[["2606:4700::1", "fe80::1%2"]], c_example=[[]])
    outbound = Outbound(Metrics(), names)
    for url, error in (
        ("http://a.example/", BlockedAddress),
        ("http://b.example/", BlockedAddress),
        ("http://c.example/", Unresolvable),
    ):
        with pytest.raises(error):
            await outbound.check(url)
        async with outbound.guarded() as client:
            with pytest.raises(error):
                await client.get(url)


async def test_good_urls_are_taken() -> None:
    outbound = Outbound(Metrics(), Names(hooks_example=[["8.8.8.8", "2606:4700::1"]], h_=[["10.0.0.1"]]))
    for url in ("http://hooks.example", "HTTPS://Hooks.Example:8443/a/b?c=d@e", "http://1.1.1.1/", "http://[2606::1]/"):
        await outbound.check(url)
    await outbound.check("http://h./", [ip_network("10.0.0.0/8")])


# --- requests


class Listener:
    """A server on 127.0.0.1 that answers every request with `reply`, and keeps the heads it was sent."""

    def __init__(self, reply: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> None:
        self.reply = reply
        self.heads: list[str] = []
        self.connections = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                writer.write(self.reply)
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    found = Listener()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await asyncio.sleep(0)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections are opened to; one to a public address fails."""
    seen: list[str] = []
    connect = httpcore.AnyIOBackend.connect_tcp

    async def record(self: httpcore.AnyIOBackend, host: str, *rest: object) -> httpcore.AsyncNetworkStream:
        seen.append(host)
        if not ip_address(host).is_loopback:
            raise httpcore.ConnectError("no network here")
        return await connect(self, host, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", record)
    return seen


async def test_a_name_that_moves_after_its_check_gains_nothing(listener: Listener, dialled: list[str]) -> None:
    names = Names(moving_example=[["8.8.8.8"], ["8.8.4.4"], ["127.0.0.1"]])
    outbound = Outbound(Metrics(), names)
    url = f"http://moving.example:{listener.port}/"
    await outbound.check(url)  # 8.8.8.8
    async with outbound.guarded() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)  # looked up once more, and what was found then is dialled
        assert dialled == ["8.8.4.4"]
        assert len(names.asked) == 2
        with pytest.raises(BlockedAddress):
            await client.get(url)  # now it leads here
    assert dialled == ["8.8.4.4"]
    assert listener.connections == 0


async def test_a_redirect_is_an_answer(listener: Listener) -> None:
    names = Names(hooks_example=[["127.0.0.2"]])
    target = f"http://127.0.0.1:{listener.port}/inside"
    server = Listener(f"HTTP/1.1 307 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    other = await asyncio.start_server(server.answer, "127.0.0.2", 0)
    url = f"http://hooks.example:{other.sockets[0].getsockname()[1]}/"
    outbound = Outbound(Metrics(), names)
    async with outbound.guarded([ip_network("127.0.0.2/32")]) as client:
        for options in ({}, {"follow_redirects": True}):
            answer = await client.post(url, content=b"x", **options)  # type: ignore[arg-type]
            assert (answer.status_code, answer.headers["location"]) == (307, target)
    with pytest.raises(TypeError, match="follow_redirects"):
        outbound.guarded(follow_redirects=True)
    assert listener.connections == 0
    other.close()
    await asyncio.sleep(0)


async def test_the_name_stays_in_the_request_and_connections_are_kept(listener: Listener) -> None:
    names = Names(one_example=[["127.0.0.1"]], two_example=[["127.0.0.1"]])
    outbound = Outbound(Metrics(), names)
    async with outbound.guarded(LOOPBACK) as client:
        for name in ("one", "one", "two"):
            assert (await client.post(f"http://{name}.example:{listener.port}/hook")).status_code == 204
    assert [f"Host: one.example:{listener.port}\r\n" in head for head in listener.heads] == [True, True, False]
    assert listener.connections == 2  # one for each name, though both are at one address
    assert names.asked == ["one.example", "two.example"]


async def test_the_addresses_of_a_name_are_tried_in_turn_within_one_time_out(listener: Listener) -> None:
    names = Names(hooks_example=[["127.0.0.3", "127.0.0.1"]])  # nothing listens on the first
    async with Outbound(Metrics(), names).guarded(LOOPBACK) as client:
        assert (await client.get(f"http://hooks.example:{listener.port}/")).status_code == 204


async def test_connecting_takes_no_longer_than_its_time_out_whatever_the_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(self: object, host: str, port: int, seconds: float, *rest: object) -> None:
        await asyncio.sleep(seconds)
        raise httpcore.ConnectTimeout("nobody answers")

    async def slow(name: str) -> Sequence[str]:
        await asyncio.sleep(60)
        return ()

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", silent)
    names = Names(hooks_example=[[f"8.8.8.{number}" for number in range(200)]])
    for lookup in (names, slow):
        began = time.monotonic()
        async with Outbound(Metrics(), lookup).guarded(timeout=0.3) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("http://hooks.example/")
        assert 0.25 < time.monotonic() - began < 1.5


async def test_what_could_lead_around_the_guard_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    outbound = Outbound(Metrics(), Names(hooks_example=[["8.8.8.8"]]))
    dangerous: list[dict[str, Any]] = [{"transport": None}, {"mounts": {}}, {"proxy": "http://127.0.0.1:1"}]
    for options in dangerous:
        with pytest.raises(TypeError, match="a guarded client takes no "):
            outbound.guarded((), **options)
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with outbound.guarded(trust_env=True) as client:
        with pytest.raises(BlockedAddress):
            await client.get("http://127.0.0.1/")
        with pytest.raises(UnusableURL):
            await client.get("http://user:secret@hooks.example/")


async def test_requests_are_counted_by_outcome_and_not_by_the_hosts_of_users(listener: Listener) -> None:
    metrics = Metrics()
    async with Outbound(metrics).guarded(LOOPBACK) as client:
        await client.get(f"http://127.0.0.1:{listener.port}/")
        with pytest.raises(BlockedAddress):
            await client.get("http://10.0.0.1/")
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:1/")
    text = (await metrics.render()).decode()
    for outcome in ("2xx", "blocked", "error"):
        assert f'clavitor_outbound_requests_total{{host="guarded",outcome="{outcome}"}} 1.0' in text
    assert 'host="127.0.0.1"' not in text


async def test_certificates_are_checked_by_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = certificates.make(tmp_path, "ca")
    pair = certificates.make(tmp_path, "server", authority)  # for localhost
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    server = Listener()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    names = Names(localhost=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
    async with Outbound(Metrics(), names).guarded(LOOPBACK) as client:
        assert (await client.get(f"https://localhost:{port}/")).status_code == 204
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            await client.get(f"https://other.example:{port}/")
    assert asked_for == ["localhost", "other.example"]
    assert len(server.heads) == 1
    listening.close()
    await asyncio.sleep(0)


async def test_names_are_looked_up_beside_the_loop_and_not_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, all_run = threading.Event(), asyncio.Event()
    running: list[str] = []
    loop = asyncio.get_running_loop()

    def stuck(name: str, *rest: object, **options: object) -> list[object]:
        running.append(name)
        if len(running) == AT_ONCE:
            loop.call_soon_threadsafe(all_run.set)
        let_go.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    outbound = Outbound(Metrics())
    checks = [asyncio.create_task(outbound.check(f"http://n{number}.example/")) for number in range(20)]
    await asyncio.wait_for(all_run.wait(), 10)
    checks[0].cancel()  # its lookup goes on, and is still counted
    await asyncio.sleep(0.05)
    assert len(running) == AT_ONCE
    let_go.set()
    await asyncio.gather(*checks[1:])
    assert len(running) == 20


class Resolver:
    """The system's: it answers at once, but for names with `hole` in them, which take until `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        self.stuck = False
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, name: str, *rest: object, **options: object) -> list[object]:
        self.asked.append(name)
        if self.stuck and "hole" in name:
            self.let_go.wait(30)
            raise OSError("no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0))]

    async def all_asked(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.asked) < number:  # noqa: ASYNC110 - threads ask
                await asyncio.sleep(0.01)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.let_go.set()


async def test_names_that_the_resolver_does_not_answer_hold_up_no_name_that_it_does(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clavitor_host.outbound.lookup.LATE", 0.05)
    outbound = Outbound(Metrics())
    holes = [f"http://hole{number}.example/" for number in range(MOST_LATE + 5 * AT_ONCE)]
    known = [*holes[: 2 * AT_ONCE], "http://good.example/"]
    await asyncio.gather(*(outbound.check(url) for url in known))
    resolver.stuck = True
    checks = [asyncio.create_task(outbound.check(url)) for url in holes]
    await resolver.all_asked(len(known) + MOST_LATE + AT_ONCE)
    async with asyncio.timeout(5):
        for _ in range(3):
            await outbound.check("http://good.example/")
    assert len(resolver.asked) <= len(known) + len(known) - 1 + MOST_LATE + AT_ONCE + 3  # threads are bounded
    resolver.let_go.set()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert {type(result) for result in results} == {Unresolvable}
    await outbound.check("http://another.example/")


async def test_a_name_is_looked_up_once_for_all_who_want_it_at_a_time(resolver: Resolver) -> None:
    outbound = Outbound(Metrics())
    resolver.stuck = True
    checks = [asyncio.create_task(outbound.check("http://hole.example/")) for _ in range(30)]
    await resolver.all_asked(1)
    checks[0].cancel()
    await asyncio.sleep(0.05)
    resolver.let_go.set()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, *[Unresolvable] * 29]
    assert resolver.asked == ["hole.example"]
    resolver.stuck = False
    await outbound.check("http://hole.example/")
    assert len(resolver.asked) == 2


async def test_a_lookup_that_has_no_place_yet_and_that_nobody_waits_for_is_left_out(resolver: Resolver) -> None:
    outbound = Outbound(Metrics())
    resolver.stuck = True
    checks = [asyncio.create_task(outbound.check(f"http://hole{number}.example/")) for number in range(AT_ONCE + 1)]
    await resolver.all_asked(AT_ONCE)
    checks[-1].cancel()
    resolver.let_go.set()
    await asyncio.gather(*checks, return_exceptions=True)
    await outbound.check("http://good.example/")
    assert f"hole{AT_ONCE}.example" not in resolver.asked
