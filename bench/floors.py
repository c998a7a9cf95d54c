"""The programs that set the floors: a bare ASGI application, a bare Quart route, and stock Hypercorn to run them."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.load import HELLO

_HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(HELLO))]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request alike: the least an ASGI application can do."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": HELLO})
        return
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def quart_hello() -> Any:
    """Return a Quart application with one bare route."""
    from quart import Quart, Response

    app = Quart("bench")

    @app.get("/")
    async def index() -> Response:
        return Response(HELLO, content_type="text/plain; charset=utf-8")

    return app


def serve_stock(app: Any, port: int) -> None:
    """Serve with Hypercorn as it comes, on uvloop, until SIGTERM."""
    import signal

    import uvloop
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.keep_alive_max_requests = 10_000_000
        config.errorlog = None
        await serve(app, config, shutdown_trigger=stop.wait)

    uvloop.run(run())
