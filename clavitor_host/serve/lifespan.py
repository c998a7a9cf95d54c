"""The ASGI lifespan, with start-up failures as the exceptions they were."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from loguru import logger

from clavitor_host.errors import StartError
from clavitor_host.serve.handlers import ASGIApp


class Lifespan:
    """Starts and stops an application. `state` is shared with every request's `scope["state"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answer: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}

    async def startup(self, within: float) -> None:
        """Start the application. Raises what it raised, or `StartError` when it took longer than `within` seconds."""
        scope = {"type": "lifespan", "asgi": {"spec_version": "2.0", "version": "3.0"}, "state": self.state}
        self._task = asyncio.create_task(self._call(scope))
        try:
            async with asyncio.timeout(within):
                await self._ask("lifespan.startup")
        except TimeoutError:
            await self.cancel()
            raise StartError(f"The application did not start within {within:g} seconds.") from None
        except BaseException:
            await self.cancel()
            raise

    async def shutdown(self, within: float) -> None:
        """Stop the application; what goes wrong is logged."""
        if self._task is None or self._task.done():
            return
        try:
            async with asyncio.timeout(within):
                await self._ask("lifespan.shutdown")
        except TimeoutError:
            logger.bind(component="serve", within=within).error("The application did not stop in time")
        except Exception as error:  # noqa: BLE001 - the server outlives it
            logger.bind(component="serve").opt(exception=error).error("The application failed to stop")
        await self.cancel()

    async def cancel(self) -> None:
        """End the lifespan task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _call(self, scope: dict[str, Any]) -> None:
        error: BaseException | None = None
        try:
            await self._app(scope, self._messages.get, self._send)
        except Exception as raised:  # noqa: BLE001 - the server outlives it
            error = raised
        if self._answer is None or self._answer.done():
            if error is not None:
                logger.bind(component="serve").opt(exception=error).error("The application's lifespan failed")
        elif error is not None:
            self._answer.set_exception(error)
        else:
            self._answer.set_result(None)  # returned without an answer: it has no lifespan

    async def _ask(self, kind: str) -> None:
        self._answer = asyncio.get_running_loop().create_future()
        self._messages.put_nowait({"type": kind})
        await self._answer

    async def _send(self, message: dict[str, Any]) -> None:
        answer = self._answer
        if answer is None or answer.done():
            return
        if message["type"].endswith(".complete"):
            answer.set_result(None)
        else:
            # Frameworks report a failure from within their `except` block: the exception itself is still at hand.
            answer.set_exception(sys.exc_info()[1] or StartError(str(message.get("message", "the start failed"))))
