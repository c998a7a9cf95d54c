"""A host that works on the database without serving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clavitor_host.errors import StartError

if TYPE_CHECKING:
    from clavitor_host.config.models import HostConfig
    from clavitor_host.config.sources import Config
    from clavitor_host.host import Host
    from clavitor_host.plugins.frozen import BundleInfo


@asynccontextmanager
async def offline(config: Config, bundle: BundleInfo, *, create: bool) -> AsyncIterator[Host]:
    """Give a started host; it may run beside a server on the same database.

    create: make the data folder and the database when they do not exist. Raises StartError.
    """
    from clavitor_host import log
    from clavitor_host.app import create_host

    chosen = "log.level" in config.origins
    log.setup(config.host.log.level.upper() if chosen else "WARNING", json_lines=config.host.log.format == "json")
    if not create:
        require_database(config.host)
    app = create_host(config, bundle)
    await app.start(offline=True)
    try:
        yield app.host
    finally:
        await app.stop()


def require_database(config: HostConfig) -> None:
    """Raise StartError when the SQLite file does not exist: most likely the wrong data folder was named."""
    if config.storage_url.startswith("sqlite:///"):
        file = Path(config.storage_url.removeprefix("sqlite:///"))
        if not file.exists():
            raise StartError(f"there is no database at {file}: start the server once, or name its --data-dir")
