"""`clavitor` with the plugins of the commercial bundle, from this checkout: a checkout itself runs community alone.

`TEST_LEASE_TTL`: seconds after which the lease of a killed process is free, in place of 30.
"""

from __future__ import annotations

import os
import tomllib
from importlib import import_module
from pathlib import Path

from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

LEASE_TTL = "TEST_LEASE_TTL"
_MANIFEST = Path(__file__).resolve().parents[2] / "bundles" / "commercial.toml"


def commercial() -> frozen.BundleInfo:
    """Return what the manifest of the commercial bundle names, in its order."""
    with _MANIFEST.open("rb") as file:
        manifest = tomllib.load(file)
    plugins = tuple(
        FrozenPlugin(name, import_module(f"{name.replace('-', '_')}.plugin").plugin) for name in manifest["plugins"]
    )
    return frozen.BundleInfo(manifest["bundle"]["name"], manifest["bundle"]["edition"], plugins)


if __name__ == "__main__":
    from clavitor_host.__main__ import main
    from clavitor_host.storage.leases import LeaseKeeper

    bundle = commercial()
    frozen.frozen_set = lambda root=None: bundle
    if LEASE_TTL in os.environ:
        defaults = LeaseKeeper.__init__.__kwdefaults__
        assert defaults is not None and defaults["ttl"] == 30.0
        defaults["ttl"] = float(os.environ[LEASE_TTL])
    main()
