"""`every`, `cron` and `worker` jobs; exclusive ones run in one process of a deployment (editions.md section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from clavitor_host.jobs.models import cron, every, worker
from clavitor_host.jobs.tables import job_runs
from clavitor_host.metrics import Metrics
from clavitor_host.storage.tables import leases

Process = Callable[..., Any]


class Counted:
    """A job function that counts, and fails or blocks when told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.fails = False
        self.blocks = False

    async def __call__(self) -> None:
        self.runs += 1
        try:
            if self.blocks:
                await asyncio.Event().wait()
            if self.fails:
                raise RuntimeError("no paper")
        finally:
            self.ended += 1


@pytest.fixture
def job() -> Counted:
    return Counted()


async def test_every_counts_from_the_end_of_one_run(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()

    async def slow() -> None:
        job.runs += 1
        await clock.sleep(5)

    runner.add("host", every(10, slow, name="tidy"))
    await runner.start()
    await clock.advance(9.9)
    assert job.runs == 0
    await clock.advance(0.2)
    assert job.runs == 1
    await clock.advance(14)
    assert job.runs == 1
    await clock.advance(1)
    assert job.runs == 2


async def test_first_after_zero_runs_at_once(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    runner.add("host", every(10, job, name="tidy", first_after=0))
    await runner.start()
    await clock.settle()
    assert job.runs == 1


async def test_idle_jobs_share_one_task_and_one_timer(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    for number in range(200):
        runner.add("host", every(100 + number, job, name=f"job{number}"))
        runner.add("host", cron("0 3 * * *", job, name=f"cron{number}", exclusive=False))
    before = len(asyncio.all_tasks())
    await runner.start()
    await clock.settle()
    assert len(asyncio.all_tasks()) - before <= 2  # the scheduler, and the sleep it is in
    assert clock.sleeping == 1


async def test_a_failing_job_is_reported_and_runs_again(process: Process, clock: Any, job: Counted) -> None:
    metrics = Metrics()
    runner, _ = process(metrics=metrics)
    job.fails = True
    runner.add("probe", every(10, job, name="tidy"))
    await runner.start()
    await clock.advance(10)
    job.fails = False
    await clock.advance(10)
    (status,) = runner.status()
    assert (status.name, status.runs, status.errors) == ("probe.tidy", 2, 1)
    assert status.last_error == "RuntimeError: no paper"
    text = (await metrics.render()).decode()
    assert 'clavitor_job_runs_total{name="probe.tidy",outcome="error"} 1.0' in text
    assert 'clavitor_job_runs_total{name="probe.tidy",outcome="ok"} 1.0' in text


async def test_cron_runs_at_its_times(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    runner.add("host", cron("30 12,13 * * *", job, name="report", exclusive=False))
    await runner.start()
    await clock.advance(29 * 60)
    assert job.runs == 0
    await clock.advance(60)
    assert job.runs == 1
    await clock.advance(3600)
    assert job.runs == 2
    await clock.advance(3600)
    assert job.runs == 2


async def test_cron_notices_that_the_wall_clock_was_set(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    runner.add("host", cron("0 20 * * *", job, name="report", exclusive=False))
    await runner.start()
    await clock.settle()
    clock.start = datetime(2026, 1, 5, 19, 59, 30, tzinfo=UTC)
    await clock.advance(61)
    assert job.runs == 1


async def test_a_time_that_passes_while_the_job_runs_is_skipped(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()

    async def slow() -> None:
        job.runs += 1
        await clock.sleep(150)

    runner.add("host", cron("* * * * *", slow, name="report", exclusive=False))
    await runner.start()
    await clock.advance(180)
    assert job.runs == 1
    await clock.advance(90)
    assert job.runs == 2


async def test_a_worker_is_started_again_with_growing_pauses(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process(jitter=lambda: 1.0)
    job.fails = True
    runner.add("host", worker(job, name="tail"))
    await runner.start()
    starts: list[int] = []
    for second in range(16):
        await clock.advance(1 if second else 0)
        if job.runs > len(starts):
            starts.append(second)
    assert starts == [0, 1, 3, 7, 15]


async def test_jitter_shortens_a_pause_by_up_to_half(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process(jitter=lambda: 0.0)
    runner.add("host", worker(job, name="tail"))
    await runner.start()
    await clock.advance(0.5)
    assert job.runs == 2


async def test_the_pause_is_short_again_after_a_long_run(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process(jitter=lambda: 1.0)
    seconds = [0, 0, 0, 100, 0]

    async def work() -> None:
        job.runs += 1
        if wait := seconds[job.runs - 1]:
            await clock.sleep(wait)

    runner.add("host", worker(work, name="tail"))
    await runner.start()
    await clock.advance(7)
    assert job.runs == 4
    await clock.advance(100)
    assert job.runs == 4
    await clock.advance(1)
    assert job.runs == 5


async def test_an_exclusive_job_runs_in_one_process_and_the_other_takes_over(
    process: Process, clock: Any, job: Counted
) -> None:
    other = Counted()
    one, one_keeper = process()
    two, two_keeper = process()
    one.add("host", every(10, job, name="tidy", exclusive=True))
    two.add("host", every(10, other, name="tidy", exclusive=True))
    await one.start()
    await one_keeper.start()
    await clock.settle()
    await two.start()
    await two_keeper.start()
    await clock.advance(35)
    assert job.runs == 3
    assert other.runs == 0
    await one.stop()
    await one_keeper.stop()
    await clock.advance(5)
    assert other.runs == 1


async def test_an_exclusive_job_is_cancelled_when_its_lease_is_lost(
    process: Process, clock: Any, job: Counted, db: Any
) -> None:
    runner, keeper = process()
    job.blocks = True
    runner.add("host", worker(job, name="tail", exclusive=True))
    await runner.start()
    await keeper.start()
    await clock.advance(1)
    assert (job.runs, job.ended) == (1, 0)
    await db.execute("UPDATE leases SET holder = 'somebody else', token = token + 1")
    await clock.advance(15)
    assert (job.runs, job.ended) == (1, 1)
    await db.execute("UPDATE leases SET expires_at = 0")
    await clock.advance(5)
    assert job.runs == 2


async def test_an_exclusive_cron_time_runs_once_when_the_lease_moves_at_that_moment(
    process: Process, clock: Any, job: Counted
) -> None:
    one, one_keeper = process()
    two, two_keeper = process()
    for runner in (one, two):
        runner.add("host", cron("1 12 * * *", job, name="report"))
    await one.start()
    await one_keeper.start()
    await clock.settle()
    await two.start()
    await two_keeper.start()
    await clock.advance(60.5)
    assert job.runs == 1
    await one.stop()
    await one_keeper.stop()
    await clock.advance(30)
    assert job.runs == 1


@pytest.mark.parametrize(("outlives", "runs"), [(20, 1), (90, 0)])
async def test_a_process_that_takes_over_soon_runs_the_cron_time_of_the_dead_one(
    process: Process, clock: Any, job: Counted, db: Any, outlives: int, runs: int
) -> None:
    ends = clock.now_us() + (60 + outlives) * 1_000_000
    held = {
        "name": "job:host.report",
        "holder": "another process",
        "token": 1,
        "expires_at": clock.now_us() + 30_000_000,
    }
    await db.execute(sa.insert(leases).values(held))

    async def advance(seconds: int) -> None:
        """Pass time, in which the other process renews its lease for as long as it lives."""
        for _ in range(0, seconds, 5):
            expires = min(clock.now_us() + 30_000_000, ends)
            await db.execute(sa.update(leases).where(leases.c.holder == held["holder"]).values(expires_at=expires))
            await clock.advance(5)

    runner, keeper = process()
    runner.add("host", cron("1 12 * * *", job, name="report"))
    await runner.start()
    await keeper.start()
    await advance(75)
    assert job.runs == 0
    await advance(120)
    assert job.runs == runs


@pytest.mark.parametrize("exclusive", [True, False])
async def test_a_missed_cron_time_is_made_up_for_once(
    process: Process, clock: Any, job: Counted, exclusive: bool
) -> None:
    async def lives(seconds: float, jobs: int = 1) -> None:
        alive = []
        for _ in range(jobs):
            runner, keeper = process()
            runner.add("host", cron("30 12 * * *", job, name="report", exclusive=exclusive, run_missed=True))
            await runner.start()
            await keeper.start()
            alive.append((runner, keeper))
        await clock.advance(seconds)
        for runner, keeper in alive:
            await runner.stop()
            await keeper.stop()

    await lives(60)
    assert job.runs == 0, "the first start ever has missed nothing"
    await clock.advance(3 * 86400)
    await lives(60, jobs=2)
    assert job.runs == 1
    await clock.advance(60)
    await lives(60)
    assert job.runs == 1


async def test_a_missed_time_is_forgotten_without_run_missed(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    runner.add("host", cron("30 12 * * *", job, name="report", exclusive=False))
    await clock.advance(3600)
    await runner.start()
    await clock.advance(3600)
    assert job.runs == 0


async def test_last_run_is_kept_in_the_database(process: Process, clock: Any, job: Counted, db: Any) -> None:
    runner, keeper = process()
    runner.add("probe", cron("1 12 * * *", job, name="report"))
    await runner.start()
    await keeper.start()
    await clock.advance(61)
    row = await db.fetch_one(sa.select(job_runs))
    assert row["name"] == "probe.report"
    assert abs(row["last_run_at"] - clock.now_us()) < 2_000_000


async def test_a_cron_time_is_tried_again_when_the_database_was_away(
    process: Process, clock: Any, job: Counted, db: Any
) -> None:
    runner, keeper = process()
    runner.add("host", cron("1 12 * * *", job, name="report"))
    await runner.start()
    await keeper.start()
    await clock.advance(59)
    await db.execute("ALTER TABLE job_runs RENAME TO away")
    await clock.advance(3)
    assert job.runs == 0
    await db.execute("ALTER TABLE away RENAME TO job_runs")
    await clock.advance(5)
    assert job.runs == 1


async def test_jobs_of_a_removed_owner_stop_and_give_their_leases_back(
    process: Process, clock: Any, job: Counted, db: Any
) -> None:
    runner, keeper = process()
    stays, blocked = Counted(), Counted()
    blocked.blocks = True
    runner.add("probe", every(10, job, name="tidy"))
    runner.add("probe", worker(blocked, name="tail", exclusive=True))
    runner.add("host", every(10, stays, name="tidy"))
    await runner.start()
    await keeper.start()
    await clock.advance(11)
    assert blocked.runs == 1
    runner.remove("probe")
    await clock.advance(30)
    assert (job.runs, blocked.ended, stays.runs) == (1, 1, 4)
    assert await db.fetch_val("SELECT expires_at FROM leases") == 0


async def test_stop_cancels_everything_within_a_second(process: Process, clock: Any, job: Counted) -> None:
    runner, _ = process()
    job.blocks = True
    runner.add("host", worker(job, name="tail"))

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if job.fails:
                    raise

    runner.add("host", worker(stubborn, name="stubborn"))
    await runner.start()
    await clock.settle()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await runner.stop()
    assert loop.time() - began < 1.5
    assert job.ended == 1
    job.fails = True  # let the stubborn one go, for the sake of the test


def test_wrong_jobs_are_refused(process: Process, job: Counted) -> None:
    runner, _ = process()
    runner.add("host", every(1, job, name="tidy"))
    with pytest.raises(ValueError, match="two jobs named 'tidy'"):
        runner.add("host", every(1, job, name="tidy"))
    with pytest.raises(ValueError, match="lower-case name"):
        runner.add("host", every(1, job, name="Tidy up"))
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds must be greater than 0"):
            runner.add("host", every(seconds, job, name="other"))
    for expression in ("* * * *", "61 * * * *", "x", "* * * * * *"):
        with pytest.raises(ValueError, match="cron expression"):
            runner.add("host", cron(expression, job, name="other"))
    runner.add("probe", every(1, job, name="tidy"))
