"""Identity's background work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from clavitor_host.identity import oidc, sessions, setup, throttle
from clavitor_host.identity.last_used import flush_last_used
from clavitor_host.jobs.models import Job, every

if TYPE_CHECKING:
    from clavitor_host.host import Host


def identity_jobs(host: Host) -> list[Job]:
    """Return the jobs: writing when credentials were last used (every process), and tidying up (one process)."""
    return [
        every(60.0, partial(flush_last_used, host), name="identity-last-used"),
        every(600.0, partial(purge, host), name="identity-purge", first_after=60.0, exclusive=True),
    ]


async def purge(host: Host) -> None:
    """Delete ended sessions, failures that no longer count, logins nobody came back from, spent setup links."""
    await sessions.purge(host)
    await throttle.purge(host)
    await oidc.purge(host)
    await setup.purge(host)
