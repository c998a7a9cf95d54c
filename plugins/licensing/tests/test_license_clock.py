"""What time alone does to a license, and what a clock that goes back does not (spec section 4)."""

from __future__ import annotations

import pytest
from clavitor_licensing.clock import MICROSECONDS, TOLERANCE, HighWater
from clavitor_licensing_testing.server import DAY, LICENSE, NOW, USAGE, FrozenClock, Log, Server, Start, token

HOUR = 3600
AT = NOW * MICROSECONDS


async def test_grace_and_expired_come_by_the_clock_alone(server: Server, clock: FrozenClock, logged: Log) -> None:
    await server.install(token(exp=NOW + DAY, grace=1, limits={"max_users": 9}))
    await server.heard()
    clock.now = NOW + DAY - 1
    await server.tick()
    assert (await server.state(), await server.heard()) == ("ACTIVE", [])
    clock.now = NOW + DAY
    assert await server.state() == "GRACE"  # nothing has to run for it
    assert (await server.metrics())['state{state="GRACE"}'] == 1
    await server.tick()
    await server.tick()
    assert await server.heard() == [("state", "GRACE")]  # told once
    assert [line["was"] for line in logged.lines(level="WARNING", state="GRACE", reason="state")] == ["ACTIVE"]
    assert await server.host.effective_cap("max_users") == 9
    clock.now = NOW + 2 * DAY
    assert await server.state() == "EXPIRED"
    assert await server.host.effective_cap("max_users") == 3
    await server.tick()
    await server.tick()
    (change,) = server.neighbour.heard
    assert (change.reason, change.state, change.limits["max_users"]) == ("state", "EXPIRED", 3)
    assert len(logged.lines(level="ERROR", state="EXPIRED")) == 1
    message = (await server.get(USAGE))["message"]
    assert message == "License expired 1 day ago. System reverted to default tier."
    assert len(await server.audit()) == 1  # the clock alone is no event


async def test_a_clock_that_goes_back_far_stops_the_time_of_licenses(
    start: Start, clock: FrozenClock, logged: Log
) -> None:
    server = await start()
    await server.install(token(exp=int(NOW + 10.8 * DAY), grace=0))
    clock.now = NOW + 11 * DAY
    await server.tick()
    assert await server.state() == "EXPIRED"
    clock.now = NOW + 5 * DAY
    assert await server.state() == "EXPIRED"  # at once, also before anybody has noticed
    await server.tick()
    await server.tick()
    (row,) = await server.audit("clock_rollback")
    assert row == {"highestSeen": "2025-10-20T08:53:20Z", "now": "2025-10-14T08:53:20Z"}
    assert len([line for line in logged.lines(level="WARNING") if "clock went back" in line["message"]]) == 1
    assert await server.state() == "EXPIRED"
    clock.now = NOW + 10.5 * DAY  # within the tolerance of the highest time, but that was not passed yet
    await server.tick()
    assert (await server.get(USAGE))["state"] == "EXPIRED"
    assert server.service.known().clock_stopped
    server = await start(stop=server)
    assert await server.state() == "EXPIRED"
    clock.now = NOW + 12 * DAY
    await server.tick()
    assert not server.service.known().clock_stopped
    assert len(await server.audit("clock_rollback")) == 1
    clock.now = NOW + 11.5 * DAY  # half a day back is no rollback
    await server.tick()
    assert server.service.known().time == NOW + 11.5 * DAY


async def test_an_administrator_resets_the_clock(server: Server, clock: FrozenClock) -> None:
    await server.install(token(exp=NOW + 10 * DAY, grace=0))
    clock.now = NOW + 400 * DAY  # a clock that was wrong for a while
    await server.tick()
    clock.now = NOW + DAY
    await server.tick()
    assert await server.state() == "EXPIRED"
    await server.heard()
    reply = await server.admin.post(f"{LICENSE}/clock/reset")
    assert (reply.status_code, reply.json()["state"]) == (200, "ACTIVE")
    assert await server.heard() == [("clock", "ACTIVE")]
    (row,) = await server.audit("reset_clock")
    assert row == {"highestSeen": "2026-11-13T08:53:20Z", "now": "2025-10-10T08:53:20Z", "resetBy": "admin"}
    await server.tick()
    assert await server.state() == "ACTIVE"


async def test_a_cap_check_stands_still_too(server: Server, clock: FrozenClock) -> None:
    await server.install(token(exp=NOW + 10 * DAY, grace=0, limits={"max_users": 9}))
    for name in ("a", "b"):
        assert (await server.create_user(name)).status_code == 201
    clock.now = NOW + 11 * DAY
    await server.tick()
    clock.now = NOW
    refused = await server.create_user("c")
    assert (refused.status_code, refused.json()["state"]) == (403, "EXPIRED")


async def test_a_clock_set_right_a_little_does_not_make_a_license_one_of_the_future(
    start: Start, clock: FrozenClock
) -> None:
    server = await start()
    await server.install(token(iat=NOW))
    clock.now -= 2 * HOUR
    await server.service.revalidate()
    assert await server.state() == "ACTIVE"
    server = await start(stop=server)
    assert await server.state() == "ACTIVE"
    assert [row["action"] for row in await server.audit()] == ["install_license"]


async def test_beside_a_right_clock_one_that_is_days_behind_is_told_once(start: Start, clock: FrozenClock) -> None:
    """Two servers on one database, of which one lives in the past: it takes the time of the other."""
    right, wrong = await start(), await start()
    behind = FrozenClock(NOW - 5 * DAY)
    wrong.host.clock = behind
    await right.install(token(exp=NOW + 2 * DAY, grace=0))
    for _ in range(4):
        await wrong.tick()
        clock.now += HOUR
        await right.tick()
    assert len(await right.audit("clock_rollback")) == 1
    clock.now = NOW + 3 * DAY
    await right.tick()
    await wrong.tick()
    assert await wrong.state() == "EXPIRED"


@pytest.mark.parametrize(
    ("water", "wall", "expected"),
    [
        (HighWater(AT), AT + 1, AT + 1),
        (HighWater(AT), AT - TOLERANCE, AT - TOLERANCE),
        (HighWater(AT), AT - TOLERANCE - 1, AT),
        (HighWater(AT, stopped=True), AT - 1, AT),
        (HighWater(AT, stopped=True), AT, AT),
        (HighWater(AT, stopped=True), AT + 1, AT + 1),
    ],
)
def test_the_time_of_licenses(water: HighWater, wall: int, expected: int) -> None:
    assert water.time(wall) == expected


async def test_an_idle_server_does_not_write_the_time_every_minute(server: Server, clock: FrozenClock) -> None:
    versions = []
    for _ in range(10):
        clock.now += 60
        await server.tick()
        versions.append(server.service.known().seen_at)
    assert len(set(versions)) == 2
