"""`clavitor doctor`: is this installation well?"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import typer

from clavitor_host.cli.exit_codes import ExitCode
from clavitor_host.cli.invocation import Invocation
from clavitor_host.cli.output import table
from clavitor_host.errors import ClavitorError, ConfigError
from clavitor_host.terminal import write_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clavitor_host.config.models import HostConfig
    from clavitor_host.host import Host

app = typer.Typer()

Finding = tuple[str, str | None]
"""What was checked, and one sentence saying what is wrong, None when all is well."""

CHECK_TIMEOUT = 10.0
"""Seconds one health check may take."""


@app.command()
async def doctor(call: Invocation) -> None:
    """Check configuration, data folder, database, plugins and audit chain.

    Exits with 5 when something is wrong.
    """
    findings = [finding async for finding in _examine(call)]
    well = all(wrong is None for _, wrong in findings)
    if call.json:
        write_json(
            {"ok": well, "checks": [{"name": name, "ok": not wrong, "problem": wrong} for name, wrong in findings]}
        )
    else:
        table(("CHECK", "STATE"), [(name, wrong or "ok") for name, wrong in findings])
    if not well:
        raise typer.Exit(ExitCode.UNHEALTHY)


async def _examine(call: Invocation) -> AsyncIterator[Finding]:
    try:
        config = call.config.host
    except ConfigError as error:
        yield "configuration", str(error)
        return
    yield "configuration", None
    yield "data folder", _folder_problem(config)
    try:
        async with call.offline() as host:
            yield "database", None
            async for finding in _examine_host(host):
                yield finding
    except ClavitorError as error:
        yield "database", str(error)


async def _examine_host(host: Host) -> AsyncIterator[Finding]:
    for record in host.plugins:
        yield f"plugin {record.name}", record.last_error if record.quarantined else None
    for check in host.health_checks:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                yield f"health: {check.name}", await check.check()
        except TimeoutError:
            yield f"health: {check.name}", f"no answer within {CHECK_TIMEOUT:g} s"
        except Exception as error:  # noqa: BLE001 - whatever a plugin's check raises
            yield f"health: {check.name}", f"{type(error).__name__}: {error}"
    from clavitor_host.audit.verify import verify_host

    result = await verify_host(host)
    yield "audit chain", None if result.ok else f"row {result.broken_id}: {result.reason}"


def _folder_problem(config: HostConfig) -> str | None:
    folder = config.data_dir
    if not folder.is_dir():
        return f"{folder} does not exist yet; the server makes it at its first start"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written by this user"
    if folder.stat().st_mode & 0o007:
        return f"{folder} is open to every user of this machine: chmod o-rwx it"
    return None
