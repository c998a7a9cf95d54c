"""Metrics: names, owners, several workers, and what promtool says (operations.md section 6)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.errors import PluginError
from clavitor_host.metrics import Metrics


def sample(text: bytes, line: str) -> bool:
    return line in text.decode().splitlines()


async def fill(metrics: Metrics) -> None:
    """Use one metric of every kind, with values that need escaping."""
    metrics.counter("clavitor_http_requests_total", "Requests, by route.", ("route",)).labels('/a"b\\c\n<x>').inc()
    metrics.gauge("clavitor_connections", "Open connections.").set(3)
    metrics.histogram("clavitor_request_duration_seconds", "Time to answer.", ("route",)).labels("/a").observe(0.2)
    metrics.gauge("clavitor_empty_bytes", "Has no child yet.", ("kind",))

    async def entries() -> Mapping[tuple[str, ...], float]:
        return {("live",): 5, ("deleted",): 2}

    metrics.on_scrape("clavitor_entries", "Entries, by state.", entries, ("state",))


async def test_every_kind_is_rendered() -> None:
    metrics = Metrics()
    await fill(metrics)
    text = await metrics.render()
    assert sample(text, r'clavitor_http_requests_total{route="/a\"b\\c\n<x>"} 1.0')
    assert sample(text, "clavitor_connections 3.0")
    assert sample(text, 'clavitor_request_duration_seconds_count{route="/a"} 1.0')
    assert sample(text, 'clavitor_entries{state="live"} 5.0')
    assert b"_created" not in text
    assert all(line.startswith(("#", "clavitor_")) for line in text.decode().splitlines())


async def test_promtool_finds_nothing() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: install the Debian package prometheus")
    metrics = Metrics()
    await fill(metrics)
    text = await metrics.render()

    def check(data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["promtool", "check", "metrics"], input=data, capture_output=True, check=False)

    done = check(text)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert check(text.replace(b"_requests_total", b"_requests")).returncode != 0, "promtool can see a bad name"


async def test_what_is_counted_before_the_first_scrape_is_kept() -> None:
    metrics = Metrics()
    counter = metrics.counter("clavitor_early_total", "Early.", ("kind",))
    child = counter.labels("a")
    child.inc()
    counter.labels("a").inc(2)
    gauge = metrics.gauge("clavitor_level", "Level.")
    gauge.set(5)
    gauge.inc()
    gauge.dec(3)
    text = await metrics.render()
    assert sample(text, 'clavitor_early_total{kind="a"} 3.0')
    assert sample(text, "clavitor_level 3.0")
    child.inc()
    assert sample(await metrics.render(), 'clavitor_early_total{kind="a"} 4.0')


def test_prometheus_client_is_imported_late() -> None:
    code = (
        "import sys; from clavitor_host.metrics import Metrics\n"
        "m = Metrics(); c = m.counter('clavitor_x_total', 'X.'); c.inc()\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "for _ in range(2000): c.inc()\n"
        "assert 'prometheus_client' in sys.modules and not m._shared.pending\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_metric_made_after_the_first_scrape_works() -> None:
    metrics = Metrics()
    await metrics.render()
    metrics.counter("clavitor_late_total", "Late.").inc()
    assert sample(await metrics.render(), "clavitor_late_total 1.0")


async def test_two_apps_do_not_share_values() -> None:
    one, two = Metrics(), Metrics()
    for metrics in (one, two):
        metrics.counter("clavitor_x_total", "X.")
    one.counter("clavitor_y_total", "Y.").inc()
    assert b"clavitor_y_total" not in await two.render()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m.counter("requests_total", "X."), "starts with clavitor_"),
        (lambda m: m.counter("clavitor_Requests_total", "X."), "starts with clavitor_"),
        (lambda m: m.counter("clavitor_requests", "X."), "a counter's name ends in _total"),
        (lambda m: m.gauge("clavitor_requests_total", "X."), "only a counter's name ends in _total"),
        (lambda m: m.gauge("clavitor_requests_count", "X."), "must not end in"),
        (lambda m: m.gauge("clavitor_x", " "), "its help must be one line"),
        (lambda m: m.gauge("clavitor_x", "two\nlines"), "its help must be one line"),
        (lambda m: m.gauge("clavitor_x", "X.", ("le",)), "label 'le' cannot be used"),
        (lambda m: m.gauge("clavitor_x", "X.", ("A-b",)), "label 'A-b' cannot be used"),
        (lambda m: m.gauge("clavitor_x", "X.", ("a", "a")), "a label is given twice"),
    ],
)
def test_bad_names_are_refused(make: Callable[[Metrics], Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make(Metrics("probe"))


def test_a_taken_name_names_its_owner() -> None:
    metrics = Metrics()
    metrics.scoped("audit_export").counter("clavitor_x_total", "X.")
    for other in (
        lambda: metrics.scoped("probe").counter("clavitor_x_total", "X."),
        lambda: metrics.scoped("probe").gauge("clavitor_x", "X."),
    ):
        with pytest.raises(PluginError, match=r"of probe: audit_export has clavitor_x_total already"):
            other()


def test_a_wrong_number_of_label_values_is_an_error() -> None:
    counter = Metrics().counter("clavitor_x_total", "X.", ("a", "b"))
    with pytest.raises(ValueError, match="has the labels"):
        counter.labels("1")


def test_describe_lists_everything() -> None:
    metrics = Metrics()
    metrics.scoped("probe").gauge("clavitor_z", "Z.", ("kind",))

    async def measure() -> float:
        return 1

    metrics.on_scrape("clavitor_a", "A.", measure)
    assert [(m.name, m.type, m.help, m.labels, m.owner) for m in metrics.describe()] == [
        ("clavitor_a", "gauge", "A.", (), "host"),
        ("clavitor_z", "gauge", "Z.", ("kind",), "probe"),
    ]


async def test_a_value_that_cannot_be_measured_is_left_out() -> None:
    metrics = Metrics()

    async def fails() -> float:
        raise OSError("the database is away")

    async def works() -> float:
        return 7

    metrics.on_scrape("clavitor_away", "Away.", fails)
    metrics.on_scrape("clavitor_here", "Here.", works)
    text = await metrics.render()
    assert sample(text, "clavitor_here 7.0")
    assert b"clavitor_away" not in text


WORKER = """
import asyncio, os, sys
from clavitor_host.metrics import Metrics
metrics = Metrics()
metrics.counter("clavitor_x_total", "X.", ("kind",)).labels("a").inc(2)
metrics.gauge("clavitor_open", "Open.").set(3)
metrics.gauge("clavitor_state", "State.", mode="livemax").set(1)
metrics.histogram("clavitor_wait_seconds", "Wait.", buckets=(1, 5)).observe(2)
async def entries(): return 9
metrics.on_scrape("clavitor_entries", "Entries.", entries)
text = asyncio.run(metrics.render()).decode()
if sys.argv[1] == "show":
    print(text)
else:
    print(os.getpid())
"""


def test_values_are_aggregated_over_workers(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def worker(what: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", WORKER, what], env=env, capture_output=True, text=True, check=True
        ).stdout

    dead = int(worker("work"))
    lines = worker("show").splitlines()
    assert 'clavitor_x_total{kind="a"} 4.0' in lines
    assert "clavitor_open 6.0" in lines
    assert "clavitor_state 1.0" in lines
    assert 'clavitor_wait_seconds_bucket{le="5.0"} 2.0' in lines
    assert "clavitor_entries 9.0" in lines
    assert "# HELP clavitor_x_total X." in lines
    code = f"from clavitor_host.metrics import forget_worker; forget_worker({dead}, {str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    lines = worker("show").splitlines()
    assert 'clavitor_x_total{kind="a"} 6.0' in lines, "a counter keeps what a dead worker counted"
    assert "clavitor_open 6.0" in lines, "a live gauge does not"
