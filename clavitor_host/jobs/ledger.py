"""Who ran a cron time: a claim in the database, so that one time is run once however leases move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from clavitor_host.jobs.tables import job_runs

if TYPE_CHECKING:
    from clavitor_host.storage.database import Database


class Ledger:
    """Reads and writes `job_runs`. Times are µs since the epoch."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def last_runs(self, names: Iterable[str], now: int) -> dict[str, int]:
        """Return when each job last ran. One never seen before counts as run `now`: nothing was missed yet."""
        wanted = list(names)
        async with self._db.transaction() as tx:
            query = sa.select(job_runs.c.name, job_runs.c.last_run_at).where(job_runs.c.name.in_(wanted))
            found = {row["name"]: row["last_run_at"] for row in await tx.fetch_all(query)}
            new = [{"name": name, "last_run_at": now} for name in wanted if name not in found]
            if new:
                await tx.insert_many(job_runs, new, upsert_on=("name",), update=("last_run_at",))
        return found | {row["name"]: now for row in new}

    async def claim(self, name: str, due: int, now: int) -> int | None:
        """Note a run for the time `due` and return None, or return when it was run already."""
        async with self._db.transaction() as tx:
            await tx.lock(f"job_runs:{name}")
            last: int | None = await tx.fetch_val(sa.select(job_runs.c.last_run_at).where(job_runs.c.name == name))
            if last is not None and last >= due:
                return last
            row = {"name": name, "last_run_at": max(due, now)}
            await tx.insert_many(job_runs, [row], upsert_on=("name",), update=("last_run_at",))
        return None
