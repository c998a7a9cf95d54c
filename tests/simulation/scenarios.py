"""What a run is about: faults alone, a failover and the old primary's return, or an old copy."""

from __future__ import annotations

import asyncio

from clavitor_commercial_replication import asking, fencing, promotion, reseed, verify

from clavitor_host.api import ClavitorError
from tests.simulation.clients import Clients
from tests.simulation.invariants import Standing, check_applied
from tests.simulation.model import Broken
from tests.simulation.pop import Pop
from tests.simulation.schedule import BUSY_SECONDS, Fault
from tests.simulation.world import COMPARED_WITHIN, HEALED_WITHIN, World


async def play(world: World) -> None:
    """Play the seed's scenario to its end."""
    clients = Clients(world)
    for pop in world.pops:
        await world.start(pop)
    world.network.weather = world.plan.weather
    faults = [asyncio.create_task(world.befall(fault)) for fault in world.plan.faults]
    load = asyncio.create_task(clients.work())
    await SCENES[world.plan.scenario](world, clients, [load, *faults])
    await clients.check_reads(world.primary, world.backup)
    for pop in world.pops:
        await pop.stop()
    world.check()
    world.tell()


async def faults_alone(world: World, clients: Clients, under_way: list[asyncio.Task[None]]) -> None:
    """Faults, healing, and nothing is lost."""
    await asyncio.sleep(BUSY_SECONDS)
    await world.heal()
    await asyncio.gather(*under_way)
    await world.converge()
    _check_alone(world)


def _check_alone(world: World) -> None:
    try:
        world.model.check_final(world.look(world.primary).contents, world.primary.label)
        check_applied(world.observers[world.backup.name])
    except Broken as error:
        world.fail(str(error))


async def failover(world: World, clients: Clients, under_way: list[asyncio.Task[None]]) -> None:
    """The primary is lost, or only cut off; its backup is promoted; the old one comes back, and becomes its backup."""
    old, new = world.pops
    story = world.plan.failover
    await asyncio.sleep(story.lost_at)
    away = asyncio.create_task(world.befall(Fault(world.loop.now, story.how, 0, story.away)))
    await asyncio.sleep(story.promoted_after)
    at_promotion = await _promote(world, new, ask=story.ask)
    clients.targets = [old, new] if story.how != "crash" else [new]
    if story.mute:
        world.network.mute(new)
    await _to_the_end_of_faults(world, [away, *under_way])
    await _fenced(world, old)
    world.network.mute(new, until_now=True)
    replayed = await _bring_back(world, clients, old, at_promotion)
    _check_after_failover(world, at_promotion, replayed)
    if story.back:
        await switch_back(world, clients)


async def switch_back(world: World, clients: Clients) -> None:
    """Once all is well the first primary takes its role back, while the other one is at work."""
    old, new = world.primary, world.backup
    world.network.weather = world.plan.weather
    load = asyncio.create_task(clients.more(10))
    await asyncio.sleep(clients.chance.random())
    at_promotion = await _promote(world, new, ask=world.plan.failover.ask)
    await load
    await world.heal()
    replayed = await _bring_back(world, clients, old, at_promotion)
    _check_after_failover(world, at_promotion, replayed)


async def restored(world: World, clients: Clients, under_way: list[asyncio.Task[None]]) -> None:
    """The primary's disk breaks; it is started on an older copy, notices, and its backup takes over.

    Clients wait until it has noticed; or they write on, while it cannot reach its backup. When the backup has no more
    than the copy, or all of that was written over meanwhile, there is nothing to notice.
    """
    old, new = world.pops
    story = world.plan.failover
    await asyncio.sleep(story.lost_at)
    copy, before = old.disk.copy(), world.look(old)
    await asyncio.sleep(story.away)
    if world.look(new).peer["applied_max_rev"] <= before.head[0]:
        await faults_alone(world, clients, under_way)
        return
    world.put_back(old, copy)
    world.claims_hold = False
    old.label = f"{old.name}/copy"
    if story.busy:
        world.network.cut(new, silently=False)
        await world.start(old)
        await asyncio.sleep(story.promoted_after * 2)
        world.network.join_again(new)
    else:
        clients.targets = []
    await _to_the_end_of_faults(world, under_way)
    deadline = max(world.loop.now, world.leases_free) + HEALED_WITHIN
    if not await world.until(lambda: world.look(old).role == "fenced" or (story.busy and world.are_equal()), deadline):
        world.fail(f"{old.name} is an old copy, but has not noticed within {HEALED_WITHIN:.0f} s")
    world.note(f"{old.name} is {world.look(old).role}")
    if world.look(old).role == "primary":
        await world.converge()
        world.model.given = {entry_id: data for entry_id, (_, data) in before.contents.items()}
        _check_alone(world)
    else:
        at_promotion = await _promote(world, new, ask=story.ask)
        replayed = await _bring_back(world, clients, old, at_promotion, copied=before.head[0])
        _check_after_failover(world, at_promotion, replayed)
    world.claims_hold = True


