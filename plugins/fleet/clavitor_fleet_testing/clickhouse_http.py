"""The HTTP side of ClickHouse, as far as `clickhouse_connect` needs it, in front of an embedded ClickHouse (chdb).

Started as `python -m clavitor_fleet_testing.clickhouse_http FOLDER PORT [CERTIFICATE]`.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
import sys
import tempfile
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from clavitor_fleet_testing.clickhouse import PASSWORD

TRANSPORT = {"query", "database", "query_id", "wait_end_of_query", "session_id", "client_protocol_version", "compress"}
TRANSPORT |= {"enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"}
INSERT = re.compile(rb"^(INSERT INTO \S+ \([^)]*\)) (FORMAT \w+)\n")


class Engine:
    """The embedded ClickHouse, one statement at a time."""

    def __init__(self, folder: str) -> None:
        import chdb

        self._connection: Any = chdb.connect(folder)
        self._lock = threading.Lock()

    def run(self, sql: bytes, values: dict[str, str]) -> bytes:
        """Return what a statement answers. values: those of the URL and of the form."""
        params = {name.removeprefix("param_"): value for name, value in values.items() if name.startswith("param_")}
        settings = {name: value for name, value in values.items() if name not in TRANSPORT and name[:6] != "param_"}
        with self._lock:
            self._connection.query(f"USE {values.get('database', 'default')}")
            insert = INSERT.match(sql)
            if insert is None:
                return self._with_settings(settings, lambda: self._text(sql, params))
            with tempfile.NamedTemporaryFile(suffix=".native") as file:
                file.write(sql[insert.end() :])
                file.flush()
                clause = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
                head, shape = insert[1].decode(), insert[2].decode()
                self._connection.query(f"{head} FROM INFILE '{file.name}' SETTINGS {clause} {shape}")
                return b""

    def _text(self, sql: bytes, params: dict[str, str]) -> bytes:
        return bytes(self._connection.query(sql.decode(), "TabSeparated", params=params).bytes())

    def _with_settings(self, settings: dict[str, str], work: Any) -> bytes:
        for name, value in settings.items():
            self._connection.query(f"SET {name} = '{value}'")
        try:
            answer: bytes = work()
            return answer
        finally:
            for name in settings:
                self._connection.query(f"SET {name} = DEFAULT")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_POST(self) -> None:
        values = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        if "multipart/form-data" in self.headers.get("Content-Type", ""):
            values |= _form(self.headers["Content-Type"], body)
            body = b""
        sql = values.get("query", "").encode() + body
        expected = base64.b64encode(f"agent:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self._answer(403, b"Code: 516. DB::Exception: agent: Authentication failed. (AUTHENTICATION_FAILED)", "516")
            return
        try:
            answer = self.engine.run(sql, values)
        except Exception as error:  # noqa: BLE001 - whatever ClickHouse says
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(
                404 if code and code[1] in ("60", "81") else 500, str(error).encode(), code[1] if code else "0"
            )
            return
        if INSERT.match(sql) and os.environ.get("DIE_AFTER_INSERT"):
            os._exit(1)
        self._answer(200, answer)

    do_GET = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers.get("Content-Encoding") == "lz4":
            import lz4.frame  # type: ignore[import-not-found, import-untyped, unused-ignore]

            return bytes(lz4.frame.decompress(body))
        return body

    def _answer(self, status: int, body: bytes, code: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _form(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        found[str(name)] = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
    return found


if __name__ == "__main__":
    Handler.engine = Engine(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    for certificate in sys.argv[3:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
