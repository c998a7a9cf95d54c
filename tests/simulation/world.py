"""The two POPs of a run, what befalls them, and who watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from clavitor_commercial_replication import queue
from clavitor_commercial_replication.service import QUEUED

from clavitor_host.errors import ClavitorError, StorageUnavailable
from clavitor_host.identity.models import SYSTEM
from clavitor_host.identity.tokens import create_token, list_tokens, revoke_token
from tests.simulation.chance import stream
from tests.simulation.database import Disk
from tests.simulation.invariants import Observer, Standing, check_equal, check_mirror
from tests.simulation.loop import Loop, outside
from tests.simulation.model import Broken, Model
from tests.simulation.network import Network
from tests.simulation.pop import BACKUP, COMPARE, HEARTBEAT, PRIMARY, Crashed, Pop, template
from tests.simulation.schedule import Fault, Plan, plan

HEALED_WITHIN = 30.0
"""Virtual seconds after healing within which both POPs are equal (replication.md section 5)."""

LEASE = 32.0
"""Virtual seconds after a crash until the dead process's leases are free: before, nobody sends."""

COMPARED_WITHIN = 40.0
"""Virtual seconds within which both POPs then know that they are equal."""


class World:
    """`primary`, `backup`: which POP is to be which in the end. `faulty`: crashes may still come. `claims_hold`: how
    much the backup says it has, is to be there."""

    def __init__(self, seed: int, folder: Path, loop: Loop) -> None:
        self.seed = seed
        self.loop = loop
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.plan: Plan = plan(stream(seed, "plan"))
        self.network = Network(stream(seed, "network"), self.note)
        given = template(folder, before=self.plan.before)
        self.tokens = {PRIMARY: given.primary_token, BACKUP: given.backup_token}
        self.model = Model(given=dict(given.entries))
        self.pops = tuple(
            Pop(
                name,
                disk=Disk(folder / f"{name}.db", file, stream(seed, name)),
                network=self.network,
                loop=loop,
                folder=folder,
            )
            for name, file in ((PRIMARY, given.primary), (BACKUP, given.backup))
        )
        self.primary, self.backup = self.pops
        self.observers = {pop.name: Observer(pop) for pop in self.pops}
        self.leases_free = 0.0
        self.faulty = True
        self.claims_hold = True
        self._tasks: list[asyncio.Task[None]] = []
        for pop, grain in zip(self.pops, self.plan.grains, strict=True):
            pop.clock.grain = grain
            self._watch(pop, None)

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.lines.append(f"{self.loop.now:.6f} {line}")

    def fail(self, reason: str) -> None:
        """Note an invariant that does not hold."""
        self.note(f"BROKEN {reason}")
        self.broken.append(reason)

    def put_back(self, pop: Pop, copy: bytes) -> None:
        """Have a POP's disk break, and an older copy of it put in place; from there on revs are looked at anew."""
        self.crash(pop, "its disk breaks")
        pop.disk.replace(copy)
        self.note(f"{pop.name} has an old copy")
        self.observers[pop.name].close()
        self.observers[pop.name] = Observer(pop)
        self._watch(pop, None)

    def look(self, pop: Pop) -> Standing:
        """Return what is committed at a POP."""
        return self.observers[pop.name].standing()

    # --- what befalls them ---------------------------------------------------------------------------------------

    async def start(self, pop: Pop) -> None:
        """Start a POP that is down; a fault may end it at once."""
        if pop.running:
            return
        try:
            await pop.start()
            self.note(f"start {pop.name}")
        except (Crashed, ClavitorError) as error:
            pop.crash()
            self.note(f"start {pop.name} failed: {type(error).__name__}")

    def crash(self, pop: Pop, why: str) -> None:
        """End a POP's process."""
        if pop.running:
            self.note(f"crash {pop.name} {why}")
            pop.crash()
            self.leases_free = self.loop.now + LEASE

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something go on beside the run, outside of every process."""
        self._tasks.append(self.loop.create_task(work, context=outside()))

    async def befall(self, fault: Fault) -> None:
        """Let a fault happen, from its time to its end."""
        await asyncio.sleep(fault.at - self.loop.now)
        self.note(f"fault {fault}")
        pop = self.pops[fault.pop]
        match fault.kind:
            case "crash":
                self.crash(pop, "now")
                await self._restart(pop, fault.seconds)
            case "restart":
                try:
                    await pop.stop()
                except Crashed:
                    self.note(f"stop {pop.name} failed")
                await self._restart(pop, fault.seconds)
            case "crash_at_commit":
                self._watch(pop, fault)
            case "cut" | "cut_silently":
                self.network.cut(pop, silently=fault.kind == "cut_silently")
                await asyncio.sleep(fault.seconds)
                self.network.join_again(pop)
            case "disk_full":
                pop.disk.full_until = self.loop.now + fault.seconds
            case "slow_disk":
                pop.disk.slowest = 0.2
                await asyncio.sleep(fault.seconds)
                pop.disk.slowest = 0.004
            case "clock":
                pop.clock.ahead += fault.number
            case "token":
                await self.operate(pop, lambda: self._change_tokens(pop))

    async def _restart(self, pop: Pop, after: float) -> None:
        await asyncio.sleep(after)
        await self.start(pop)

    async def _change_tokens(self, pop: Pop) -> None:
        """Revoke the token that was made here before; or make one."""
        known, _ = await list_tokens(pop.host)
        made = next((token for token in known if token.kind == "agent"), None)
        if made is not None:
            await revoke_token(pop.host, made.id, requested_by=SYSTEM)
        else:
            await create_token(pop.host, name="another", kind="agent", environment_id="dev", requested_by=SYSTEM)

    def _watch(self, pop: Pop, fault: Fault | None) -> None:
        """Look at every commit of a POP, and crash it before or after the one that a fault names."""
        observer = self.observers[pop.name]
        last = None if fault is None else pop.disk.commits + 1 + fault.number // 2
        when = None if fault is None else ("before", "after")[fault.number % 2]

        def committed(phase: str, number: int) -> None:
            if phase == "after":
                try:
                    observer.look(self.loop.now)
                except Broken as error:
                    self.fail(str(error))
            if self.faulty and fault is not None and (number, phase) == (last, when):
                self.crash(pop, f"{phase} commit {number}")
                self.background(self._restart(pop, fault.seconds))

        pop.disk.on_commit = committed

    async def heal(self) -> None:
        """End every fault; clocks stay as they are."""
        self.note("heal")
        self.faulty = False
        self.network.heal()
        for pop in self.pops:
            pop.disk.full_until = 0.0
            pop.disk.slowest = 0.004
            await self.start(pop)

    async def operate(self, pop: Pop, work: Callable[[], Awaitable[None]]) -> bool:
        """Have an operator do something at a POP; False when it has crashed meanwhile, or is down."""
        if not pop.up:
            return False

        async def done() -> None:
            await work()

        try:
            await pop.run(done())
        except (Crashed, StorageUnavailable) as error:
            self.note(f"in vain at {pop.name}: {type(error).__name__}")
            return False
        return True

    # --- the end -------------------------------------------------------------------------------------------------

    async def until(self, true: Callable[[], bool], deadline: float, step: float = 0.5) -> bool:
        """Wait until something is so, or until it is too late; return whether it is."""
        while not true():
            if self.loop.now > deadline:
                return False
            await asyncio.sleep(step)
        return True

    async def converge(self) -> None:
        """Wait until both are equal, at most as long as they may take; then for what comes late; then until both know
        that they are equal."""
        for pop in self.pops:
            await self.start(pop)
        await self.requeue()
        if not await self.until(self.are_equal, max(self.loop.now, self.leases_free) + HEALED_WITHIN):
            return
        self.note("equal")
        await self.network.calm()
        since, sent = self.loop.now, self.network.sent
        if self.are_equal() and not await self.until(lambda: self._compared(since), since + COMPARED_WITHIN, 1.0):
            self.fail("the hashes were not compared")
        idle, sent = self.loop.now - since, self.network.sent - sent
        if sent > 2 + idle / HEARTBEAT + idle / COMPARE:
            self.fail(f"{sent} requests in {idle:.0f} s, though nothing was to be sent")

    async def requeue(self) -> None:
        """Do what the operator does about entries that something in between has refused."""

        async def requeue() -> None:
            host = self.primary.host
            async with host.db.transaction() as tx:
                await host.vault.lock(tx)
                if await queue.requeue(tx, None):
                    self.note("requeue")
                    await host.signals.send(tx, QUEUED)

        await self.operate(self.primary, requeue)

    def are_equal(self) -> bool:
        """Tell whether both have the same writes, and nothing waits."""
        (ours, waiting), (theirs, _) = (self.observers[pop.name].glance() for pop in (self.primary, self.backup))
        return not waiting and ours == theirs

    def _compared(self, since: float) -> bool:
        return all(self.observers[pop.name].compared_at() >= pop.clock.at(since) for pop in self.pops)

    def check(self) -> None:
        """Check each database alone, and both together."""
        try:
            ours, theirs = (self.observers[pop.name].check_alone() for pop in (self.primary, self.backup))
            check_equal(ours, theirs)
            if not self.network.rejected:  # tokens are not sent again for a while after a request with them was
                check_mirror(self.observers[self.primary.name], self.observers[self.backup.name])
            self.model.check_order()
        except Broken as error:
            self.fail(str(error))

    def tell(self) -> None:
        """Put what both databases hold into the trace."""
        for pop in self.pops:
            standing = self.look(pop)
            self.note(f"end {pop.name} {standing.role} {standing.epoch} {standing.stream_id} {standing.head}")
            for entry_id, row in standing.entries.items():
                self.note(f"end {pop.name} {entry_id} {row} {standing.versions.get(entry_id)}")

    async def close(self) -> None:
        """End every task that is left."""
        self.network.close()
        for pop in self.pops:
            pop.crash()
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0.001)
        for observer in self.observers.values():
            observer.close()
