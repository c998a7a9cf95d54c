"""A host that works on the database without serving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clavitor_host.errors import StartError

if TYPE_CHECKING:
    from clavitor_host.app import App
    from clavitor_host.config.models import HostConfig
    from clavitor_host.config.sources import Config
    from clavitor_host.plugins.frozen import BundleInfo


@asynccontextmanager
async def offline(config: Config, bundle: BundleInfo, *, create: bool) -> AsyncIterator[App]:
    """Give an app whose host is started; it may run beside a server on the same database.

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
        yield app
    finally:
        await app.stop()


def require_database(config: HostConfig) -> None:
    """Raise StartError when the SQLite file does not exist: most likely the wrong data folder was named."""
    if config.storage_url.startswith("sqlite:///"):
        file = Path(config.storage_url.removeprefix("sqlite:///"))
        try:
            there = file.exists()
        except PermissionError:
            raise StartError(f"the database {file} cannot be read: run this as the user that runs the server") from None
        if not there:
            raise StartError(f"there is no database at {file}: start the server once, or name its --data-dir")


def make_folder(config: HostConfig) -> None:
    """Make the data folder when it is missing, for its owner alone. Raises StartError."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the data folder {config.data_dir} cannot be made: {error.strerror}") from None
