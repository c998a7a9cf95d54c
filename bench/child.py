"""A server to measure, as a process: `python -m bench.child KIND --port N [--cpu N] [--data DIR] [--max-batch N]`.

Kinds: `asgi` and `quart` are the bare floors under the product's server, `stock-asgi` and `stock-quart` the same under
Hypercorn as it comes, `naive` the naive way, `product` is `clavitor serve` itself, `holding` the same with the plugin
that holds callers (`--tls FOLDER`: over TLS), `licensed` and `unlicensed` the same with and without licensing
(`--license FOLDER`: of the licence and its key), `fleet` the same with the fleet, and licensing without a licence,
`streams` the same with the fleet alone, for many agents that listen, `replicating` the same with replication
(`--replication JSON`: `role`, `peer`, and `hashes` "no" to leave out what proves two vaults equal).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any


def serve_ours(app: Any, port: int) -> None:
    """Serve a foreign application with the product's server until SIGTERM."""
    import socket

    import uvloop

    from clavitor_host.serve.server import serve
    from clavitor_host.serve.settings import ServeSettings

    async def run(bound: socket.socket) -> None:
        await serve(app, ServeSettings(), sockets=[bound], on_shutdown=lambda: None)

    with socket.create_server(("127.0.0.1", port), backlog=1024) as bound:
        uvloop.run(run(bound))


def set_commercial(distribution: str, plugin: Any) -> None:
    """Make this a server of the least edition and one plugin of a commercial bundle."""
    from clavitor_host.api import Plugin, hookimpl
    from clavitor_host.plugins import frozen
    from clavitor_host.plugins.models import FrozenPlugin

    class Edition(Plugin):
        name = "edition"
        version = "1.0.0"

        @hookimpl
        def edition_name(self) -> str:
            return "commercial"

    plugins = (FrozenPlugin("edition", Edition), FrozenPlugin(distribution, plugin))
    bundle = frozen.BundleInfo("bench", "commercial", plugins)
    vars(frozen)["frozen_set"] = lambda root=None: bundle


def set_replication(given: dict[str, str]) -> None:
    """Make this a server with the replication plugin, switched off unless there is a role."""
    from clavitor_commercial_replication.plugin import CommercialReplication

    set_commercial("clavitor-commercial-replication", CommercialReplication)
    if not given:
        return
    role = given["role"]
    settings = {
        "ROLE": role,
        "SOURCE_POP": role,
        "SECRET": "0" * 64,
        "BACKUP_URL": given.get("peer", ""),
        "PRIMARY_LOCATION": "http://127.0.0.1:1" if role == "backup" else "",
        "AUTHORIZED_PRIMARIES": '["primary"]' if role == "backup" else "",
    }
    for name, value in settings.items():
        if value:
            os.environ[f"CLAVITOR_COMMERCIAL_REPLICATION_{name}"] = value
    if given.get("hashes") == "no":
        from clavitor_commercial_replication import marking

        async def count_nothing(tx: Any, changes: Any, epoch: int, buckets: bytes) -> None:
            await tx.execute(
                "UPDATE replication_state SET head_rev = :head_rev WHERE id = 1", {"head_rev": changes[-1].rev}
            )

        vars(marking)["_count"] = count_nothing


def add_holding(tls: Path | None) -> None:
    """Make this a server that holds callers. It takes 2,200 connections."""
    from clavitor_commercial_tarpit.plugin import Tarpit

    set_commercial("clavitor-commercial-tarpit", Tarpit)
    os.environ["CLAVITOR_LIMITS_MAX_CONNECTIONS"] = "2200"
    if tls is not None:
        os.environ["CLAVITOR_TLS_CERT"] = str(tls / "server.pem")
        os.environ["CLAVITOR_TLS_KEY"] = str(tls / "server.key")


