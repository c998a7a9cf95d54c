"""The floor of the start-up time: the smallest program of Hypercorn and Quart. `python bench/bare.py PORT`."""

import asyncio
import signal
import sys

import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart

app = Quart("bare")


@app.get("/")
async def index() -> str:
    """Answer."""
    return "hello, world"


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.errorlog = None
    await serve(app, config, shutdown_trigger=stop.wait)


uvloop.run(main())
