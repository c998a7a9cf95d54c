"""What a seed does to the POPs: the clients' load, the weather, and the faults."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple, get_args

from tests.simulation.network import Weather

Kind = Literal["crash", "restart", "crash_at_commit", "cut", "cut_silently", "disk_full", "clock", "slow_disk", "token"]

Scenario = Literal["faults", "failover", "restored", "backup_restored"]

KINDS: tuple[Kind, ...] = get_args(Kind)

BUSY_SECONDS = 9.0
"""Virtual seconds in which clients write and things go wrong."""


class Fault(NamedTuple):
    """Something that goes wrong at a POP (0: the primary, 1: its backup).

    `seconds`: how long it lasts, or how long the process is down. `number`: by how many µs a clock is set; which commit
    from then on is the last one.
    """

    at: float
    kind: Kind
    pop: int
    seconds: float = 0.0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {'primary' if self.pop == 0 else 'backup'} {self.seconds:.3f} {self.number}"


class Failover(NamedTuple):
    """How a primary is lost and comes back; times in seconds.

    `away`: how long it is gone, or cut off. `ask`: whether the promotion asks it. `replay`: what only it has is
    replayed; otherwise discarded. `meanwhile`: writes while it is filled anew. `crash_after`: it crashes while that
    goes on. `back`: in the end it becomes the primary again. `mute`: the new primary cannot reach it, so it has to find
    out by itself. `busy`: clients write to an old copy before it has noticed that it is one.
    """

    lost_at: float
    how: Literal["crash", "cut", "cut_silently"]
    away: float
    promoted_after: float
    ask: bool
    replay: bool
    meanwhile: int
    crash_after: float | None
    back: bool
    mute: bool
    busy: bool


class Plan(NamedTuple):
    """One run. `grains`: of the POPs' wall clocks, in µs; `batch`: entries of one request at most, small so that there
    are several; `steady`: the primary's clock is never set."""

    writes: int
    ids: tuple[str, ...]
    clients: int
    hurry: float
    grains: tuple[int, int]
    weather: Weather
    faults: tuple[Fault, ...]
    batch: int
    before: bool
    steady: bool
    scenario: Scenario
    failover: Failover


def plan(chance: random.Random) -> Plan:
    """Return what is to happen."""
    scenario: Scenario = chance.choices(get_args(Scenario), (0.65, 0.22, 0.08, 0.05))[0]
    failing_over = scenario != "faults"  # the operator takes a part
    faults = sorted(_fault(chance) for _ in range(chance.randint(0 if failing_over else 1, 3)))
    crashes = failing_over or any(fault.pop == 0 and fault.kind in ("crash", "crash_at_commit") for fault in faults)
    if crashes:  # a lease is held by the wall clock: one that is set far back would hold it as long
        faults = [one._replace(number=_near(one.number)) if one.kind == "clock" else one for one in faults]
    return Plan(
        writes=chance.randint(15, 32),
        ids=tuple(f"e{number}" for number in range(chance.choice((3, 4, 6, 9)))),
        clients=chance.choice((1, 2, 4)),
        hurry=chance.choice((0.02, 0.3, 1.0)),
        grains=(chance.choice((1, 1, 1000, 1_000_000, 10_000_000)), chance.choice((1, 1_000_000))),
        weather=_weather(chance),
        faults=tuple(faults),
        batch=chance.choice((1, 2, 3, 100)),
        before=chance.random() < 0.15,
        steady=not any(fault.kind == "clock" and fault.pop == 0 for fault in faults),
        scenario=scenario,
        failover=Failover(
            lost_at=chance.uniform(0.5, 4.0),
            how=chance.choice(("crash", "cut", "cut_silently")),
            away=chance.uniform(0.5, 6.0),
            promoted_after=chance.uniform(0.0, 2.0),
            ask=chance.random() < 0.3,
            replay=chance.random() < 0.7,
            meanwhile=chance.choice((0, 5)),
            crash_after=chance.uniform(0.0, 0.2) if chance.random() < 0.3 else None,
            back=chance.random() < 0.3,
            mute=chance.random() < 0.3,
            busy=chance.random() < 0.5,
        ),
    )


def _weather(chance: random.Random) -> Weather:
    def maybe(most: float) -> float:
        return chance.random() * most if chance.random() < 0.4 else 0.0

    return Weather(
        slow=chance.choice((0.002, 0.05, 0.8)),
        lost=maybe(0.3),
        answer_lost=maybe(0.3),
        reset=maybe(0.3),
        garbled=maybe(0.3),
        repeated=maybe(0.8),
        late=chance.choice((0.5, 5.0, 25.0)),
    )


def _fault(chance: random.Random) -> Fault:
    kind = chance.choice(KINDS)
    number = 0
    if kind == "crash_at_commit":
        number = chance.randint(0, 24)
    elif kind == "clock":
        number = int(chance.choice((-1, 1)) * 10 ** chance.uniform(0, 10.8))
    return Fault(chance.random() * BUSY_SECONDS, kind, chance.randint(0, 1), chance.uniform(0.01, 5.0), number)


def _near(number: int) -> int:
    return max(-4_000_000, min(4_000_000, number))
