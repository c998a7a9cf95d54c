"""`clavitor` with the fleet, as a process of its own: `ServerProcess(folder, program=PROGRAM, environ=ENVIRON)`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from clavitor_fleet.plugin import FleetPlugin

from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

PROGRAM = (sys.executable, "-m", "clavitor_fleet_testing.program")
ENVIRON = {"PYTHONPATH": str(Path(__file__).parents[1])}


def with_fleet(stock: frozen.BundleInfo) -> frozen.BundleInfo:
    """Return a bundle that has the fleet."""
    if any(one.distribution == "clavitor-fleet" for one in stock.plugins):
        return stock
    return replace(stock, plugins=(*stock.plugins, FrozenPlugin("clavitor-fleet", FleetPlugin)))


if __name__ == "__main__":
    own = frozen.frozen_set
    frozen.frozen_set = lambda root=None: with_fleet(own(root))
    from clavitor_host.__main__ import main

    main()
