"""A few words of HTTP with the server that this configuration describes: over TCP, TLS or its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

from clavitor_host.config.values import reachable_host

if TYPE_CHECKING:
    from clavitor_host.config.models import HostConfig

TIMEOUT = 10.0
"""Seconds the server may take to answer."""


class NoAnswer(Exception):
    """Nothing listens, or what listens does not speak HTTP; the message says which."""


def get(config: HostConfig, path: str, token: str | None = None) -> tuple[int, Any]:
    """Return status and parsed JSON body of `GET path`. Raises NoAnswer."""
    headers = {"Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = _connection(config)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, _parsed(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
    finally:
        connection.close()


def _connection(config: HostConfig) -> http.client.HTTPConnection:
    if config.unix_path is not None:
        return _UnixConnection(str(config.unix_path))
    host, port = config.host_and_port
    host = reachable_host(host)
    if not config.tls.enabled:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    context = ssl.create_default_context(cafile=str(config.tls.cert))
    context.check_hostname = False  # it must be the very certificate that is configured here
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
