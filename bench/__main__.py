"""`python -m bench`: measure, print, and say where a target is missed. A miss is no failure: the exit code stays 0."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from bench import machine
from bench.report import Section
from bench.rounds import Bench, BrokenError, LoadGenerator, Pace

SECTIONS = ("get", "put", "postgres", "start", "bundle", "held", "licensing", "fleet", "streams", "replication")


def sections(cores: machine.Cores, pace: Pace, only: list[str], *, quick: bool) -> Iterator[Section]:
    """Run what is asked for and yield each section when it is done."""
    with LoadGenerator(cores) as load:
        for name in only:
            with ExitStack() as stack:
                bench = Bench(cores, pace, load, stack)
                if name == "get":
                    from bench import reads

                    yield reads.run(bench, quick=quick)
                elif name == "put":
                    from bench import writes

                    yield from writes.run(bench, quick=quick)
                elif name == "postgres":
                    from bench import postgres

                    yield postgres.run(bench)
                elif name == "start":
                    from bench import starts

                    yield starts.run(quick=quick)
                elif name == "held":
                    from bench import held

                    yield held.run(bench, quick=quick)
                elif name == "licensing":
                    from bench import licensing

                    yield licensing.run(bench, quick=quick)
                elif name == "fleet":
                    from bench import fleet

                    yield from fleet.run(bench, quick=quick)
                elif name == "streams":
                    from bench import streams

                    yield streams.run(bench, quick=quick)
                elif name == "replication":
                    from bench import replication

                    yield from replication.run(bench, quick=quick)
                else:
                    from bench import bundle

                    yield bundle.run(quick=quick)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this alone (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds, 100,000 entries at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    given = parser.parse_args()
    from bench.seed import CACHE

    CACHE.mkdir(exist_ok=True)
    started = monotonic()
    cores = machine.cores()
    pace = Pace(rounds=3, seconds=1.0, warm=0.3) if given.quick else Pace(rounds=5, seconds=2.0, warm=0.4)
    facts = machine.facts(CACHE, cores)
    for name, value in facts.items():
        print(f"{name:<11}{value}")
    done: list[Section] = []
    try:
        for section in sections(cores, pace, given.only or list(SECTIONS), quick=given.quick):
            print(f"\n{section.text()}", flush=True)
            done.append(section)
    except BrokenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    ratios = [ratio for section in done for ratio in section.ratios if ratio.verdict]
    missed = [ratio for ratio in ratios if ratio.verdict == "MISS"]
    print(f"\n{len(ratios) - len(missed)} of {len(ratios)} targets reached, in {monotonic() - started:.0f} s.")
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "sections": [s.to_json() for s in done]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
