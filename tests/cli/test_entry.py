"""`clavitor entry`: entries of a running server, and of a backup while it does not answer."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.cli.exit_codes import ExitCode
from tests.cli.conftest import free_port

BLOB = base64.b64encode(bytes(range(200))).decode()
NOBODY = "http://127.0.0.1:1"
READ_ONLY = {"code": "read_only", "detail": "Write operations not available on backup POP"}
AGE = {"X-Clavitor-As-Of": "2026-11-22T12:00:00.250000Z", "X-Clavitor-Lag": "3.210"}
ENTRY = {"entry_id": "one", "encrypted_data": BLOB, "rev": 7, "created_at": 1, "updated_at": 2_000_000}


@dataclass
class Stub:
    """A server that gives one answer to everything. `asked`: method, path and headers of each request."""

    url: str = ""
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def stub() -> Iterator[Stub]:
    told = Stub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            told.asked.append((self.command, self.path, dict(self.headers)))
            content = json.dumps(told.body).encode()
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def entry(clavitor: Any, tmp_path: Path) -> Any:
    """Run `clavitor entry` with a token that only a stub takes."""
    (tmp_path / "token").write_text("clv_user_x\n")

    def run(*arguments: str, **more: Any) -> Any:
        return clavitor("entry", *arguments, "--token-file", "token", **more)

    return run


def test_entries_of_a_running_server(serve: Any, clavitor: Any, tmp_path: Path) -> None:
    server = serve()
    clavitor("user", "create", "ada", "--role", "ADMIN", "--no-password")
    (tmp_path / "token").write_text(clavitor("token", "create", "--user", "ada").out)
    flags = ("--url", f"http://{server.bind}", "--token-file", "token")

    wrapped = "\n".join(BLOB[at : at + 76] for at in range(0, len(BLOB), 76))
    made = clavitor("entry", "put", "one", *flags, "--new", stdin=wrapped)
    assert (made.code, made.out, made.err) == (0, "Created entry one, rev 1.\n", "")
    got = clavitor("entry", "get", "one", *flags)
    assert (got.code, got.out, got.err) == (0, BLOB + "\n", "")

    taken = clavitor("entry", "put", "one", *flags, "--new", stdin=BLOB)
    assert (taken.code, taken.error()[:24]) == (ExitCode.FAILED, "412 precondition_failed:")
    (tmp_path / "data.b64").write_text("QUJD")
    put = ("entry", "put", "one", *flags, "--data-file", "data.b64", "--environment", "blue", "--if-rev")
    assert clavitor(*put, "9").code == ExitCode.FAILED
    written = clavitor(*put, "1", "--json").json
    assert (written["rev"], written["created"], written["environment_id"]) == (2, False, "blue")
    assert clavitor("entry", "put", "one", *flags, stdin="QUJE").out == "Replaced entry one, rev 3.\n"
    shown = clavitor("entry", "get", "one", *flags, "--json").json
    assert (shown["encrypted_data"], shown["environment_id"]) == ("QUJE", "blue")
    assert shown["origin"] == {"url": f"http://{server.bind}", "as_of": None, "lag": None}

    clavitor("entry", "put", "two", *flags, stdin="QUJD")
    lines = clavitor("entry", "list", *flags).out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["ID", "REV"], ["two", "4"], ["one", "3"]]
    listed = clavitor("entry", "list", *flags, "--json").json["entries"]
    assert [(one["entry_id"], one["environment_id"]) for one in listed] == [("two", None), ("one", "blue")]
    assert "encrypted_data" not in listed[0]

    assert clavitor("entry", "rm", "one", *flags, "--if-rev", "1").code == ExitCode.FAILED
    assert clavitor("entry", "rm", "one", *flags).out == "Deleted entry one, rev 5.\n"
    assert clavitor("entry", "rm", "two", *flags, "--json").json == {"entry_id": "two", "rev": 6, "deleted": True}
    gone = clavitor("entry", "get", "one", *flags)
    assert (gone.code, gone.out) == (ExitCode.FAILED, "")
    assert gone.error() == "404 entry_not_found: There is no entry with this id."
    refused = clavitor("entry", "put", "one", *flags, stdin="not base64!")
    assert (refused.code, refused.error()[:18]) == (ExitCode.FAILED, "400 invalid_field:")


def test_a_backup_answers_and_that_is_said(entry: Any, stub: Stub) -> None:
    stub.body, stub.headers = ENTRY, AGE
    got = entry("get", "one", "--url", NOBODY, "--url", stub.url)
    assert (got.code, got.out) == (0, BLOB + "\n")
    until = "2026-11-22T12:00:00Z, 3.2 s ago"
    assert got.err == f"{stub.url} answered, a backup: it has every write until {until}, maybe none after it.\n"
    shown = entry("get", "one", "--url", NOBODY, "--url", stub.url, "--min-rev", "5", "--json")
    assert shown.json["origin"] == {"url": stub.url, "as_of": "2026-11-22T12:00:00.250000+00:00", "lag": 3.21}
    assert stub.asked[-1][2]["X-Min-Rev"] == "5"
    stub.body = {"entries": [], "next_cursor": None}
    listed = entry("list", "--url", stub.url)
    assert listed.out == "ID\tREV\tUPDATED\tENVIRONMENT\n"
    assert listed.err.startswith(f"{stub.url} answered, a backup:")
    stub.body, stub.headers = ENTRY, {}
    other = entry("get", "one", "--url", NOBODY, "--url", stub.url)
    assert other.err == f"{stub.url} answered, since {NOBODY} did not.\n"


def test_an_entry_that_a_backup_has_not_got_is_no_proof_that_it_is_gone(entry: Any, stub: Stub) -> None:
    stub.status, stub.headers = 404, AGE
    stub.body = {"code": "entry_not_found", "detail": "There is no entry with this id."}
    note = (
        f"{stub.url} answered, a backup: it has every write until 2026-11-22T12:00:00Z, 3.2 s ago, maybe none after it."
    )
    for command in (("get", "one"), ("get", "one", "--json"), ("list",)):
        missing = entry(*command, "--url", NOBODY, "--url", stub.url)
        assert (missing.code, missing.out) == (ExitCode.FAILED, "")
        assert missing.err.splitlines() == [note, "error: 404 entry_not_found: There is no entry with this id."]
    stub.headers = {}
    assert entry("get", "one", "--url", stub.url).err.startswith("error: 404")
    stub.headers = {"X-Clavitor-As-Of": "yesterday"}
    assert entry("get", "one", "--url", stub.url).err.startswith("error: 404")


def test_a_write_at_a_backup_says_where_the_primary_is(entry: Any, stub: Stub) -> None:
    stub.status, stub.body, stub.headers = 503, READ_ONLY, {"X-Primary-Location": "https://calgary.test"}
    for command in (("put", "one"), ("rm", "one")):
        refused = entry(*command, "--url", stub.url, stdin=BLOB)
        assert (refused.code, refused.out) == (ExitCode.UNAVAILABLE, "")
        assert refused.error() == (
            f"{stub.url}: Write operations not available on backup POP; the primary is at https://calgary.test"
        )
    assert len(stub.asked) == 2


def test_a_write_whose_answer_is_lost_says_so(entry: Any, stub: Stub) -> None:
    stub.status, stub.body = 502, "Bad gateway"
    lost = entry("put", "one", "--url", stub.url, "--url", NOBODY, stdin=BLOB)
    assert lost.code == ExitCode.UNAVAILABLE
    assert "not known" in lost.error()
    assert len(stub.asked) == 1


def test_a_backup_that_is_behind_is_no_answer(entry: Any, stub: Stub) -> None:
    stub.status, stub.body = 412, {"code": "behind", "detail": "This POP has not got the write 9 yet."}
    behind = entry("get", "one", "--url", stub.url, "--min-rev", "9")
    assert (behind.code, behind.error()) == (
        ExitCode.UNAVAILABLE,
        f"{stub.url}: This POP has not got the write 9 yet.",
    )


def test_nobody_answers(entry: Any) -> None:
    away = entry("get", "one", "--url", NOBODY, "--url", f"http://127.0.0.1:{free_port()}", "--json")
    assert (away.code, away.out) == (ExitCode.UNAVAILABLE, "")
    assert away.error().startswith(f"{NOBODY}: The server was not reached: ConnectError")


def test_a_server_that_hangs_is_left_in_time(entry: Any, stub: Stub) -> None:
    import socket

    stub.body, stub.headers = ENTRY, AGE
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        got = entry("get", "one", "--url", url, "--url", stub.url, "--timeout", "0.5")
    assert (got.code, got.out) == (0, BLOB + "\n")


@pytest.mark.parametrize("url", ["vault.test", "ftp://vault.test", "http://", "http://a b", "http://[", "http://a:x"])
def test_a_wrong_url_is_a_usage_error(entry: Any, url: str) -> None:
    wrong = entry("get", "one", "--url", url)
    assert wrong.code == ExitCode.USAGE
    assert wrong.error() == f"--url: expected a URL such as https://vault.example.com, not {url}"


def test_what_does_not_go_together_is_a_usage_error(entry: Any, clavitor: Any, tmp_path: Path) -> None:
    both = entry("put", "one", "--url", NOBODY, "--new", "--if-rev", "1", stdin=BLOB)
    assert (both.code, both.error()) == (ExitCode.USAGE, "give --new or --if-rev, not both")
    stdin = clavitor("entry", "put", "one", "--url", NOBODY, "--token-file", "-", stdin="clv_user_x")
    assert stdin.code == ExitCode.USAGE
    assert "--data-file" in stdin.error()
    empty = entry("put", "one", "--url", NOBODY, stdin=" \n")
    assert (empty.code, empty.error()) == (ExitCode.USAGE, "--data-file: there is no data")
    (tmp_path / "empty").touch()
    nothing = clavitor("entry", "get", "one", "--url", NOBODY, "--token-file", "empty")
    assert (nothing.code, nothing.error()) == (ExitCode.USAGE, "--token-file: empty holds no token")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    raw = entry("put", "one", "--url", NOBODY, "--data-file", "binary")
    assert (raw.code, raw.error()) == (ExitCode.FAILED, "binary cannot be read: it is not text")
    missing = entry("put", "one", "--url", NOBODY, "--data-file", "nowhere")
    assert (missing.code, missing.error()) == (ExitCode.FAILED, "nowhere cannot be read: No such file or directory")
    foreign = entry("get", "one", "--url", NOBODY, "--ca-file", "empty")
    assert foreign.code == ExitCode.USAGE
    assert foreign.error().startswith("--ca-file: empty cannot be used")


def test_the_token_comes_from_standard_input_too_and_is_shown_nowhere(clavitor: Any, stub: Stub) -> None:
    stub.body = ENTRY
    got = clavitor("entry", "get", "one", "--url", f"{stub.url}/", "--token-file", "-", stdin="clv_user_secret\n")
    assert (got.code, got.err) == (0, "")
    assert stub.asked[0][2]["Authorization"] == "Bearer clv_user_secret"
    stub.status, stub.body = 401, {"code": "unauthorized", "detail": "No valid bearer token."}
    wrong = clavitor("entry", "get", "one", "--url", stub.url, "--token-file", "-", stdin="clv_user_secret\n")
    assert (wrong.code, wrong.error()) == (ExitCode.FAILED, "401 unauthorized: No valid bearer token.")
