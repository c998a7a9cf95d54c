"""Tells a plugin that is a runtime what deployments want: after the commit, also after a crash, until it is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from clavitor_fleet.deployments.models import Deployment
from clavitor_fleet.deployments.store import CHANGED, PLACED, locked_deployment, placed_of
from clavitor_fleet.deployments.tables import deployments
from clavitor_fleet.records import SYSTEM, record
from clavitor_host.api import Deployment as Wanted
from clavitor_host.api import Problem

if TYPE_CHECKING:
    from clavitor_fleet.apps.models import Placed
    from clavitor_host.api import Host, Row, Transaction

HOOK: Final = "deployment_runtime"
AT_ONCE: Final = 8
"""Deployments that a runtime is told of side by side."""
START_TRIES: Final = 3
"""Failures after which a deployment that should run is FAILED."""
STOP_TRIES: Final = 10
"""Failures after which stopping is left to the operator."""
LONGEST_PAUSE: Final = 300
"""Seconds between two tries, at most."""
NAP: Final = 60.0
"""Seconds that the worker sleeps at most."""
MAX_FACTS: Final = 64 * 1024
"""Characters of JSON that a runtime's facts may have."""


async def run(host: Host) -> None:
    """Tell the runtime whatever there is to tell, as long as this process is the one that does."""
    wake = asyncio.Event()
    unsubscribe = host.signals.subscribe(CHANGED, lambda _: wake.set())
    try:
        async with asyncio.TaskGroup() as group:
            pool = _Pool(host, group, wake)
            while True:
                wake.clear()
                due = await pool.fill()
                pause = NAP if due is None else min(max((due - host.clock.now_us()) / 1_000_000, 0.05), NAP)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wake.wait()
    finally:
        unsubscribe()


async def reconcile(host: Host) -> int | None:
    """Tell the runtime what is due now; return when something is due next (µs), None for nothing."""
    wake = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        pool = _Pool(host, group, wake)
        while True:
            wake.clear()
            due = await pool.fill()
            if not pool.telling:
                return due
            await wake.wait()


class _Pool:
    """Deployments of which the runtime is being told. One that takes long holds up no other. `wake`: set when there is
    room again."""

    def __init__(self, host: Host, group: asyncio.TaskGroup, wake: asyncio.Event) -> None:
        self.telling: set[str] = set()
        self._host = host
        self._group = group
        self._wake = wake

    async def fill(self) -> int | None:
        """Begin with what is due, as far as there is room; return when something is due next (µs), None for nothing
        or while there is no room."""
        room = AT_ONCE - len(self.telling)
        if room == 0:
            return None
        due = deployments.c.reconcile_at <= self._host.clock.now_us()
        others = deployments.c.id.not_in(sorted(self.telling))
        query = PLACED.where(due, others).order_by(deployments.c.reconcile_at)
        rows = await self._host.db.fetch_all(query.limit(room))
        for row in rows:
            self.telling.add(row["id"])
            self._group.create_task(self._tell(row))
        if len(rows) == room:
            return None
        others = deployments.c.id.not_in(sorted(self.telling))
        next_due = sa.select(sa.func.min(deployments.c.reconcile_at)).where(others)
        found: int | None = await self._host.db.fetch_val(next_due)
        return found

    async def _tell(self, row: Row) -> None:
        try:
            await _tell(self._host, placed_of(row))
        finally:
            self.telling.discard(row["id"])
            self._wake.set()


async def _tell(host: Host, placed: Placed[Deployment]) -> None:
    try:
        facts = await _ask(host, placed)
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is the deployment's failure
        await _failed(host, placed.thing, f"{type(error).__name__}: {error}"[:500])
    else:
        await _done(host, placed.thing, facts)


async def _ask(host: Host, placed: Placed[Deployment]) -> Mapping[str, Any] | None:
    """Return the first answer of a runtime, None when none feels responsible. Raises what one raises, if none does."""
    one = placed.thing
    wanted = Wanted(
        id=one.id,
        app_id=one.app_id,
        environment_id=placed.environment_id,
        artifact_id=one.artifact_id or "",
        replicas=one.replicas,
        cpu_millis=one.cpu_millis or 0,
        memory_mb=one.memory_mb or 0,
        desired="stopped" if one.ended else "running",
    )
    failure: Exception | None = None
    for implementation in host.hooks.registry.live[HOOK]:
        try:
            answer = await host.hooks.call(implementation, host=host, deployment=wanted)
        except Exception as error:  # noqa: BLE001 - the next may answer
            host.hooks.report(implementation, error)
            failure = error
        else:
            if answer is not None:
                return _facts(answer)
    if failure is not None:
        raise failure
    return None


def _facts(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a runtime tells, as it can be kept. Raises `TypeError`, `ValueError` for what cannot."""
    facts = dict(answer)
    if len(json.dumps(facts, allow_nan=False)) > MAX_FACTS:
        raise ValueError(f"a runtime's facts may have {MAX_FACTS} characters of JSON")
    return facts


async def _done(host: Host, told: Deployment, facts: Mapping[str, Any] | None) -> None:
    async with host.db.transaction() as tx:
        now = await _current(tx, told.id)
        if now is None:
            return
        values: dict[str, Any] = {"updated_at": host.clock.now_us()}
        if facts is not None:
            values["runtime"] = facts
        if now.generation == told.generation:
            values |= {"reconcile_at": None, "attempts": 0}
            if now.status == "PRE_FLIGHT":
                values["status"] = "STARTING"
        await tx.execute(sa.update(deployments).where(deployments.c.id == told.id).values(**values))


async def _failed(host: Host, told: Deployment, message: str) -> None:
    async with host.db.transaction() as tx:
        now = await _current(tx, told.id)
        if now is None or (now.generation, now.attempts) != (told.generation, told.attempts):
            return
        attempts = now.attempts + 1
        at = host.clock.now_us()
        values: dict[str, Any] = {"attempts": attempts, "reconcile_at": at + _pause(attempts)}
        payload = {"deployment_id": now.id, "app_id": now.app_id}
        change = sa.update(deployments).where(deployments.c.id == now.id)
        if now.ended and attempts >= STOP_TRIES:
            await tx.execute(change.values(attempts=attempts, reconcile_at=None))
            details = {**payload, "message": message}
            tx.after_commit(lambda: _alert(host, details))
        elif not now.ended and attempts >= START_TRIES:
            failure = {"error": "runtime failed", "message": message}
            values = {"status": "FAILED", "failure": failure, "updated_at": at, "ended_at": at}
            values |= {"attempts": 0, "reconcile_at": at, "generation": now.generation + 1}
            await tx.execute(change.values(**values))
            title = "a deployment failed"
            await record(host, tx, SYSTEM, "fail_deployment", title=title, payload={**payload, "failure": failure})
        else:
            await tx.execute(change.values(**values))


async def _alert(host: Host, details: Mapping[str, Any]) -> None:
    message = f"A deployment that has ended could not be stopped: {details['message']}"
    await host.edition.alert_operator("deployment_not_stopped", message, details)


async def _current(tx: Transaction, deployment_id: str) -> Deployment | None:
    try:
        return await locked_deployment(tx, deployment_id)
    except Problem:
        return None


def _pause(attempts: int) -> int:
    """Return how long to wait after that many failures, in µs."""
    seconds: int = min(2**attempts, LONGEST_PAUSE)
    return seconds * 1_000_000
