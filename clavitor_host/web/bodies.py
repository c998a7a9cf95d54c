"""Request bodies of ordinary routes: taken from the connection only as fast as the handler reads them.

Quart by itself takes in whatever arrives, read or not, and ends a handler whose body fails without telling it why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import quart
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Quart
from quart.asgi import ASGIHTTPConnection
from quart.utils import cancel_tasks, raise_task_exceptions
from quart.wrappers.request import Body

from clavitor_host.errors import Problem
from clavitor_host.http import incomplete_body

HELD = 64 * 1024
"""Bytes of a body that wait for the handler; nothing more is taken from the connection then."""

GRACE = 1.0
"""Seconds that a handler whose client went in the middle of the body gets to end by itself. Our own server cancels it
sooner."""


class HeldBody(Body):
    """A body of which at most `HELD` bytes and one piece wait to be read, unless the whole is asked for."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self.asked = asyncio.Event()
        """Set when the handler first asks for the body."""
        self._room = asyncio.Event()
        self._whole = False

    async def room(self) -> None:
        """Wait until the next piece may be taken from the connection."""
        while len(self._data) >= HELD and not self._whole:
            self._room.clear()
            await self._room.wait()

    def fail(self, error: Problem) -> None:
        """Let the handler find `error` in place of the rest."""
        self._must_raise = error
        self._data.clear()
        self.set_complete()

    async def __anext__(self) -> bytes:
        self.asked.set()
        if not self._data and not self._complete.is_set():
            self._has_data.clear()
            await self._has_data.wait()
        if self._must_raise is not None:
            raise self._must_raise
        if not self._data:
            raise StopAsyncIteration
        data = bytes(self._data)
        self._data.clear()
        self._room.set()
        return data

    def __await__(self) -> Generator[Any, None, Any]:
        self._whole = True
        self.asked.set()
        self._room.set()
        return super().__await__()


class HeldRequest(quart.Request):
    """A Quart request with such a body."""

    body_class = HeldBody
    body: HeldBody


class HeldConnection(ASGIHTTPConnection):
    """Runs a handler beside the receipt of its body."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request. Ends the handler when the client goes, or when this is cancelled."""
        request = self._create_request_from_scope(send)
        tasks = {
            asyncio.ensure_future(self.handle_messages(request, receive)),
            asyncio.ensure_future(self.handle_request(request, send)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_tasks({task for task in tasks if not task.done()})
        raise_task_exceptions(tasks)

    async def handle_messages(self, request: quart.Request, receive: ASGIReceiveCallable) -> None:
        """Take in the body as there is room for it; return when the client is gone."""
        body = request.body
        assert isinstance(body, HeldBody)
        if "100-continue" in request.headers.get("Expect", "").lower():
            await body.asked.wait()  # a refusal from the head alone spares the client the body
        more = True
        while more:
            await body.room()
            try:
                message: Any = await receive()
            except Problem as error:  # too large or too slow
                body.fail(error)
                await asyncio.Event().wait()
            if message["type"] == "http.disconnect":
                body.fail(incomplete_body())
                await asyncio.sleep(GRACE)
                return
            body.append(message.get("body", b""))
            more = message.get("more_body", False)
        body.set_complete()
        while (await receive())["type"] != "http.disconnect":
            pass


def install(app: Quart) -> None:
    """Let the requests of `app` have such bodies."""
    app.request_class = HeldRequest
    app.asgi_http_class = HeldConnection
