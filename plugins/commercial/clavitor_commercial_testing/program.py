"""`clavitor` as a commercial build would run it: `python -m clavitor_commercial_testing.program serve …`.

A checkout runs the community edition whatever it is told, so this program says in code what it is made of. Looks for
work of other processes, and retries, are quick here.
"""

from __future__ import annotations

from clavitor_commercial import lanes
from clavitor_commercial.plugin import plugin

from clavitor_host.__main__ import main
from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

BUNDLE = frozen.BundleInfo("clavitor-commercial", "commercial", (FrozenPlugin("clavitor-commercial", plugin),))

if __name__ == "__main__":
    frozen.frozen_set = lambda root=None: BUNDLE
    lanes.BACKOFF = (0.05, 0.2)
    main()