async def backup_restored(world: World, clients: Clients, under_way: list[asyncio.Task[None]]) -> None:
    """The backup's disk breaks, and it is started on an older copy: the hashes tell, and `verify --repair` mends it."""
    story = world.plan.failover
    await asyncio.sleep(story.lost_at)
    copy = world.backup.disk.copy()
    await asyncio.sleep(story.away)
    world.put_back(world.backup, copy)
    world.claims_hold = False
    await _to_the_end_of_faults(world, under_way)
    await world.requeue()

    def told() -> bool:
        return world.are_equal() or world.look(world.primary).peer["mismatches"] > 0

    if not await world.until(told, max(world.loop.now, world.leases_free) + HEALED_WITHIN + COMPARED_WITHIN):
        world.fail("the backup is not the primary's equal, but nobody is told")

    async def do_repair() -> None:
        primary = world.primary.service
        async with asking.linked(primary) as link:
            found = await verify.compare(primary, link)
            world.note(f"repair {await verify.repair(primary, found.differences)}")

    if not world.are_equal():
        await _insist(world, world.primary, do_repair)
    await world.converge()
    world.claims_hold = True
    _check_alone(world)


async def _to_the_end_of_faults(world: World, under_way: list[asyncio.Task[None]]) -> None:
    await asyncio.sleep(max(0.0, BUSY_SECONDS - world.loop.now))
    await world.heal()
    await asyncio.gather(*under_way)


async def _bring_back(
    world: World, clients: Clients, old: Pop, at_promotion: Standing, *, copied: int | None = None
) -> dict[str, str | None]:
    """See the old primary fenced, and make it the new one's backup; return what was replayed.

    copied: the head of the copy that the old primary was restored from.
    """
    story = world.plan.failover
    await _fenced(world, old)
    clients.targets = [world.primary]
    _check_kept(world, old, at_promotion, copied)
    more = asyncio.create_task(clients.more(story.meanwhile))
    if story.crash_after is not None:
        world.faulty = True
        world.background(world.befall(Fault(world.loop.now + story.crash_after, "crash", world.pops.index(old), 0.3)))
    replayed = await _settle(world, old, replay=story.replay)
    await _reseed(world, old)
    world.faulty = False
    await more
    await world.converge()
    return replayed


async def _promote(world: World, pop: Pop, *, ask: bool) -> Standing:
    """Promote a POP, however often it takes; return what it held then."""

    async def promote() -> None:
        await promotion.promote(pop.service, force=True, ask=ask)

    world.observers[pop.name].at_promotion = None
    while world.look(pop).role != "primary":
        await world.start(pop)
        try:
            await world.operate(pop, promote)
        except ClavitorError as error:
            world.note(f"promote failed: {error}")
        await asyncio.sleep(0.1)
    world.primary, world.backup = pop, next(one for one in world.pops if one is not pop)
    pop.label = f"{pop.name}/{world.look(pop).epoch}"
    world.note(f"promoted {pop.label}")
    standing = world.observers[pop.name].at_promotion
    assert standing is not None
    return standing


async def _fenced(world: World, old: Pop) -> None:
    """Wait until the old primary knows that it is none; from then on it takes no write."""
    await world.start(old)
    deadline = max(world.loop.now, world.leases_free) + HEALED_WITHIN
    if not await world.until(lambda: world.look(old).role != "primary", deadline):
        world.fail(f"{old.name} was superseded, but has not noticed within {HEALED_WITHIN:.0f} s")
    world.note(f"{old.name} is {world.look(old).role}")


