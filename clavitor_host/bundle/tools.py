"""What building and locking need around them: the right Python, and the extra `bundle`."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.manifest import PYTHON

_NEEDED = {"pip": "pip", "hatchling": "hatchling", "packaging": "packaging", "cyclonedx": "cyclonedx-python-lib"}


def check_tools() -> None:
    """Refuse another Python than the one a bundle is for, and a missing tool. Raises BundleError."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.implementation.name != "cpython" or found.split()[1].rpartition(".")[0] != PYTHON:
        raise BundleError(f"bundles are locked and built with CPython {PYTHON}, this is {found}")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BundleError(f"bundles are locked and built on linux x86_64, this is {sys.platform} {platform.machine()}")
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise BundleError(f"{', '.join(missing)} is not installed: install clavitor-host[bundle]")
