"""`clavitor` with this plugin and an edition of its own, for the tests and the benchmark to run."""

from __future__ import annotations

from typing import Literal

from clavitor_commercial_tarpit.plugin import Tarpit

from clavitor_host.api import Plugin, hookimpl
from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin


class Edition(Plugin):
    """The least an edition must be."""

    name = "edition"
    version = "1.0.0"

    @hookimpl
    def edition_name(self) -> Literal["commercial"]:
        return "commercial"


BUNDLE = frozen.BundleInfo(
    "tarpit-tests", "commercial", (FrozenPlugin("edition", Edition), FrozenPlugin("clavitor-commercial-tarpit", Tarpit))
)

if __name__ == "__main__":
    frozen.frozen_set = lambda root=None: BUNDLE
    from clavitor_host.__main__ import main

    main()
