"""Runs background work: one scheduler for every `every` and `cron` job, one task per job that is running.

An exclusive job runs only while its lease `job:<plugin>.<name>` is held, and is cancelled when that is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import tzinfo
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from clavitor_host import log
from clavitor_host.jobs.exclusive import LeaseLost, while_held
from clavitor_host.jobs.ledger import Ledger
from clavitor_host.jobs.schedule import MICROSECONDS, Cron
from clavitor_host.jobs.state import Entry, JobStatus, check
from clavitor_host.plugins.records import describe_error

if TYPE_CHECKING:
    from clavitor_host.clock import Clock
    from clavitor_host.jobs.models import Job
    from clavitor_host.metrics import Counter, Metrics
    from clavitor_host.plugins.records import PluginRecord
    from clavitor_host.storage.database import Database
    from clavitor_host.storage.leases import Lease, LeaseKeeper

LEASE_POLL = 2.0
"""Seconds between looks at whether a due exclusive job's lease is held here by now."""
TAKEOVER = 60.0
"""Seconds after its time for which a cron job is still run by a process that takes over its lease."""
MAX_NAP = 60.0
"""Longest sleep until a cron time, in seconds: a wall clock that is set meanwhile is noticed."""
STOP_WITHIN = 1.0
"""Seconds that running jobs get to end when they are cancelled."""
BACKOFF = (1.0, 60.0)
"""First and longest pause before a worker is started again, in seconds; a run that long resets it."""


