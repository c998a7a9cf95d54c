"""Entry reads over HTTP against bare programs under the same server."""

from __future__ import annotations

from bench.report import Section
from bench.rounds import Bench
from bench.seed import seeded

CONNECTIONS = 32
TARGET = 0.75


def run(bench: Bench, *, quick: bool) -> Section:
    """Measure reads at 1,000 and at 1,000,000 entries (quick: 100,000)."""
    most = 100_000 if quick else 1_000_000
    few, many = seeded(1000), seeded(most)
    floors = {
        "bare ASGI, our server": "asgi",
        "bare ASGI, stock Hypercorn": "stock-asgi",
        "bare Quart route, our server": "quart",
        "bare Quart route, stock Hypercorn": "stock-quart",
    }
    hello, stock, quart, _ = [
        bench.http(name, bench.server(kind), "hello", CONNECTIONS) for name, kind in floors.items()
    ]
    small, large = [
        bench.http(
            f"GET an entry, {count:,} of them",
            bench.server("product", f"--data={vault.folder}"),
            "get",
            CONNECTIONS,
            token=vault.token,
            entries=count,
        )
        for vault, count in ((few, 1000), (many, most))
    ]
    section = Section(f"Reads: {CONNECTIONS} connections, bearer token, 1 KiB blob", measured=bench.run("reads"))
    section.compare(small, hello, TARGET)
    section.compare(large, small, TARGET)
    section.compare(large, hello)
    section.compare(small, quart)
    section.compare(small, stock)
    return section