def _check_kept(world: World, old: Pop, at_promotion: Standing, copied: int | None) -> None:
    """Every write that the old primary acknowledged is at the new one, or is known to be missing there.

    copied: the head of the copy that it was restored from. Who restores one knows that what was written later is gone,
    but for what the backup has.
    """
    new, waiting = world.primary.name, world.look(old).queue
    fenced_at = world.observers[old.name].fenced_at
    epoch = world.look(world.primary).epoch - 1
    for write in world.model.done():
        if fenced_at is not None and write.pop == old.label and write.began > fenced_at:
            world.fail(f"{write} was acknowledged after {old.name} was fenced")
        if write.pop != (old.label if copied is None else old.name) or write.rev > (
            write.rev if copied is None else copied
        ):
            continue
        kept, rev, _ = at_promotion.versions.get(write.entry_id, (0, 0, ""))
        if (kept, rev) < (epoch, write.rev) and waiting.get(write.entry_id, 0) < write.rev:
            world.fail(f"{write} of rev {write.rev} is neither at {new} nor listed as unreplicated")
        same = copied is None and (kept, rev) == (epoch, write.rev)
        if same and at_promotion.contents[write.entry_id][1] != write.data:
            world.fail(f"{new} was promoted with other content than {write}")
    if copied is None:
        return
    for entry_id, (_, data) in at_promotion.contents.items():  # its revs mean two histories: only the content tells
        newest = world.model.newest(entry_id, old.label)
        if newest is not None and waiting.get(entry_id, 0) < newest.rev and data != newest.data:
            world.fail(f"{newest} of rev {newest.rev} is neither at {new} nor listed as unreplicated")


async def _settle(world: World, old: Pop, *, replay: bool) -> dict[str, str | None]:
    """Replay what only the old primary has, or discard it; return what was replayed, by entry."""
    replayed: dict[str, str | None] = {}

    async def do_replay() -> None:
        done = await fencing.replay(old.service, None)
        world.note(f"replay {done}")
        primary = world.look(world.primary)
        for entry_id in done.conflicts:
            replayed.pop(entry_id, None)
            if primary.versions[entry_id][:2] < (primary.epoch - 1, standing.queue[entry_id]):
                world.fail(f"replaying {entry_id} is a conflict, but nobody has written it since")

    async def do_discard() -> None:
        world.note(f"discard {await fencing.discard(old.service, None)}")

    standing = world.look(old)
    if replay:
        replayed = {entry_id: standing.contents[entry_id][1] for entry_id in standing.queue}
        await _insist(world, old, do_replay)
    await _insist(world, old, do_discard)
    if world.look(old).queue:
        world.fail(f"still queued at {old.name} after replay and discard: {world.look(old).queue}")
    return replayed


async def _reseed(world: World, old: Pop) -> None:
    async def do_reseed() -> None:
        async with asking.linked(old.service) as link:
            planned = await reseed.plan(old.service, link, asking.url_of(old.service))
            world.note(f"reseed resuming {planned.resuming}")
            done = await reseed.reseed(old.service, link, planned)
            world.note(f"reseed {done}")

    await _insist(world, old, do_reseed)


async def _insist(world: World, pop: Pop, work: object) -> None:
    """Do what an operator does, again and again until it has worked."""
    deadline = world.loop.now + 300.0
    while world.loop.now < deadline:
        for one in world.pops:
            await world.start(one)
        try:
            if await world.operate(pop, work):  # type: ignore[arg-type]
                return
        except ClavitorError as error:
            world.note(f"refused: {error}")
        await asyncio.sleep(1.0)
    world.fail("what the operator did never worked")


def _check_after_failover(world: World, at_promotion: Standing, replayed: dict[str, str | None]) -> None:
    """What the new primary has in the end is what its clients were told, what was replayed, or what it began with."""
    found = world.look(world.primary).contents
    new = world.primary.label
    for entry_id in sorted({*found, *at_promotion.entries, *replayed, *world.plan.ids}):
        rev, data = found.get(entry_id, (0, None))
        own = [one for one in world.model.of(entry_id) if one.pop == new]
        newest = world.model.newest(entry_id, new)
        began = at_promotion.contents.get(entry_id, (0, None))
        if newest is not None and rev < newest.rev:
            world.fail(f"{new}: {entry_id} is at rev {rev}, but {newest} was acknowledged as rev {newest.rev}")
        elif newest is not None and rev == newest.rev:
            if data != newest.data:
                world.fail(f"{new}: {entry_id} is {data}, but {newest} was acknowledged")
        else:
            possible = {one.data for one in own if one.outcome != "done"}
            if entry_id in replayed:
                possible.add(replayed[entry_id])
            if (rev, data) != began and data not in possible:
                world.fail(f"{new}: {entry_id} is {data} at rev {rev}, which nobody wrote there")
            if newest is None and not possible and (rev, data) != began:
                world.fail(f"{new}: {entry_id} has changed since the promotion, but nobody wrote it")
            if newest is None and entry_id in replayed and (rev, data) == began and data != replayed[entry_id]:
                world.fail(f"{new}: {entry_id} was replayed as {replayed[entry_id]}, but is {data}")


SCENES = {
    "faults": faults_alone,
    "failover": failover,
    "restored": restored,
    "backup_restored": backup_restored,
}
