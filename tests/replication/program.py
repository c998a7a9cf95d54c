"""`clavitor` with the plugins of the commercial bundle, from this checkout: a checkout itself runs community alone."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

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

    bundle = commercial()
    frozen.frozen_set = lambda root=None: bundle
    main()
