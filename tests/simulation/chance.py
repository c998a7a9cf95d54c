"""Everything random in a run comes from its seed: `random`, `secrets`, `uuid` and `os.urandom` of the program too."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the sources of randomness of this process repeatable, and give them back afterwards."""
    module: Any = random
    urandom, own, state = os.urandom, module._urandom, random.getstate()
    source = random.Random(f"{seed}/urandom")
    os.urandom = module._urandom = source.randbytes
    random.seed(f"{seed}/random")
    try:
        yield
    finally:
        os.urandom, module._urandom = urandom, own
        random.setstate(state)


def stream(seed: int, name: str) -> random.Random:
    """Return a source of its own for one part of the simulation, so that one part's use does not move another's."""
    return random.Random(f"{seed}/{name}")
