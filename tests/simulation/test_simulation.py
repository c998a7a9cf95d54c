"""Replication under every fault the simulation knows: after healing, nothing that was acknowledged is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.run import quiet, run

SEEDS = 2_000
EACH = 100
"""Seeds of one test, so that several processes share the work."""


@pytest.fixture
def silence() -> Iterator[None]:
    """Nothing is logged."""
    with quiet():
        yield


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, EACH))
def test_nothing_acknowledged_is_lost(first: int, silence: None) -> None:
    broken = [f"seed {seed}: {trace.broken}" for seed in range(first, first + EACH) if (trace := run(seed)).broken]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("seed", [3, 77, 1234])
def test_a_seed_gives_the_same_bytes_again(seed: int, silence: None) -> None:
    assert run(seed).text() == run(seed).text()


async def test_a_seed_gives_the_same_bytes_in_another_process() -> None:
    root = Path(__file__).parents[2]

    async def told(hash_seed: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.simulation", "--seed", "5",
            cwd=root, env={"PYTHONHASHSEED": hash_seed, "PATH": ""}, stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out

    first = await told("0")
    assert first.count(b"all invariants hold") == 1
    assert await told("4242") == first


def test_seeds_differ(silence: None) -> None:
    assert run(1).lines != run(2).lines
