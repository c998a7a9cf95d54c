"""`python -m tests.simulation --seed N`: print what a seed does. `--seeds A-B`: run many and tell which fail.
`--mutants`: tell which seed is the first to catch each mutant, and how.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.mutants import MUTANTS, WITHIN
from tests.simulation.run import quiet, run


def main() -> int:
    """Return 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", metavar="A-B")
    parser.add_argument("--mutant", help="take one guard away: see mutants.py")
    parser.add_argument("--mutants", action="store_true")
    given = parser.parse_args()
    if given.seed is not None:
        trace = run(given.seed, given.mutant)
        sys.stdout.write(trace.text())
        return int(bool(trace.broken))
    if given.mutants:
        return _catch()
    first, _, last = (given.seeds or "0-99").partition("-")
    began, failed = time.process_time(), 0
    seeds = range(int(first), int(last or first) + 1)
    with quiet():
        for seed in seeds:
            trace = run(seed, given.mutant)
            if trace.broken:
                failed += 1
                print(f"seed {seed}: {trace.broken}", flush=True)
    print(f"{len(seeds)} seeds, {failed} failed, {time.process_time() - began:.1f} s of CPU")
    return int(bool(failed))


def _catch() -> int:
    with quiet():
        for mutant in MUTANTS:
            caught = next((trace for seed in range(WITHIN) if (trace := run(seed, mutant)).broken), None)
            if caught is None:
                print(f"{mutant}: not caught within {WITHIN} seeds")
                return 1
            print(f"{mutant}: seed {caught.seed}: {caught.broken}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
