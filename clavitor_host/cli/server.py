"""From the configuration to a running server. Loads no command line: starting must be quick."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clavitor_host.cli.invocation import Invocation

if TYPE_CHECKING:
    import asyncio
    import socket

    from clavitor_host.config.models import HostConfig
    from clavitor_host.host import Host
    from clavitor_host.serve.settings import ServeSettings
    from clavitor_host.serve.worker import Worker

GC_THRESHOLDS = (5000, 20, 20)
"""Requests make little garbage in cycles: look for it less often than Python does by itself (700, 10, 10)."""


def run_server(call: Invocation) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. Raises ConfigError, StartError."""
    from clavitor_host import __version__, log
    from clavitor_host.plugins.frozen import bundle_digest
    from clavitor_host.serve.sockets import describe, from_systemd, listening
    from clavitor_host.serve.worker import as_worker

    signal.signal(signal.SIGTERM, _leave)  # until the server has its own handler
    bundle = bundle_digest()
    worker = as_worker(bundle=bundle)
    config = call.config.host
    log.setup(config.log.level.upper(), json_lines=config.log.format == "json")
    settings = serve_settings(config)
    if worker is not None:
        _run(call, settings, worker.sockets, worker.ready, worker)
        return 0
    log.info(f"Starting Clavitor Vault v{__version__} - {call.registry.edition.capitalize()} Edition")

    def run(sockets: Sequence[socket.socket]) -> int:
        def ready() -> None:
            for sock in sockets:
                log.info(f"Listening on {describe(sock, tls=settings.tls is not None)}")

        if config.workers > 1:
            from clavitor_host.serve.supervisor import SupervisorSettings, supervise

            patience = SupervisorSettings(stop_timeout=settings.graceful + 0.3)
            command = [sys.executable, *sys.orig_argv[1:]]
            return supervise(command, sockets, config.workers, bundle=bundle, ready=ready, settings=patience)
        _run(call, settings, sockets, ready, None)
        return 0

    inherited = from_systemd()
    if inherited:
        return run(inherited)
    with listening([config.bind], backlog=settings.backlog) as sockets:
        return run(sockets)


def serve_settings(config: HostConfig) -> ServeSettings:
    """Return the bounds of the serving layer that the configuration asks for."""
    from clavitor_host.serve.settings import ServeSettings, TlsSettings

    tls, limits = config.tls, config.limits
    endpoint = None
    if tls.cert is not None and tls.key is not None:
        endpoint = TlsSettings(tls.cert, tls.key, tls.client_ca, tls.client_auth)
    return ServeSettings(
        tls=endpoint,
        graceful=limits.graceful,
        max_connections=limits.max_connections,
        tls_handshake_timeout=limits.header_timeout,
        header_timeout=limits.header_timeout,
        idle_timeout=limits.keep_alive,
        send_timeout=limits.send_timeout,
        max_header_size=limits.header_bytes,
        body_timeout=limits.body_timeout,
        proxy_trusted=tuple(config.trusted_proxies),
        proxy_header=config.proxy_header,
    )


def _run(
    call: Invocation,
    settings: ServeSettings,
    sockets: Sequence[socket.socket],
    ready: Callable[[], None],
    worker: Worker | None,
) -> None:
    """Serve in this process until it is told to stop."""
    import asyncio
    import gc

    from clavitor_host.app import around, create_host
    from clavitor_host.serve import loop
    from clavitor_host.serve.limits import BodyLimits
    from clavitor_host.serve.proxy import trust_proxies
    from clavitor_host.serve.server import serve as serve_forever
    from clavitor_host.web.body_limits import body_limits

    async def main() -> None:
        app = create_host(call.config, call.bundle, registry=call.registry)
        host = app.host
        if worker is not None:
            host.boot_id = worker.boot_id
        web = around(app)
        limited = BodyLimits(web, body_limits(web, host), settings)
        asgi = trust_proxies(limited, settings.proxy_trusted, settings.proxy_header)
        tasks: list[asyncio.Task[None]] = []

        def announce() -> None:
            gc.freeze()  # what is there now stays: later collections need not look at it
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
            ready()
            if worker is None or worker.index == 0:
                tasks.append(asyncio.create_task(_offer_setup(host, _base_url(host.config, sockets))))

        await serve_forever(asgi, settings, sockets=sockets, on_shutdown=host.shutdown.set, ready=announce)

    loop.run(main())


async def _offer_setup(host: Host, base_url: str) -> None:
    """Print the one-time link with which the first administrator is made, as long as there is none."""
    from clavitor_host import log
    from clavitor_host.identity.setup import setup_link

    try:
        link = await setup_link(host, base_url)
    except Exception as error:  # noqa: BLE001 - the server serves all the same
        log.exception("The setup link could not be made", error)
        return
    if link is not None:
        log.info(f"There is no administrator yet. Open this link once to make the first administrator: {link}")


def _base_url(config: HostConfig, sockets: Sequence[socket.socket]) -> str:
    """Return the URL for people: the configured one, else that of the first TCP socket as it was really bound."""
    import socket

    tcp = next((sock for sock in sockets if sock.family != socket.AF_UNIX), None)
    if config.public_url is not None or tcp is None:
        return config.base_url
    name = tcp.getsockname()
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return config.model_copy(update={"bind": f"{host}:{name[1]}"}).base_url


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(0)
