"""A guard that nobody would miss is no guard: without each of these, the simulation fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.mutants import MUTANTS, WITHIN
from tests.simulation.run import quiet, run


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with quiet():
        yield


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: str, record_property: Callable[[str, object], None]) -> None:
    for seed in range(WITHIN):
        if broken := run(seed, mutant).broken:
            print(f"{mutant}: seed {seed}: {broken}")
            record_property("seed", seed)
            assert not run(seed).broken, "that seed fails without the mutant too"
            return
    pytest.fail(f"{mutant} is not caught within {WITHIN} seeds")
