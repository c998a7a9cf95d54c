"""What the runner knows of each job."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clavitor_host.jobs.models import Job
    from clavitor_host.jobs.schedule import Cron
    from clavitor_host.plugins.records import PluginRecord
    from clavitor_host.storage.leases import Lease

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(slots=True, eq=False)
class JobStatus:
    """How one job fares. `name` is `<plugin>.<job>`; `last_run_at` in µs since the epoch."""

    name: str
    kind: str
    exclusive: bool
    running: bool = False
    runs: int = 0
    errors: int = 0
    last_error: str | None = None
    last_run_at: int | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A job on the runner. `missed`: its next run makes up for a time that passed while no process ran."""

    owner: str
    job: Job
    status: JobStatus
    record: PluginRecord | None
    cron: Cron | None = None
    lease: Lease | None = None
    due: int = 0
    """Wall time of a cron job's next run, µs since the epoch."""
    missed: bool = False
    task: asyncio.Task[None] | None = None
    removed: bool = False


def check(job: Job) -> None:
    """Raise `ValueError` for a job with a wrong name or interval."""
    if not NAME.fullmatch(job.name):
        raise ValueError(f"job {job.name!r} needs a lower-case name")
    if job.kind == "every" and not (0 < job.seconds < float("inf") and 0 <= job.first_after < float("inf")):
        raise ValueError(f"job {job.name!r}: seconds must be greater than 0")
