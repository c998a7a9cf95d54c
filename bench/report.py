"""What is printed, and what `--json` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.load import Result


@dataclass(slots=True)
class Measured:
    """One contender over all rounds. cpu: the server's CPU seconds a request, round by round; empty when unknown."""

    name: str
    rounds: list[Result] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Median over the rounds."""
        return median(result.per_second for result in self.rounds)

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        return [
            self.name,
            f"{self.per_second:,.0f}",
            f"{median(r.p50 for r in self.rounds) * 1e3:.2f}",
            f"{median(r.p99 for r in self.rounds) * 1e3:.2f}",
            f"{median(self.cpu) * 1e6:.0f}" if self.cpu else "",
            f"{median(r.busy for r in self.rounds) * 100:.0f} %" if any(r.busy for r in self.rounds) else "",
        ]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A value beside its floor. at_least False: the ratio must not be above the target. target None: to know only.

    by_cpu: the same ratio from the servers' CPU time a request, which other programs disturb less; None when unknown.
    """

    value: str
    floor: str
    ratio: float
    target: float | None = None
    at_least: bool = True
    by_cpu: float | None = None

    @property
    def verdict(self) -> str:
        """Return PASS or MISS, nothing without a target."""
        if self.target is None:
            return ""
        return "PASS" if (self.ratio >= self.target if self.at_least else self.ratio <= self.target) else "MISS"

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        sign = "≥" if self.at_least else "≤"
        target = "" if self.target is None else f"{sign} {self.target:g}"
        by_cpu = "" if self.by_cpu is None else f"{self.by_cpu:.2f}"
        return [self.value, self.floor, f"{self.ratio:.2f}", target, self.verdict, by_cpu]


@dataclass(slots=True)
class Section:
    """One table of figures and one of ratios. `unit`: what the first figure counts a second."""

    title: str
    unit: str = "req/s"
    measured: list[Measured] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    """Lines in place of the table of figures."""

    def compare(self, value: Measured, floor: Measured, target: float | None = None) -> None:
        """Add the median, over the rounds, of `value` by `floor` in the same round."""
        pairs = zip(value.rounds, floor.rounds, strict=True)
        ratio = median(ours.per_second / theirs.per_second for ours, theirs in pairs)
        by_cpu = median(floor.cpu) / median(value.cpu) if floor.cpu and value.cpu else None
        name = f"{value.name} ({value.per_second:,.0f})", f"{floor.name} ({floor.per_second:,.0f})"
        self.ratios.append(Ratio(*name, ratio, target, by_cpu=by_cpu))

    def text(self) -> str:
        """Return the section as it is printed."""
        lines = [self.title, "=" * len(self.title), *self.head]
        if self.measured:
            head = ["", self.unit, "p50 ms", "p99 ms", "cpu µs", "client"]
            lines += table([head, *(measured.cells() for measured in self.measured)], "<>>>>>")
        if self.ratios:
            head = ["value", "floor", "ratio", "target", "", "by cpu"]
            lines += ["", *table([head, *(ratio.cells() for ratio in self.ratios)], "<<>><>")]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Return everything, round by round."""
        return {**asdict(self), "verdicts": [ratio.verdict for ratio in self.ratios]}


def table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return aligned lines; `align` has `<` or `>` for each column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(align))]
    return ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)).rstrip() for row in rows]
