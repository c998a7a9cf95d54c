"""The network between POPs of one test process: requests reach the other app over ASGI, unless a test interferes."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

Forward = Callable[[httpx.Request], Awaitable[httpx.Response]]
Fault = Callable[[httpx.Request, Forward], Awaitable[httpx.Response]]
"""What happens to one request: hand it on with `forward` and return its answer, or anything else."""


class Network(httpx.AsyncBaseTransport):
    """Routes by `host:port`. `cut`: nothing gets through, nor the answers to what is on its way. `requests`: all that
    were made, newest last, of which the last thousand are kept. `faults`: what befalls the next requests, one each.
    `always`: what befalls the others."""

    def __init__(self) -> None:
        self.cut = False
        self.requests: deque[httpx.Request] = deque(maxlen=1000)
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.apps: dict[str, Any] = {}

    def add(self, url: str, app: Any) -> None:
        """Have requests to `url` reach an ASGI application."""
        self.apps[httpx.URL(url).netloc.decode()] = app

    def remove(self, url: str) -> None:
        """Have nobody answer at `url`."""
        self.apps.pop(httpx.URL(url).netloc.decode(), None)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.cut:
            raise httpx.ConnectError("the network is cut", request=request)
        answer = await self._answer(request)
        if self.cut:
            raise httpx.ReadError("the network was cut", request=request)
        return answer

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.faults:
            return await self.faults.popleft()(request, self._forward)
        if self.always is not None:
            return await self.always(request, self._forward)
        return await self._forward(request)

    async def _forward(self, request: httpx.Request) -> httpx.Response:
        app = self.apps.get(request.url.netloc.decode())
        if app is None:
            raise httpx.ConnectError("nobody listens there", request=request)
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 50001))
        response = await transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)


def answering(status: int, body: Any = None, **options: Any) -> Fault:
    """A fault: this answer in place of the other POP's. body: bytes, or a value for JSON."""

    async def fault(request: httpx.Request, forward: Forward) -> httpx.Response:
        if isinstance(body, bytes):
            return httpx.Response(status, content=body, request=request, **options)
        return httpx.Response(status, json=body, request=request, **options)

    return fault


async def lost_before(request: httpx.Request, forward: Forward) -> httpx.Response:
    """A fault: the request never arrives."""
    raise httpx.ReadTimeout("lost on the way", request=request)


async def lost_after(request: httpx.Request, forward: Forward) -> httpx.Response:
    """A fault: the request is answered, and the answer never arrives."""
    await forward(request)
    raise httpx.ReadTimeout("the answer was lost", request=request)


async def doubled(request: httpx.Request, forward: Forward) -> httpx.Response:
    """A fault: the request arrives twice."""
    await forward(request)
    return await forward(request)
