"""Status says in plain words what is the matter, at any role; alerts are raised once, and when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from clavitor_commercial_replication import fencing, queue, state, status
from clavitor_commercial_replication.status import Facts, held_up, problems
from clavitor_commercial_replication.watch import Watch
from clavitor_commercial_replication.wording import agreement, described
from clavitor_commercial_replication_testing.apps import Pair, Pop, bundle, until
from clavitor_commercial_replication_testing.clocks import QuickClock
from clavitor_commercial_replication_testing.failover import (
    MIXTURES,
    drill,
    facts,
    fail_over,
    heard,
    refill,
    until_role,
    until_well,
)

from clavitor_host.testing import running_app, settings

WELL = Facts(
    at=1_000_000_000,
    pop="calgary-01",
    role="primary",
    role_since=0,
    reason=None,
    epoch=1,
    stream_id="s",
    enlisted=True,
    reseed_from=None,
    peer="zurich-01",
    url="https://zurich.test",
    heard_at=999_000_000,
    last_success_at=999_000_000,
    head_rev=5,
    depth=0,
    oldest_dirty_seconds=0.0,
    sendable_at=None,
    lag_seconds=0.0,
    quarantined=0,
    told_head_rev=5,
    told_depth=0,
    complete_rev=5,
    as_of=999_000_000,
    compared_at=990_000_000,
    mismatches=0,
    last_error=None,
    last_error_at=None,
)
BACKUP = WELL._replace(role="backup", pop="zurich-01", peer="calgary-01", lag_seconds=1.0)
MINUTE = 60_000_000


@pytest.fixture
async def pops(tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, stalled_after="1") as made:
        yield made


@pytest.fixture(params=MIXTURES)
async def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with drill(tmp_path, request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (WELL, []),
        (BACKUP, []),
        (WELL._replace(last_success_at=None), ["has not answered yet"]),
        (
            WELL._replace(last_success_at=1_000_000_000 - 5 * MINUTE, depth=12, last_error="network: no route"),
            ["Nothing has got through to the backup for 5 minutes. 12 entries wait here. The last error was: network"],
        ),
        (WELL._replace(lag_seconds=3_700.0, depth=1), ["The backup is 1 hour 1 minute behind. 1 entry waits here."]),
        (WELL._replace(quarantined=1), ["1 entry is refused by the backup and not sent any more."]),
        (WELL._replace(mismatches=3), ["The two vaults are not equal: 3 of 256 hashes"]),
        (WELL._replace(compared_at=None), ["have not been compared yet"]),
        (WELL._replace(enlisted=False), ["still being counted in"]),
        (WELL._replace(url=None), ["Nothing is replicated"]),
        (BACKUP._replace(heard_at=None), ["The primary has not been heard yet."]),
        (BACKUP._replace(heard_at=1_000_000_000 - 2 * MINUTE), ["The primary has not been heard for 2 minutes."]),
        (BACKUP._replace(lag_seconds=90.0), ["up to 1 minute 30 seconds behind the primary"]),
        (BACKUP._replace(reseed_from="https://p.test", compared_at=None), ["being filled from https://p.test"]),
        (BACKUP._replace(mismatches=1), ["The two vaults are not equal"]),
        (
            WELL._replace(role="fenced", reason="superseded", depth=2),
            ["takes no writes because the other POP has become the primary. 2 entries written here are not on"],
        ),
        (
            WELL._replace(role="fenced", reason="superseded"),
            ["Make this POP the other one's backup with `clavitor replication reseed`"],
        ),
        (WELL._replace(compare_within=5.0), ["The two vaults have not been compared for 10 seconds, so it is not"]),
        (
            WELL._replace(compare_within=5.0, quarantined=2),
            ["2 entries are refused", "cannot be compared while the backup refuses 2 entries"],
        ),
        (WELL._replace(role="fenced", reason="behind"), ["Promote the backup"]),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(found: Facts, words: list[str]) -> None:
    told = problems(found, 60.0)
    assert len(told) == len(words)
    for text, expected in zip(told, words, strict=True):
        assert expected in text
        assert text.endswith(".")


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (WELL, False),
        (BACKUP, False),
        (WELL._replace(last_error="network: no route"), True),
        (WELL._replace(success_within=3.0, last_success_at=1_000_000_000 - 2_900_000), False),
        (WELL._replace(success_within=3.0, last_success_at=1_000_000_000 - 3_100_000), True),
        (BACKUP._replace(success_within=3.0, last_success_at=1_000_000_000 - 3_100_000), False),
    ],
)
def test_what_is_held_up_is_not_called_well_before_it_is_a_problem(found: Facts, held: bool) -> None:
    told = held_up(found, 60.0)
    assert told == ("Held up just now: it counts as a problem after 1 minute." if held else None)
    assert problems(found, 60.0) == []


def test_repairing_is_not_promised_where_it_gives_up_writes() -> None:
    (told,) = problems(WELL._replace(mismatches=1), 60.0)
    assert told.endswith("--repair mends what can be mended.")


async def test_both_sides_are_well_once_they_were_compared(mixed: Pair) -> None:
    for number in range(3):
        await mixed.primary.put(f"entry-{number}")
    await mixed.settled()
    await until_well(mixed.primary, mixed.backup)
    ours, theirs = [await status.report(pop.service) for pop in (mixed.primary, mixed.backup)]
    assert (ours["role"], theirs["role"]) == ("primary", "backup")
    assert ours["depth"] == theirs["depth"] == ours["quarantined"] == 0
    assert ours["hashes"]["equal"] is theirs["hashes"]["equal"] is True
    assert theirs["peer"]["pop"] == "calgary-01"
    assert theirs["told"]["complete_rev"] == ours["head_rev"] == 3
    assert ours["lag_seconds"] == 0.0 and theirs["lag_seconds"] < 30
    assert await status.trouble(mixed.primary.service) is None
    shown = dict(described(await facts(mixed.backup)))
    assert shown["equal"].startswith("yes, all 256 hashes")
    assert shown["waiting"] == "nothing"


async def test_the_lag_grows_while_the_backup_is_away_and_is_told_on_both_sides(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    pops.network.cut = True
    await pops.primary.put("b")

    async def behind(pop: Pop) -> bool:
        return (await facts(pop)).lag_seconds > 1.2

    await until(lambda: behind(pops.primary))
    await until(lambda: behind(pops.backup))
    ours, theirs = [await status.trouble(pop.service) for pop in (pops.primary, pops.backup)]
    assert ours is not None and "1 entry waits here" in ours and "the network is cut" in ours
    assert theirs is not None and "The primary has not been heard for" in theirs
    metrics = (await pops.primary.host.metrics.render()).decode()
    assert "\nclavitor_replication_queue_depth 1.0\n" in metrics
    assert '\nclavitor_replication_role{role="primary"} 1.0\n' in metrics
    assert _value(metrics, "lag_seconds") > 1.0 and _value(metrics, "oldest_dirty_seconds") > 1.0
    assert _value(metrics, "epoch") == 1.0
    pops.network.cut = False
    await until_well(pops.primary, pops.backup)


def _value(metrics: str, name: str) -> float:
    line = next(line for line in metrics.splitlines() if line.startswith(f"clavitor_replication_{name} "))
    return float(line.split()[1])


async def test_a_silent_stream_is_told_once_on_either_side_and_again_when_it_goes_on(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    watches = [(pop, Watch(pop.service)) for pop in (pops.primary, pops.backup)]

    async def all_heard(kind: str) -> bool:
        for _, watch in watches:
            await watch.look()
        return all(heard(pop, kind) for pop, _ in watches)

    assert not await all_heard("REPLICATION_STALLED")
    pops.network.cut = True
    await until(lambda: all_heard("REPLICATION_STALLED"))
    for _ in range(3):
        await all_heard("REPLICATION_STALLED")
    assert [len(heard(pop, "REPLICATION_STALLED")) for pop, _ in watches] == [1, 1]
    assert "Nothing has got through to the backup" in heard(pops.primary, "REPLICATION_STALLED")[0].message
    assert "The primary has not been heard" in heard(pops.backup, "REPLICATION_STALLED")[0].message
    pops.network.cut = False
    await until(lambda: all_heard("REPLICATION_RESUMED"))
    assert [len(heard(pop, "REPLICATION_RESUMED")) for pop, _ in watches] == [1, 1]
    assert [len(heard(pop, "REPLICATION_STALLED")) for pop, _ in watches] == [1, 1]


async def test_a_jump_of_the_wall_clock_is_no_alarm(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    watch = Watch(pops.primary.service)
    await watch.look()
    clock = pops.primary.host.clock
    assert isinstance(clock, QuickClock)
    for shift in (86_400.0, -86_400.0):
        clock.shift = shift
        await watch.look()
        assert (await facts(pops.primary)).lag_seconds >= 0.0
    assert heard(pops.primary, "REPLICATION_STALLED") == []


async def test_entries_that_are_not_taken_stall_it_though_heartbeats_succeed(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    watch = Watch(pops.primary.service)
    await watch.look()
    pops.network.cut = True
    await pops.primary.put("b")
    beats = 0

    async def stalled() -> bool:
        nonlocal beats
        beats += 1
        async with pops.primary.host.db.transaction() as tx:  # as a heartbeat that got through
            await state.update_peer(tx, acked_at=pops.primary.host.clock.now_us())
        await watch.look()
        return bool(heard(pops.primary, "REPLICATION_STALLED"))

    await until(stalled)
    assert beats > 1


async def test_refused_entries_are_told_and_do_not_count_as_lag(pops: Pair) -> None:
    pops.network.cut = True
    change = await pops.primary.put("a")
    async with pops.primary.host.db.transaction() as tx:
        await queue.quarantine(tx, "a", change.rev, "sha256_mismatch", pops.primary.host.clock.now_us())
    found = await facts(pops.primary)
    assert (found.quarantined, found.depth, found.lag_seconds) == (1, 1, 0.0)
    assert found.oldest_dirty_seconds >= 0.0
    (row,) = await fencing.refused(pops.primary.service)
    assert row.error == "sha256_mismatch"


async def test_every_step_of_a_failover_can_be_read(mixed: Pair) -> None:
    await mixed.primary.put("a")
    await mixed.settled()
    old, new = await fail_over(mixed)
    await old.put("b")
    new_status = await status.report(new.service)
    assert (new_status["role"], new_status["epoch"], new_status["healthy"]) == ("primary", 2, False)
    mixed.network.cut = False
    await until_role(old, "fenced")
    told = await status.report(old.service)
    assert (told["role"], told["reason"], told["depth"]) == ("fenced", "superseded", 1)
    shown = dict(described(await facts(old)))
    assert shown["role"].startswith("fenced:") and shown["behind"] == "does not apply"
    assert shown["equal"] == "not known since it is fenced" and told["hashes"]["equal"] is None
    await fencing.discard(old.service, None)
    await refill(old)
    await until_well(new, old)


async def test_with_replication_off_everything_is_zero_and_nothing_fails(tmp_path: Path) -> None:
    made = bundle()
    async with running_app(settings(tmp_path / "data", made), made) as app:
        pop: Any = Pop(app.app, app.web, app.stack)
        assert await status.report(pop.service) == {"on": False}
        assert await status.trouble(pop.service) is None
        metrics = (await pop.host.metrics.render()).decode()
        for name in ("queue_depth", "lag_seconds", "epoch", "quarantined", "hash_mismatches"):
            assert _value(metrics, name) == 0.0
        assert '\nclavitor_replication_role{role="primary"} 0.0\n' in metrics
        assert (await pop.host.status())["plugins"]["commercial_replication"] == {"on": False}
        assert [page.title for page in pop.host.admin_pages if page.path == "/admin/replication"] == []


def test_hashes_that_cannot_be_compared_do_not_agree() -> None:
    assert WELL.agree is True and WELL._replace(mismatches=1).agree is False
    for unknown in (WELL._replace(quarantined=1), WELL._replace(compare_within=5.0), WELL._replace(compared_at=None)):
        assert unknown.agree is None
    assert "cannot be compared while entries are refused" in agreement(WELL._replace(quarantined=1))


async def test_the_operator_is_told_when_hashes_are_not_compared_any_more(pops: Pair) -> None:
    await pops.primary.put("a")
    await pops.settled()
    await until_well(pops.primary)
    service = pops.primary.service
    watch = Watch(service)
    service.config = service.config.model_copy(update={"stalled_after": 0.3})
    found = await facts(pops.primary)
    frozen = True

    async def read(_: Any) -> Facts:
        now: Facts = await original(service)
        return now._replace(compared_at=found.compared_at) if frozen else now

    original: Any = status.facts_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "facts_of", read)

        async def told(kind: str) -> bool:
            await watch.look()
            return bool(heard(pops.primary, kind))

        await until(lambda: told("REPLICATION_UNCOMPARED"))
        frozen = False
        await until(lambda: told("REPLICATION_COMPARED"))


async def test_the_operator_is_told_that_a_primary_replicates_to_nowhere(pops: Pair) -> None:
    service = pops.primary.service
    service.config = service.config.model_copy(update={"backup_url": None})
    assert (await facts(pops.primary)).url is None
    watch = Watch(service)
    await watch.look()
    await watch.look()
    assert len(heard(pops.primary, "REPLICATION_NOWHERE")) == 1
