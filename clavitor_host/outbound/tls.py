"""How clients check TLS servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


def tls_context() -> ssl.SSLContext:
    """Return a new client context: TLS 1.2 or newer; host names and certificates are checked.

    Trusted are the authorities in `SSL_CERT_FILE` and `SSL_CERT_DIR` when either is set: then whoever runs the server
    has chosen. Otherwise those of the system, and Mozilla's list for a system without any. The list is read as data,
    not as a file: in a bundle it is a member of the archive.
    """
    import ssl

    context = ssl.create_default_context()  # the system's store, or what the two variables name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        import certifi

        context.load_verify_locations(cadata=certifi.contents())
    return context
