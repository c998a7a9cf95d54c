"""The five metrics of the seed's section 8."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from functools import partial
from typing import Any

import pytest
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing_testing.server import DAY, NOW, USAGE, FrozenClock, Server, Start, token

STATES = ("ABSENT", "ACTIVE", "GRACE", "EXPIRED", "INVALID")


async def one_state(server: Server) -> str:
    measured = await server.metrics()
    values = {state: measured[f'state{{state="{state}"}}'] for state in STATES}
    assert sorted(values.values()) == [0, 0, 0, 0, 1], values
    return next(state for state, value in values.items() if value)


async def test_exactly_one_state_is_1_in_every_state(server: Server, clock: FrozenClock) -> None:
    assert await one_state(server) == "ABSENT"
    assert "days_remaining" not in await server.metrics()
    assert "last_validated_age_seconds" not in await server.metrics()
    await server.install(token(exp=NOW + 10 * DAY, grace=5))
    assert await one_state(server) == "ACTIVE"
    assert (await server.metrics())["days_remaining"] == 10
    clock.now += 10 * DAY + 1
    assert await one_state(server) == "GRACE"
    assert -0.001 < (await server.metrics())["days_remaining"] < 0  # from the first second
    assert (await server.get(USAGE))["daysRemaining"] == -1
    clock.now += 2 * DAY - 1
    assert await one_state(server) == "GRACE"
    assert (await server.metrics())["days_remaining"] == -2
    assert (await server.metrics())["last_validated_age_seconds"] == 12 * DAY
    clock.now += 4 * DAY
    assert await one_state(server) == "EXPIRED"
    assert (await server.metrics())["days_remaining"] == -6
    await server.install("x", expect=400)
    assert await one_state(server) == "INVALID"
    assert "days_remaining" not in await server.metrics()
    assert (await server.metrics())["last_validated_age_seconds"] == 16 * DAY


async def test_utilisation_of_every_limit(server: Server) -> None:
    server.neighbour.counts = {"max_apps": 6, "max_agents": 1, "max_alert_rules": 0}
    await server.install(token(limits={"max_users": 4, "max_agents": 0, "max_alert_rules": 0}))
    measured = await server.metrics()
    found = {key: measured[f'limit_utilisation{{limit="{key}"}}'] for key in LIMITS}
    assert (found["max_users"], found["max_apps"], found["max_environments"]) == (0.25, 2.0, 0.0)
    assert math.isinf(found["max_agents"])  # a cap of 0 that is passed
    assert found["max_alert_rules"] == 0.0


async def test_every_limit_counts_its_refusals_from_0(quick_start: Start) -> None:
    server = await quick_start()
    for _ in range(2):
        measured = await server.metrics()
        assert [measured[f'cap_rejections_total{{limit="{key}"}}'] for key in LIMITS] == [0] * len(LIMITS)


async def test_promtool_finds_nothing(quick_start: Start) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: install the Debian package prometheus")
    server = await quick_start()
    server.neighbour.counts = {"max_apps": 3}
    await server.install(token())
    (await server.create_user("a"), await server.create_user("b"))
    for name in ("c", "d", "e"):
        await server.create_user(name)
    text = await server.host.metrics.render()
    run = partial(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    done: Any = await asyncio.to_thread(run)
    # The seed names this metric, and its name has its unit; promtool would have seconds.
    complaints = done.stderr.decode().splitlines()
    assert complaints == ['clavitor_license_days_remaining use base unit "seconds" instead of "days"'], done
    names = {line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE clavitor_license")}
    assert names == {
        "clavitor_license_state",
        "clavitor_license_days_remaining",
        "clavitor_license_limit_utilisation",
        "clavitor_license_cap_rejections_total",
        "clavitor_license_last_validated_age_seconds",
    }


async def test_a_count_that_fails_leaves_the_state_in_the_scrape(quick_start: Start) -> None:
    server = await quick_start()
    server.neighbour.broken = True
    measured = await server.metrics()
    assert measured['state{state="ABSENT"}'] == 1
    assert not any(name.startswith("limit_utilisation") for name in measured)
