"""What goes wrong with bundles."""

from __future__ import annotations

from clavitor_host.errors import ClavitorError


class BundleError(ClavitorError):
    """A manifest, lock or artifact that cannot be used; the message is one line that names the thing."""
