"""Prometheus metrics of one app, aggregated over its worker processes when there are several.

A facade over prometheus_client: it checks names, remembers who owns each, and keeps the import (30 ms) out of
the start; what is counted before `load` is kept and handed over then. With several workers the supervisor sets
`PROMETHEUS_MULTIPROC_DIR` before they start, and a scrape of any of them answers for all.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from clavitor_host import log
from clavitor_host.errors import PluginError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of what `Metrics.render` returns."""

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

GaugeMode = Literal["all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent"]
"""How the gauges of several workers become one value; `live…` leaves out workers that have ended."""

LabelValues = tuple[str, ...]
Measured = float | Mapping[LabelValues, float]
Kind = Literal["counter", "gauge", "histogram"]

_NAME = re.compile(r"clavitor(_[a-z0-9]+)+")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED_LABELS = {"le", "quantile", "pid", "job", "instance"}
_RESERVED_SUFFIXES = ("_bucket", "_sum", "_count", "_created", "_info")
_PENDING_LIMIT = 1000


class MetricInfo(NamedTuple):
    """One metric as the reference lists it. `owner`: "host" or a plugin's name."""

    name: str
    type: Kind
    help: str
    labels: tuple[str, ...]
    owner: str


class _Instrument:
    """A metric, or one labelled child of it. Keep the child where the same labels are used often."""

    __slots__ = ("_children", "_make", "_real", "_shared", "info")

    def __init__(self, info: MetricInfo, shared: _Shared, make: Callable[[], Any]) -> None:
        self.info = info
        self._shared = shared
        self._make = make
        self._real: Any = None
        self._children: dict[LabelValues, Any] = {}

    def labels(self, *values: str) -> Self:
        """Return the child with these label values, given in the order the labels were declared."""
        child: Self | None = self._children.get(values)
        if child is None:
            if len(values) != len(self.info.labels):
                raise ValueError(f"{self.info.name} has the labels {self.info.labels}, got {values}")
            child = type(self)(self.info, self._shared, lambda: self.real().labels(*values))
            self._children[values] = child
        return child

    def real(self) -> Any:
        """Return the prometheus_client object (made at the first use after `load`)."""
        if self._real is None:
            self._real = self._make()
        return self._real

    def _do(self, method: str, value: float) -> None:
        if self._shared.loaded:
            getattr(self._real if self._real is not None else self.real(), method)(value)
        else:
            self._shared.postpone(self, method, value)


