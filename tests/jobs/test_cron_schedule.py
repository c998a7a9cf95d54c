"""Cron times across clock changes, in the server's local time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from clavitor_host.jobs.schedule import Cron

AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def times(expression: str, start: str, n: int) -> list[str]:
    """Return the next n times after a UTC time, in UTC."""
    schedule = Cron(expression, AMSTERDAM)
    at = round(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp() * 1_000_000)
    found = []
    for _ in range(n):
        due = schedule.next_after(at)
        assert due is not None
        assert due > at
        at = due
        found.append(datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%m-%d %H:%M"))
    return found


def test_half_past_two_runs_once_when_the_clock_falls_back() -> None:
    # 2026-10-25 03:00 CEST becomes 02:00 CET: local 02:30 comes twice, at 00:30 and 01:30 UTC.
    assert times("30 2 * * *", "2026-10-24T10:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_starting_between_the_two_does_not_run_it_again() -> None:
    assert times("30 2 * * *", "2026-10-25T01:10", 1) == ["10-26 01:30"]


def test_half_past_two_runs_after_the_gap_when_the_clock_springs_forward() -> None:
    # 2026-03-29 02:00 CET becomes 03:00 CEST, at 01:00 UTC.
    assert times("30 2 * * *", "2026-03-28T10:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_an_hourly_job_keeps_running_every_hour() -> None:
    assert times("15 * * * *", "2026-10-25T00:00", 3) == ["10-25 00:15", "10-25 01:15", "10-25 02:15"]


def test_a_time_that_never_comes_has_no_next() -> None:
    assert Cron("0 0 29 2 1#5", UTC).next_after(0) is not None
    with pytest.raises(ValueError, match="cron expression"):
        Cron("0 0 30 2 *", UTC)


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "CET-1CEST,M3.5.0,M10.5.0/3"])
def test_the_servers_own_zone_is_used_however_it_is_set(zone: str) -> None:
    code = (
        "from clavitor_host.jobs.schedule import Cron\n"
        "at = 1792836000_000000\n"  # 2026-10-24 10:00 UTC
        "cron = Cron('30 2 * * *')\n"
        "first = cron.next_after(at); print(first // 10**6, cron.next_after(first) // 10**6)\n"
        "hourly = Cron('15 * * * *')\n"
        "at = 1792886400_000000\n"  # 2026-10-25 00:00 UTC
        "for _ in range(3): at = hourly.next_after(at); print(at // 10**6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
    )
    expected = ["10-25 00:30", "10-26 01:30", "10-25 00:15", "10-25 01:15", "10-25 02:15"]
    assert [datetime.fromtimestamp(int(n), UTC).strftime("%m-%d %H:%M") for n in done.stdout.split()] == expected
