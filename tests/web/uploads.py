"""`clavitor` with one more plugin: routes that take large bodies. python uploads.py serve …"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quart import Blueprint

from clavitor_host.api import Host, Plugin, Problem, Request, endpoint, hookimpl, log
from clavitor_host.plugins import frozen
from clavitor_host.plugins.models import FrozenPlugin

MIB = 1024 * 1024
LARGEST = 300 * MIB
SMALLEST = 100


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Uploads(Plugin):
    """Takes uploads piece by piece."""

    name = "uploads"
    version = "1.0.0"

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        routes = Blueprint("uploads", __name__)

        @routes.put("/api/v1/uploads/<name>")
        @endpoint(action=None, summary="Take a large body, slowly when told to.", max_body=lambda host: LARGEST)
        async def large(request: Request, name: str) -> dict[str, Any]:
            pause = request.query_int("pause", 0, low=0, high=1000) / 1000
            digest, size, pieces, before, peak = hashlib.sha256(), 0, 0, resident(), 0
            try:
                async for piece in request.stream():
                    digest.update(piece)
                    size, pieces, peak = size + len(piece), pieces + 1, max(peak, resident())
                    if pause:
                        await asyncio.sleep(pause)
            except Problem as error:
                log.warning(f"Upload {name} ended with {error.code} after {size} bytes")
                raise
            log.info(f"Upload {name} complete")
            return {"size": size, "sha256": digest.hexdigest(), "pieces": pieces, "grown": peak - before}

        @routes.post("/api/v1/uploads/<name>")
        @endpoint(action=None, summary="Take an ordinary body, whole and then in pieces.")
        async def ordinary(request: Request, name: str) -> dict[str, Any]:
            return {"size": len(await request.body()), "again": len(b"".join([p async for p in request.stream()]))}

        @routes.put("/api/v1/uploads/small")
        @endpoint(action=None, summary="Take a small body, whole.", max_body=SMALLEST)
        async def small(request: Request) -> dict[str, Any]:
            return {"size": len(await request.body())}

        @routes.put("/api/v1/uploads/<name>/refused")
        @endpoint(action=None, summary="Refuse without a look at the body.", max_body=LARGEST)
        async def refused(request: Request, name: str) -> dict[str, Any]:
            raise Problem(409, "refused", "This is not wanted.")

        @routes.put("/api/v1/uploads/<name>/late")
        @endpoint(action=None, summary="Take a body long after its head.", max_body=LARGEST)
        async def late(request: Request, name: str) -> dict[str, Any]:
            before = resident()
            await asyncio.sleep(1.0)
            grown = resident() - before
            return {"grown": grown, "size": sum([len(piece) async for piece in request.stream()])}

        @routes.put("/api/v1/uploads/<name>/framework")
        async def framework(name: str) -> dict[str, Any]:
            import quart

            return {"size": len(await quart.request.get_data())}

        return [routes]


if __name__ == "__main__":
    own = frozen.frozen_set
    added = FrozenPlugin("clavitor-uploads", Uploads)
    frozen.frozen_set = lambda root=None: replace(own(root), plugins=(*own(root).plugins, added))
    from clavitor_host.__main__ import main

    main()