class JobRunner:
    """Runs the jobs of one app. Add them, then `start`."""

    def __init__(
        self,
        clock: Clock,
        leases: LeaseKeeper,
        db: Database,
        *,
        metrics: Metrics | None = None,
        zone: tzinfo | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """zone: of cron expressions, the server's own when not given. jitter: returns 0…1."""
        self._clock = clock
        self._leases = leases
        self._ledger = Ledger(db)
        self._zone = zone
        self._jitter = jitter
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._sequence = count()
        self._scheduler: asyncio.Task[None] | None = None
        self._releases: set[asyncio.Future[None]] = set()
        self._nap: asyncio.Future[None] | None = None
        self._outcomes: Counter | None = None
        if metrics is not None:
            self._outcomes = metrics.counter(
                "clavitor_job_runs_total",
                "Runs of background jobs, by outcome: ok, error, lost or cancelled.",
                ("name", "outcome"),
            )

    def add(self, owner: str, job: Job, record: PluginRecord | None = None) -> None:
        """Add a job. owner: "host" or the plugin's name. Raises `ValueError` when it is wrong or there already."""
        if self._scheduler is not None:
            raise RuntimeError("jobs are added before the runner starts")
        name = f"{owner}.{job.name}"
        if name in self._entries:
            raise ValueError(f"there are two jobs named {job.name!r}")
        check(job)
        cron = Cron(job.expression, self._zone) if job.kind == "cron" else None
        status = JobStatus(name, job.kind, job.exclusive)
        self._entries[name] = Entry(owner, job, status, record, cron)

    def remove(self, owner: str) -> None:
        """Stop the jobs of an owner, never run them again, and let another process have their leases."""
        for entry in self._entries.values():
            if entry.owner == owner and not entry.removed:
                entry.removed = True
                if entry.task is not None:
                    entry.task.cancel()
                if entry.lease is not None:
                    release = asyncio.ensure_future(self._release(entry.lease, entry.task))
                    self._releases.add(release)
                    release.add_done_callback(self._releases.discard)

    def status(self) -> list[JobStatus]:
        """Return how every job fares, in the order they were added."""
        return [entry.status for entry in self._entries.values()]

    async def start(self) -> None:
        """Begin to run what is due. Reads from the database when the last run of some job matters."""
        now = self._clock.now_us()
        entries = [entry for entry in self._entries.values() if not entry.removed]
        missable = [entry.status.name for entry in entries if entry.job.run_missed]
        last_runs = await self._ledger.last_runs(missable, now) if missable else {}
        for entry in entries:
            if entry.job.exclusive:
                entry.lease = self._leases.want(f"job:{entry.status.name}")
            if entry.job.kind == "worker":
                self._spawn(entry, self._work)
            elif entry.job.kind == "every":
                self._push(entry, entry.job.first_after)
            else:
                self._plan_cron(entry, min(last_runs.get(entry.status.name, now), now))
                entry.missed = entry.due <= now
        self._scheduler = asyncio.create_task(self._schedule(), name="jobs")

    async def stop(self) -> None:
        """Cancel everything and wait up to 1 s for it to end. A second call does nothing."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        if self._scheduler is not None:
            tasks.append(self._scheduler)
        for entry in self._entries.values():
            entry.removed = True
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=STOP_WITHIN)
            for task in stuck:
                log.warning("A job did not stop in time", job=task.get_name())

    async def _release(self, lease: Lease, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            await asyncio.wait({task})
        await self._leases.release(lease)

    async def _schedule(self) -> None:
        while True:
            now = self._clock.monotonic()
            while self._heap and self._heap[0][0] <= now:
                entry = heappop(self._heap)[2]
                if not entry.removed:
                    self._on_time(entry)
            await self._pause(self._heap[0][0] - now if self._heap else None)

    async def _pause(self, seconds: float | None) -> None:
        """Wait `seconds` (None: for ever), or until `_push` puts something in front of the heap."""
        if seconds is None:
            self._nap = asyncio.get_running_loop().create_future()
        else:
            self._nap = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({self._nap})
        finally:
            self._nap.cancel()
            self._nap = None

    def _push(self, entry: Entry, after: float) -> None:
        heappush(self._heap, (self._clock.monotonic() + after, next(self._sequence), entry))
        if self._nap is not None and self._heap[0][2] is entry:
            self._nap.cancel()

    def _plan_cron(self, entry: Entry, after: int) -> None:
        assert entry.cron is not None
        due = entry.cron.next_after(after)
        if due is not None:
            entry.due = due
            self._push_cron(entry)

    def _push_cron(self, entry: Entry) -> None:
        wait = max(0.0, (entry.due - self._clock.now_us()) / MICROSECONDS)
        self._push(entry, min(wait, MAX_NAP))

    def _on_time(self, entry: Entry) -> None:
        """Run an entry that came up, unless its time or its lease is not there yet."""
        late = (self._clock.now_us() - entry.due) / MICROSECONDS
        if entry.cron is not None and late < 0:
            self._push_cron(entry)
        elif entry.lease is None or entry.lease.held.is_set():
            self._spawn(entry, self._run_every if entry.cron is None else self._run_cron)
        elif entry.cron is not None and late > TAKEOVER and not entry.job.run_missed:
            self._plan_cron(entry, self._clock.now_us())
        else:
            self._push(entry, LEASE_POLL)

    def _spawn(self, entry: Entry, work: Callable[[Entry], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work(entry)
            finally:
                entry.task = None

        entry.task = asyncio.create_task(run(), name=f"job:{entry.status.name}")

    async def _run_every(self, entry: Entry) -> None:
        await self._run_once(entry)
        self._push(entry, entry.job.seconds)

    async def _run_cron(self, entry: Entry) -> None:
        try:
            taken = await self._claim(entry)
        except Exception as error:  # noqa: BLE001 - the database is away: the time is tried again
            self._failed(entry, error)
            self._push(entry, LEASE_POLL)
            return
        entry.missed = False
        if taken is None:
            await self._run_once(entry)
            self._plan_cron(entry, max(entry.due, self._clock.now_us()))
        else:
            self._plan_cron(entry, taken if entry.job.run_missed else self._clock.now_us())

    async def _claim(self, entry: Entry) -> int | None:
        """Return None when this process is to run the due time, else when it was run.

        A job that is not exclusive runs in every process; only a missed time is made up for by one of them.
        """
        if not (entry.job.exclusive or entry.job.run_missed):
            return None
        taken = await self._ledger.claim(entry.status.name, entry.due, self._clock.now_us())
        return taken if entry.job.exclusive or entry.missed else None

    async def _work(self, entry: Entry) -> None:
        first, longest = BACKOFF
        pause = first
        while True:
            if entry.lease is not None:
                await entry.lease.acquired()
            started = self._clock.monotonic()
            await self._run_once(entry)
            if self._clock.monotonic() - started >= longest:
                pause = first
            await self._clock.sleep(pause * (0.5 + self._jitter() / 2))
            pause = min(pause * 2, longest)

    async def _run_once(self, entry: Entry) -> None:
        status = entry.status
        status.running, status.last_run_at = True, self._clock.now_us()
        outcome = "error"
        try:
            if entry.lease is None:
                await entry.job.function()
            else:
                await while_held(entry.lease, entry.job.function)
            outcome = "ok"
        except LeaseLost:
            outcome = "lost"
            log.warning("A job was stopped: another process has its lease now", job=status.name)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                outcome = "cancelled"
                raise
            self._failed(entry, error)
        except Exception as error:  # noqa: BLE001 - whatever a job raises
            self._failed(entry, error)
        finally:
            status.running = False
            status.runs += 1
            if self._outcomes is not None:
                self._outcomes.labels(status.name, outcome).inc()

    def _failed(self, entry: Entry, error: BaseException) -> None:
        entry.status.errors += 1
        entry.status.last_error = describe_error(error)
        if entry.record is not None:
            entry.record.last_error = f"job {entry.job.name}: {entry.status.last_error}"
        log.exception("A job failed", error, job=entry.status.name)
