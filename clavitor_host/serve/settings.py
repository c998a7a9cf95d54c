"""Every bound of the serving layer in one place. The configuration is mapped to this once, at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

KIB = 1024
MIB = 1024 * KIB


class TlsSettings(NamedTuple):
    """Files of the TLS endpoint, all PEM.

    `certificate`: the server's certificate, followed by its intermediates. `key`: its private key, not encrypted.
    `client_ca`: who may sign client certificates; `client_certificates` says whether one must be shown.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificates: Literal["none", "optional", "required"] = "none"


class ServeSettings(NamedTuple):
    """Bounds of one serving process. Times are seconds, sizes are bytes."""

    tls: TlsSettings | None = None
    """TLS on every TCP socket; None: plain text. A unix socket is always plain text."""

    http2: bool = True
    """Offer HTTP/2 by ALPN on TLS connections."""

    h2c: bool = False
    """Accept HTTP/2 with prior knowledge (RFC 9113 section 3.3) on plain-text connections."""

    graceful: float = 0.6
    """How long requests in flight may go on after SIGTERM before they are cancelled."""

    startup_timeout: float = 600.0
    """How long the application's start (migrations included) may take."""

    shutdown_timeout: float = 10.0
    """How long the application's own shutdown may take after the last request."""

    max_connections: int = 1000
    """Open connections of this process; the next one gets 503 and is closed."""

    retry_after: int = 1
    """`Retry-After` of that 503, in seconds."""

    tls_handshake_timeout: float = 10.0
    """From accept to the end of the TLS handshake."""

    header_timeout: float = 10.0
    """From accept, or from the first byte of a later request, to the end of the request head."""

    idle_timeout: float = 60.0
    """How long a connection may stay open between two requests."""

    send_timeout: float = 30.0
    """How long a client may take to read what fills its send buffer (64 KiB) before it is cut off."""

    half_close_grace: float = 1.0
    """How long requests in flight may go on after the client has shut down its sending side."""

    drain_timeout: float = 2.0
    """After an answer that came before the end of its request: how long the rest is read and thrown away."""

    drain_bytes: int = MIB
    """The same, in bytes: what is read and thrown away at most."""

    max_header_size: int = 16 * KIB
    """Request line and headers together; above it 431 (HTTP/2: the connection is closed)."""

    max_header_count: int = 100
    """Header lines of a request; above it 431."""

    keep_alive_max_requests: int = 10_000_000
    """Requests on one connection before it is closed."""

    h2_max_concurrent_streams: int = 100
    """Open requests on one HTTP/2 connection."""

    h2_max_resets: int = 200
    """Requests that an HTTP/2 client may reset beyond those it let finish, before it is cut off (CVE-2023-44487)."""

    receive_buffer: int = 64 * KIB
    """Body bytes held for a handler that has not asked for them yet; the client waits after that."""

    body_timeout: float = 10.0
    """How long a request body may stall between two pieces before it is answered 408."""

    body_min_rate: int = KIB
    """Bytes a second that a request body must reach over its whole time, after the first `body_timeout`."""

    backlog: int = 1024
    """Connections the kernel queues before they are accepted."""

    proxy_trusted: tuple[str, ...] = ()
    """Proxies whose forwarding headers are believed: addresses, CIDR networks, or `unix` for unix sockets."""

    proxy_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The one kind of header that the trusted proxies set. The other kind is never read: a client may have sent it."""
