"""`clavitor` with one more plugin: an exclusive job that notes in a file when it begins and ends, and where."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clavitor_host.api import Host, Job, Plugin, every, hookimpl
from clavitor_host.cli.main import run
from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

VARIABLE = "TICKING_FILE"


class Ticking(Plugin):
    name = "ticking"
    version = "1.0.0"
    clavitor_api = ">=1.0,<2"

    @hookimpl
    def jobs(self, host: Host) -> Sequence[Job]:
        async def tick() -> None:
            note("begin")
            try:
                await asyncio.sleep(0.03)
            finally:
                note("end")

        return [every(0.02, tick, name="tick", first_after=0, exclusive=True)]


def note(what: str) -> None:
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


if __name__ == "__main__":
    community = frozen.frozen_set()
    bundle = replace(community, plugins=(*community.plugins, FrozenPlugin("ticking", Ticking, False)))
    frozen.frozen_set = lambda root=None: bundle
    sys.exit(run(sys.argv[1:]))