def set_licensing(folder: Path | None) -> None:
    """Make this a server with the licensing plugin and the licence in `folder`; None: without the plugin."""
    from dataclasses import replace

    from clavitor_host.plugins import frozen
    from clavitor_host.plugins.models import FrozenPlugin

    stock = frozen.frozen_set()
    plugins = tuple(plugin for plugin in stock.plugins if plugin.plugin.name != "licensing")
    if folder is not None:
        from clavitor_licensing.plugin import Licensing

        plugins = (*plugins, FrozenPlugin("clavitor-licensing", Licensing))
        os.environ["CLAVITOR_TENANT_ID"] = "bench"
        os.environ["CLAVITOR_LICENSE_PUBLIC_KEY"] = str(folder / "vendor.pub")
        os.environ["CLAVITOR_LICENSE_FILE"] = str(folder / "license.tok")
    bundle = replace(stock, plugins=plugins)
    vars(frozen)["frozen_set"] = lambda root=None: bundle


def set_fleet(*, licensing: bool) -> None:
    """Make this a server with the fleet. Agents stay live for long.

    licensing: with that too, which tells what is used; otherwise nothing is capped, and 5,000 connections are taken.
    """
    from dataclasses import replace

    from clavitor_fleet.plugin import FleetPlugin

    from clavitor_host.plugins import frozen
    from clavitor_host.plugins.models import FrozenPlugin

    stock = frozen.frozen_set()
    plugins = [plugin for plugin in stock.plugins if plugin.plugin.name not in ("fleet", "licensing")]
    plugins.append(FrozenPlugin("clavitor-fleet", FleetPlugin))
    if licensing:
        from clavitor_licensing.plugin import Licensing

        plugins.append(FrozenPlugin("clavitor-licensing", Licensing))
    else:
        os.environ["CLAVITOR_LIMITS_MAX_CONNECTIONS"] = "5000"
    bundle = replace(stock, plugins=tuple(plugins))
    vars(frozen)["frozen_set"] = lambda root=None: bundle
    os.environ["CLAVITOR_FLEET_HEARTBEAT_INTERVAL"] = "3600"


def serve_product(data: Path, port: int, max_batch: int | None, database_url: str) -> None:
    """Run `clavitor serve`. max_batch 1: one commit per request, everything else as it is."""
    if max_batch is not None:
        from clavitor_host import app
        from clavitor_host.storage.writer import GroupCommitWriter

        vars(app)["GroupCommitWriter"] = functools.partial(GroupCommitWriter, max_batch=max_batch)
    if database_url:
        os.environ["CLAVITOR_DATABASE_URL"] = database_url
    from clavitor_host.__main__ import main as clavitor

    os.chdir(data)  # away from any clavitor.toml
    sys.argv = ["clavitor", "serve", "--data-dir", str(data), "--bind", f"127.0.0.1:{port}"]
    clavitor()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="bench.child")
    parser.add_argument("kind")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cpu", type=int, action="append", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--max-batch", type=int)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--license", type=Path)
    parser.add_argument("--replication", type=json.loads)
    given = parser.parse_args()
    if given.cpu:
        os.sched_setaffinity(0, given.cpu)
    for name in [name for name in os.environ if name.startswith("CLAVITOR_")]:
        del os.environ[name]
    if given.kind == "holding":
        add_holding(given.tls)
    if given.kind in ("licensed", "unlicensed"):
        set_licensing(given.license if given.kind == "licensed" else None)
    if given.kind in ("fleet", "streams"):
        set_fleet(licensing=given.kind == "fleet")
    if given.kind == "replicating":
        set_replication(given.replication)
    if given.kind in ("product", "holding", "licensed", "unlicensed", "fleet", "streams", "replicating"):
        serve_product(given.data, given.port, given.max_batch, given.database_url)
        return
    from bench import floors

    if given.kind == "naive":
        from bench.naive import create_app

        floors.serve_stock(create_app(given.data / "vault.db"), given.port)
    else:
        app = floors.quart_hello() if given.kind.endswith("quart") else floors.hello
        (floors.serve_stock if given.kind.startswith("stock-") else serve_ours)(app, given.port)


if __name__ == "__main__":
    main()
