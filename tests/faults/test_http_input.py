"""Whatever a client sends: a 4xx or a closed connection, within bounds, and one answer for one request."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from clavitor_host.testing.process import ServerProcess

CONFIG = """
[limits]
header_timeout = 1.0
body_timeout = 0.6
body_bytes = 100000
batch_bytes = 200000
header_bytes = 8192
[login]
failures_per_address = 100000
failures_per_name = 10000
"""
PATIENCE = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("input") / "server", config=CONFIG) as server:
        assert server.token
        yield server
        assert server.status("/readyz") == 200
        server.terminate()
        assert server.process.returncode == 0
        assert " ERROR " not in server.log
        assert "Traceback" not in server.log


class Answer:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", raw)]

    @property
    def status(self) -> int:
        """The status of the only answer, 0 for none."""
        assert len(self.statuses) <= 1, self.raw
        return self.statuses[0] if self.statuses else 0

    @property
    def code(self) -> Any:
        return json.loads(self.raw.partition(b"\r\n\r\n")[2])["code"]


def say(server: ServerProcess, *parts: bytes, finish: bool = False) -> Answer:
    """Send parts, then read until the server closes the connection. `finish`: close our side first."""
    with socket.create_connection(server.address, timeout=PATIENCE) as sock:
        with suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
            if finish:
                sock.shutdown(socket.SHUT_WR)
        raw = b""
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                raw += data
    return Answer(raw)


def head(server: ServerProcess, method: str, path: str, *lines: str) -> bytes:
    auth = f"Authorization: {server.authorization['Authorization']}"
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", auth, *lines, "", ""]).encode("latin-1")


# --- bodies


@pytest.mark.parametrize(
    ("path", "method", "limit"), [("/api/entries/x", "PUT", 100_000), ("/api/entries/batch", "POST", 200_000)]
)
def test_a_content_length_over_the_limit_is_answered_from_the_headers(
    server: ServerProcess, path: str, method: str, limit: int
) -> None:
    answer = say(server, head(server, method, path, f"Content-Length: {limit + 1}"))
    assert answer.status == 413
    assert answer.code == "body_too_large"
    assert b"connection: close" in answer.raw.lower()


def test_a_chunked_body_over_the_limit(server: ServerProcess) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = say(server, head(server, "PUT", "/api/entries/x", "Transfer-Encoding: chunked"), chunk * 8)
    assert answer.status == 413


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_stalled_body(server: ServerProcess, framing: str) -> None:
    began = time.monotonic()
    answer = say(server, head(server, "PUT", "/api/entries/x", framing))
    assert answer.status == 408
    assert time.monotonic() - began < PATIENCE / 2


def test_a_stalled_head(server: ServerProcess) -> None:
    assert say(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").status == 408


# --- heads


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n", id="one header"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n",
            id="many headers",
        ),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="target"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"a" * 200_000, id="endless"),
    ],
)
def test_oversized_heads(server: ServerProcess, request_head: bytes) -> None:
    answer = say(server, request_head)
    assert answer.status == 431
    assert answer.code == "headers_too_large"


SECOND = b"GET /healthz HTTP/1.1\r\nHost: second\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: abc"], id="word"),
        pytest.param(["Content-Length: -1"], id="negative"),
        pytest.param(["Content-Length: +5"], id="plus"),
        pytest.param(["Content-Length: 0x5"], id="hex"),
        pytest.param(["Content-Length: 5 5"], id="two numbers"),
        pytest.param(["Content-Length: "], id="empty"),
        pytest.param(["Content-Length: " + "9" * 40], id="40 digits"),
        pytest.param(["Content-Length: \u00b2"], id="superscript two"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="twice"),
        pytest.param(["Content-Length: 5, 6"], id="list"),
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="CL.TE"),
        pytest.param(["Transfer-Encoding: chunked", "Content-Length: 5"], id="TE.CL"),
        pytest.param(["Transfer-Encoding: chunked, identity"], id="TE chunked, identity"),
        pytest.param(["Transfer-Encoding: gzip, chunked"], id="TE gzip, chunked"),
        pytest.param(["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], id="TE twice"),
        pytest.param(["Transfer-Encoding: xchunked"], id="xchunked"),
        pytest.param(["Transfer-Encoding : chunked"], id="space before the colon"),
        pytest.param(["Transfer-Encoding:\x0bchunked"], id="vertical tab"),
        pytest.param(["X-Folded: a\r\n Transfer-Encoding: chunked", "Content-Length : 5"], id="fold and space"),
        pytest.param(["X: a\nContent-Length: 5"], id="bare LF"),
        pytest.param(["X: a\rContent-Length: 5"], id="bare CR"),
        pytest.param(["X: a\x00b"], id="NUL"),
        pytest.param(["Bad Name: a"], id="space in a name"),
        pytest.param([": a"], id="no name"),
        pytest.param(["no colon"], id="no colon"),
        pytest.param(["Host: y"], id="Host twice"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_ambiguous_requests_get_one_refusal_and_no_second_answer(
    server: ServerProcess, method: str, lines: list[str]
) -> None:
    path = "/api/entries/smuggled" if method == "PUT" else "/api/v1/login"
    answer = say(server, head(server, method, path, *lines), b"0\r\n\r\n", SECOND)
    assert answer.status in (0, 400, 413, 501), answer.raw
    if answer.status:
        assert b"connection: close" in answer.raw.lower()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="negative"),
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="hex prefix"),
        pytest.param(b"5\r\nhelloXX0\r\n\r\n", id="no line end"),
        pytest.param(b"ffffffffffffffffff\r\n", id="huge"),
        pytest.param(b"zz\r\n", id="no number"),
        pytest.param(b"5_0\r\nhello\r\n", id="underscore"),
    ],
)
def test_bad_chunks(server: ServerProcess, body: bytes) -> None:
    answer = say(server, head(server, "PUT", "/api/entries/x", "Transfer-Encoding: chunked"), body, SECOND)
    assert answer.status in (0, 400, 408, 413), answer.raw


@pytest.mark.parametrize(
    "line",
    [
        b"GET /healthz\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"get\x00 /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health\x00z HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\x00",
    ],
)
def test_bad_request_lines(server: ServerProcess, line: bytes) -> None:
    answer = say(server, line, finish=True)
    assert answer.status in (0, 400, 505), answer.raw


# --- JSON


MALFORMED = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"{", id="cut short"),
    pytest.param(b'{"a": 1,}', id="trailing comma"),
    pytest.param(b"{'a': 1}", id="single quotes"),
    pytest.param(b'{"a": 1} x', id="more behind it"),
    pytest.param(b'{"a": 1, "a": 2}', id="twice the same key"),
    pytest.param(b'{"a": NaN}', id="NaN"),
    pytest.param(b'{"a": -Infinity}', id="Infinity"),
    pytest.param(b'{"a": 1e999}', id="1e999"),
    pytest.param(b'{"a": ' + b"1" * 5000 + b"}", id="5,000 digits"),
    pytest.param(b"[" * 40_000 + b"]" * 40_000, id="deep list"),
    pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="deep object"),
    pytest.param(b'{"a": "\xff\xfe"}', id="not UTF-8"),
    pytest.param(b'{"a": "\xc0\x80"}', id="overlong"),
    pytest.param(b'{"a": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
    pytest.param(b'{"a": "\\ud800"}', id="lone surrogate"),
    pytest.param(b'\xef\xbb\xbf{"a": 1}', id="BOM"),
    pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
    pytest.param(b'{"a": "\x01"}', id="control character"),
    pytest.param(b'"text"', id="text"),
    pytest.param(b"null", id="null"),
]
TAKES_JSON = [
    ("PUT", "/api/entries/x"),
    ("POST", "/api/entries"),
    ("POST", "/api/entries/batch"),
    ("POST", "/api/v1/admin/users"),
    ("POST", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/login"),
    ("PATCH", "/api/v1/me"),
]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.authorization, timeout=PATIENCE) as client:
        yield client


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_json_is_a_400_everywhere(client: httpx.Client, body: bytes) -> None:
    for method, path in TAKES_JSON:
        answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (method, path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in ("malformed_json", "invalid_field")


# --- everything else


NASTY = [
    *("", "x", "0", "-1", "9" * 30, "1e5", "true", "null", "*", '"1"', "%", "'", '"', "\\", "..", "../../etc/passwd"),
    *("a" * 128, "a" * 129, "a" * 3000, "é", "\u202e", "\U0001f600", "\x00", "a\x00b", "\x7f", "\r\nX-Injected: 1"),
    *("{}", "[]", "${7*7}", "{{7*7}}", "%s%n", "' OR 1=1 --", "<script>", "clv_user_x", "Bearer", "\ud800"),
]
RAW_PATHS = [
    "%00",
    "%c0%80",
    "%ed%a0%80",
    "%ff",
    "%",
    "%zz",
    "%2e%2e%2f",
    "%0d%0aX:1",
    "//",
    ";a=b",
    "?",
    "%F0%9F%98%80",
]


class Fuzzer:
    """Makes requests to every operation of the API, right in most places and wrong in some."""

    def __init__(self, document: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.operations = [
            (method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in ("get", "put", "post", "delete", "patch")
        ]
        self.names = sorted(set(re.findall(r'"([a-z_]{2,20})": ?\{', json.dumps(document.get("components", {})))))
        self.known = ["admin", "x", "y"]

    def value(self, depth: int = 0) -> Any:
        kind = self.random.randrange(9 if depth < 3 else 6)
        if kind < 2:
            return self.random.choice(NASTY)
        if kind == 2:
            return self.random.choice([0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**300, 1.5, -0.0])
        if kind == 3:
            return self.random.choice([True, False, None])
        if kind == 4:
            return self.random.choice(["AAAA", "user", "agent", "ADMIN", "read", "put", "delete", *self.known])
        if kind == 5:
            return self.random.choice(self.names)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return {self.random.choice(self.names): self.value(depth + 1) for _ in range(self.random.randrange(5))}

    def text(self) -> str:
        return self.random.choice(NASTY).encode("utf-8", "surrogatepass").decode("latin-1")

    def path(self, template: str) -> str:
        def fill(match: re.Match[str]) -> str:
            kind = self.random.randrange(3)
            if kind == 0:
                return self.random.choice(self.known)
            if kind == 1:
                return self.random.choice(RAW_PATHS)
            return quote(self.random.choice(NASTY).encode("utf-8", "surrogatepass"), safe="")

        path = re.sub(r"\{[^}]+\}", fill, template)
        return path if self.random.random() < 0.95 else path + self.random.choice(RAW_PATHS)

    def query(self, operation: Any) -> str:
        names = [p["name"] for p in operation.get("parameters", []) if p.get("in") == "query"] + ["q"]
        pairs = []
        for _ in range(self.random.choice((0, 0, 1, 2, 3))):
            raw = self.random.random() < 0.3
            nasty = self.random.choice(NASTY).encode("utf-8", "surrogatepass")
            pairs.append(f"{self.random.choice(names)}={self.random.choice(RAW_PATHS) if raw else quote(nasty)}")
        return "?" + "&".join(pairs) if pairs else ""

    def body(self, schemas: Any, operation: Any) -> bytes | None:
        content = operation.get("requestBody", {}).get("content", {})
        if not content or self.random.random() < 0.05:
            return None if self.random.random() < 0.7 else self.random.randbytes(20)
        reference = next(iter(content.values())).get("schema", {}).get("$ref", "")
        properties = schemas.get(reference.rpartition("/")[2], {}).get("properties", {})
        chosen = {name: self.value() for name in properties if self.random.random() < 0.8}
        if self.random.random() < 0.15:
            chosen[self.random.choice(self.names)] = self.value()
        whole = chosen if self.random.random() < 0.9 else self.value()
        data = json.dumps(whole, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        if self.random.random() < 0.05:
            spot = self.random.randrange(len(data))
            data = data[:spot] + self.random.randbytes(2) + data[spot:]
        return data

    def headers(self, token: str) -> dict[str, bytes]:
        authorization = token if self.random.random() < 0.85 else self.text()
        headers = {"Authorization": authorization.encode("latin-1"), "Content-Type": b"application/json"}
        for name in ("If-Match", "If-None-Match", "X-Request-Id", "Cookie", "X-CSRF-Token", "Content-Type", "Accept"):
            if self.random.random() < 0.1:
                headers[name] = self.text().encode("latin-1")
        # what is no header at all is for the raw tests above
        return {name: re.sub(rb"[\x00-\x1f\x7f]", b"?", value).strip() for name, value in headers.items()}


@pytest.mark.timeout(240)
def test_3000_random_requests_over_all_routes_never_get_a_5xx(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        document = client.get("/api/v1/openapi.json").json()
        fuzzer = Fuzzer(document, seed=20)
        schemas = document["components"]["schemas"]
        host, port = server.address
        seen: set[tuple[str, str]] = set()
        statuses: dict[int, int] = {}
        for number in range(3000):
            method, template, operation = fuzzer.random.choice(fuzzer.operations)
            if template == "/api/v1/admin/audit/export" and number % 10:
                continue  # it answers with everything there is
            target = (fuzzer.path(template) + fuzzer.query(operation)).encode()
            request = client.build_request(
                method,
                httpx.URL(scheme="http", host=host, port=port, raw_path=target),
                content=fuzzer.body(schemas, operation),
                headers=fuzzer.headers(server.authorization["Authorization"]),  # type: ignore[arg-type]
            )
            answer = client.send(request)
            seen.add((method, template))
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (number, method, target, request.content, request.headers, answer.text)
            assert b"Traceback" not in answer.content
            if answer.status_code >= 400 and template.startswith("/api/"):
                assert answer.headers["content-type"] == "application/problem+json", (method, target, answer.text)
    assert seen == {(method, path) for method, path, _ in fuzzer.operations}
    assert len(statuses) > 5, statuses
    assert " ERROR " not in server.log
    assert "Traceback" not in server.log
