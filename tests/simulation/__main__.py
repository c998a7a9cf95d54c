"""`python -m tests.simulation --seed N`: print what a seed does. `--seeds A-B`: run many and tell which fail."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.run import quiet, run


def main() -> int:
    """Return 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", metavar="A-B")
    parser.add_argument("--mutant", help="take one guard away: see mutants.py")
    given = parser.parse_args()
    if given.seed is not None:
        trace = run(given.seed, given.mutant)
        sys.stdout.write(trace.text())
        return int(bool(trace.broken))
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


if __name__ == "__main__":
    sys.exit(main())