class Counter(_Instrument):
    """A number that only grows. Its name ends in `_total`."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self._do("inc", amount)


class Gauge(_Instrument):
    """A number that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Replace it."""
        self._do("set", value)

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self._do("inc", amount)

    def dec(self, amount: float = 1.0) -> None:
        """Take from it."""
        self._do("inc", -amount)


class Histogram(_Instrument):
    """How values are distributed over buckets."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        """Count one value."""
        self._do("observe", value)

    def observe_many(self, values: Sequence[float]) -> None:
        """Count many values at the cost of a few."""
        if not self._shared.loaded:
            for value in values:
                self.observe(value)
            return
        real = self.real()
        real._sum.inc(sum(values))
        for bucket, number in Tally(bisect_left(real._upper_bounds, value) for value in values).items():
            real._buckets[bucket].inc(number)


@dataclass(slots=True, eq=False)
class _OnScrape:
    info: MetricInfo
    measure: Callable[[], Awaitable[Measured]]


@dataclass(slots=True, eq=False)
class _Shared:
    """What the views of all owners have in common."""

    instruments: dict[str, _Instrument] = field(default_factory=dict)
    on_scrape: dict[str, _OnScrape] = field(default_factory=dict)
    infos: dict[str, MetricInfo] = field(default_factory=dict)
    pending: list[tuple[_Instrument, str, float]] = field(default_factory=list)
    before_render: list[Callable[[], None]] = field(default_factory=list)
    loaded: bool = False
    registry: CollectorRegistry | None = None

    def postpone(self, instrument: _Instrument, method: str, value: float) -> None:
        self.pending.append((instrument, method, value))
        # with several workers a scrape of another one reads the files they share: nothing may wait in here
        if len(self.pending) >= _PENDING_LIMIT or MULTIPROCESS_VARIABLE in os.environ:
            self.load()

    def load(self) -> CollectorRegistry:
        if self.registry is None:
            from prometheus_client import CollectorRegistry

            self.registry = CollectorRegistry()
            for instrument in self.instruments.values():
                instrument.real()
            self.loaded = True
            pending, self.pending = self.pending, []
            for instrument, method, value in pending:
                getattr(instrument.real(), method)(value)
        return self.registry


class Metrics:
    """Creates metrics for one owner and renders those of all. Names, helps and labels are checked at once."""

    def __init__(self, owner: str = "host", *, shared: _Shared | None = None) -> None:
        self._owner = owner
        self._shared = shared or _Shared()

    def scoped(self, owner: str) -> Metrics:
        """Return the same metrics for another owner: what a plugin's `metrics` hook is given."""
        return Metrics(owner, shared=self._shared)

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """Create a counter; its name ends in `_total`. Raises `PluginError` when the name is bad or taken."""
        if not name.endswith("_total"):
            raise PluginError(f"metric {name} of {self._owner}: a counter's name ends in _total")
        return self._create(Counter, name, help, labels)

    def gauge(self, name: str, help: str, labels: Sequence[str] = (), *, mode: GaugeMode = "livesum") -> Gauge:
        """Create a gauge. mode: how the values of several workers become one."""
        return self._create(Gauge, name, help, labels, multiprocess_mode=mode)

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float] | None = None
    ) -> Histogram:
        """Create a histogram; its name ends in a base unit such as `_seconds` or `_bytes`."""
        options = {} if buckets is None else {"buckets": tuple(buckets)}
        return self._create(Histogram, name, help, labels, **options)

    def on_scrape(
        self, name: str, help: str, measure: Callable[[], Awaitable[Measured]], labels: Sequence[str] = ()
    ) -> None:
        """Create a gauge whose value is measured at each scrape, once whatever the number of workers.

        measure: returns a number, or `{label values: number}` for a gauge with labels. When it fails the gauge
        is left out of that scrape and the error is logged.
        """
        info = self._claim(name, "gauge", help, labels)
        self._shared.on_scrape[name] = _OnScrape(info, measure)

    def describe(self) -> list[MetricInfo]:
        """Return every metric, by name."""
        return sorted(self._shared.infos.values(), key=lambda info: info.name)

    def load(self) -> None:
        """Import prometheus_client and hand over what was counted so far. Happens by itself when needed."""
        self._shared.load()

    def before_render(self, callback: Callable[[], None]) -> None:
        """Call `callback` before each `render`: for counts that are folded in late."""
        self._shared.before_render.append(callback)

    async def render(self) -> bytes:
        """Return all metrics in the text format 0.0.4 (`CONTENT_TYPE`)."""
        for callback in self._shared.before_render:
            callback()
        registry = self._shared.load()
        from prometheus_client import generate_latest

        families: list[Metric] = []
        directory = os.environ.get(MULTIPROCESS_VARIABLE)
        if directory:
            from prometheus_client.multiprocess import MultiProcessCollector

            names = {_family(name) for name in self._shared.infos}
            collected: Iterable[Metric] = MultiProcessCollector(None, directory).collect()  # type: ignore[no-untyped-call]
            families += [family for family in collected if family.name in names]
        else:
            families += registry.collect()
        for item in self._shared.on_scrape.values():
            family = await _measured(item)
            if family is not None:
                families.append(family)
        return generate_latest(_Families(families))

    def _create(self, cls: type[_I], name: str, help: str, labels: Sequence[str], **options: Any) -> _I:
        kind: Any = cls.__name__.lower()
        info = self._claim(name, kind, help, labels)
        shared = self._shared

        def make() -> Any:
            import prometheus_client

            real = getattr(prometheus_client, cls.__name__)
            return real(name, help, info.labels, registry=shared.load(), **options)

        instrument = cls(info, shared, make)
        shared.instruments[name] = instrument
        if shared.loaded:
            instrument.real()
        return instrument

    def _claim(self, name: str, kind: Kind, help: str, labels: Sequence[str]) -> MetricInfo:
        info = MetricInfo(name, kind, help, tuple(labels), self._owner)
        trouble = _trouble(info)
        if trouble:
            raise PluginError(f"metric {name} of {self._owner}: {trouble}")
        for other in self._shared.infos.values():
            if _family(other.name) == _family(name):
                raise PluginError(f"metric {name} of {self._owner}: {other.owner} has {other.name} already")
        self._shared.infos[name] = info
        return info


_I = TypeVar("_I", bound=_Instrument)


def forget_worker(pid: int, directory: str) -> None:
    """Drop the `live…` gauges of a worker process that has ended. Called by the supervisor."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]


class _Families:
    """What `generate_latest` reads: families that are collected already, without `_created` series."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = sorted(families, key=lambda family: family.name)

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


async def _measured(item: _OnScrape) -> Metric | None:
    from prometheus_client.core import GaugeMetricFamily

    info = item.info
    try:
        value = await item.measure()
        family = GaugeMetricFamily(info.name, info.help, labels=info.labels)
        if isinstance(value, Mapping):
            for labels, number in value.items():
                family.add_metric(labels, number)
        else:
            family.add_metric((), value)
    except Exception as error:  # noqa: BLE001 - whatever a plugin's function raises
        log.exception("A metric could not be measured", error, metric=info.name, owner=info.owner)
        return None
    return family


def _family(name: str) -> str:
    return name.removesuffix("_total")


def _trouble(info: MetricInfo) -> str | None:
    if not _NAME.fullmatch(info.name):
        return "a name starts with clavitor_ and is lower-case words joined by _"
    if info.name.endswith(_RESERVED_SUFFIXES):
        return f"a name must not end in any of {', '.join(_RESERVED_SUFFIXES)}"
    if info.type != "counter" and info.name.endswith("_total"):
        return "only a counter's name ends in _total"
    if not info.help.strip() or "\n" in info.help:
        return "its help must be one line"
    for label in info.labels:
        if not _LABEL.fullmatch(label) or label in _RESERVED_LABELS:
            return f"label {label!r} cannot be used"
    if len(set(info.labels)) != len(info.labels):
        return "a label is given twice"
    return None
