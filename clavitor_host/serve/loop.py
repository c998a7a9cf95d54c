"""The event loop of a serving process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import uvloop

Result = TypeVar("Result")

PATIENCE = 0.1
"""Seconds that tasks left over at the end get to take their cancellation."""


def run(main: Coroutine[None, None, Result]) -> Result:
    """Run `main` on a uvloop of its own and return its result.

    `asyncio.run` would wait at the end for tasks that ignore their cancellation, and keep the process from ending.
    """
    loop = uvloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=PATIENCE))
        loop.set_exception_handler(lambda loop, context: None)  # nobody needs to hear of tasks that stayed
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
