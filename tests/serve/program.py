"""A program over the serving layer, for the tests to run: python program.py JSON.

JSON: `settings` (ServeSettings fields; `tls` a table), `bind` (list), `workers`, `stock` (Hypercorn's own protocols),
`limit` (body limit, wraps the app in BodyLimits), `fail` (how the start fails), `bundle` (a file: what tells
this program from others). Prints one JSON line per event.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hypercorn.protocol import ProtocolWrapper
from loguru import logger

from clavitor_host.errors import ClavitorError, ConfigError
from clavitor_host.serve import loop as event_loop
from clavitor_host.serve.limits import BodyLimits
from clavitor_host.serve.protocols import Link, protocol_of
from clavitor_host.serve.proxy import trust_proxies
from clavitor_host.serve.server import serve
from clavitor_host.serve.settings import ServeSettings, TlsSettings
from clavitor_host.serve.sockets import describe, from_systemd, listening
from clavitor_host.serve.supervisor import supervise
from clavitor_host.serve.worker import Worker, as_worker


def tell(event: str, **more: Any) -> None:
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **more}).encode() + b"\n")


class App:
    def __init__(self, options: dict[str, Any], worker: Worker | None) -> None:
        self.options = options
        self.worker = worker
        self.given: list[socket.socket] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
            return
        name = scope["path"].strip("/").replace("-", "_") or "hello"
        try:
            await getattr(self, name)(scope, receive, send)
        except asyncio.CancelledError:
            tell("cancelled", path=scope["path"])
            raise
        except Exception as error:
            tell("raised", path=scope["path"], error=type(error).__name__)
            raise
        finally:
            tell("ended", path=scope["path"])

    async def lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        tell("startup")
        match self.options.get("fail"):
            case "raise":
                raise ConfigError("limits.body: expected a number.")
            case "quart":  # as Quart's ASGILifespan reports it
                try:
                    raise ConfigError("limits.body: expected a number.")
                except ConfigError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
            case "message":
                await send({"type": "lifespan.startup.failed", "message": "no database"})
                return
            case "hang":
                await asyncio.Event().wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def reply(self, send: Any, body: bytes, *, status: int = 200, headers: Any = ()) -> None:
        start = {"type": "http.response.start", "status": status}
        await send({**start, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def read(self, receive: Any) -> int:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        return size

    async def hello(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, b"hello world\n")

    async def pid(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, json.dumps({"pid": os.getpid(), "worker": self.worker and self.worker.index}).encode())

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, b"%d" % await self.read(receive))

    async def scope(self, scope: Any, receive: Any, send: Any) -> None:
        shown = {key: scope[key] for key in ("client", "scheme", "http_version", "method")}
        shown["peer_certificate"] = scope["state"]["peer_certificate"]
        await self.reply(send, json.dumps(shown).encode())

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        tell("waiting", path="/wait")
        await asyncio.Event().wait()

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        tell("waiting", path="/slow")
        await asyncio.sleep(0.3)
        await self.reply(send, b"slow but sure")

    async def tail(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, b"answered")
        await asyncio.sleep(0.2)
        tell("tail done")

    async def early(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, b"no", status=401)

    async def early_stop(self, scope: Any, receive: Any, send: Any) -> None:
        """Stops reading in the middle."""
        await receive()
        await self.reply(send, b"enough", status=413)

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        tell("waiting", path="/stream")
        while True:
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.01)

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends as fast as the client reads, and never stops by itself."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        tell("waiting", path="/flood")
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    async def large(self, scope: Any, receive: Any, send: Any) -> None:
        await self.reply(send, b"y" * 5_000_000)

    async def crash(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("{broken} handler")

    async def crash_late(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("broken")

    async def stubborn(self, scope: Any, receive: Any, send: Any) -> None:
        tell("waiting", path="/stubborn")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                tell("ignored")

    async def ignore_body(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads no body, answers when told by a request to /release."""
        tell("waiting", path="/ignore-body")
        self.released = asyncio.Event()
        await self.released.wait()
        await self.reply(send, b"released")

    async def release(self, scope: Any, receive: Any, send: Any) -> None:
        self.released.set()
        await self.reply(send, b"ok")

    async def disconnect(self, scope: Any, receive: Any, send: Any) -> None:
        tell("waiting", path="/disconnect")
        while (message := await receive())["type"] == "http.request":
            pass
        tell("told", type=message["type"])

    async def give(self, scope: Any, receive: Any, send: Any, receiver: Any = None, *, sized: bool = True) -> None:
        """Hands the connection over to `keep`, where that can be; the body is `so far, ` and `given` or `streamed`."""
        size = [(b"content-length", b"%d" % len(b"so far, given"))] if sized else []
        await send({"type": "http.response.start", "status": 200, "headers": [*size, (b"connection", b"close")]})
        hand_over = scope["extensions"].get("clavitor.hand_over")
        given = hand_over is not None and await hand_over(b"so far, ", receiver or self.keep)
        tell("given", done=given, offered=hand_over is not None, client=scope["client"])
        if given:  # what a framework does that does not know
            await send({"type": "http.response.body", "body": b"dropped", "more_body": True})
        else:
            so_far = b"" if hand_over is not None else b"so far, "
            await send({"type": "http.response.body", "body": so_far + b"flown", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def keep(self, sock: socket.socket) -> None:
        self.given.append(sock)
        tell("kept", blocking=sock.getblocking(), inheritable=sock.get_inheritable())

    async def end(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers every connection that was given away: what its client has sent since, in upper case."""
        for sock in self.given:
            try:
                sock.send(sock.recv(100).upper())
            except BlockingIOError:
                sock.send(b"given")
            sock.close()
        await self.reply(send, b"%d" % len(self.given))
        self.given.clear()

    async def give_unsized(self, scope: Any, receive: Any, send: Any) -> None:
        await self.give(scope, receive, send, sized=False)

    async def give_badly(self, scope: Any, receive: Any, send: Any) -> None:
        def refuse(sock: socket.socket) -> None:
            raise ValueError("not this one")

        await self.give(scope, receive, send, refuse)

    async def give_without_descriptors(self, scope: Any, receive: Any, send: Any) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            await self.give(scope, receive, send)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    async def objects(self, scope: Any, receive: Any, send: Any) -> None:
        """Tells how many of each are alive."""
        gc.collect()
        names = [type(found).__name__ for found in gc.get_objects()]
        kinds = ("Connection", "Http1Protocol", "Stream", "Handlers", "Inbox", "Task", "TCPTransport")
        await self.reply(send, json.dumps({kind: names.count(kind) for kind in kinds}).encode())

    async def hang_loop(self, scope: Any, receive: Any, send: Any) -> None:
        tell("waiting", path="/hang-loop")
        time.sleep(3600)  # noqa: ASYNC251 - the point


def stock(link: Link) -> Any:
    arguments = link.hypercorn_arguments()
    return ProtocolWrapper(*arguments, link.alpn)  # type: ignore[call-arg]


def main() -> int:
    options = json.loads(sys.argv[1])
    logger.remove()
    logger.add(sys.stderr, level="INFO", diagnose=False)
    bundle = Path(options["bundle"]).read_text() if "bundle" in options else ""
    worker = as_worker(bundle=bundle)
    values = dict(options.get("settings", {}))
    if tls := values.pop("tls", None):
        names = {name: Path(value) for name, value in tls.items() if name != "client_certificates"}
        values["tls"] = TlsSettings(**names, client_certificates=tls.get("client_certificates", "none"))
    if "proxy_trusted" in values:
        values["proxy_trusted"] = tuple(values["proxy_trusted"])
    settings = ServeSettings(**values)
    fail = options.get("fail")
    if fail == "killed" and worker:
        os.kill(os.getpid(), signal.SIGKILL)
    if (fail == "worker" and worker) or (fail == "replacement" and Path(options["marker"]).exists()):
        print("error: the data folder is not writable", file=sys.stderr)
        return 3
    try:
        if worker is not None:
            run(options, settings, worker.sockets, worker)
            return 0
        with listening(options.get("bind", ["127.0.0.1:0"])) as bound:
            sockets = from_systemd() or bound
            tell("bound", address=[describe(sock, tls=settings.tls is not None) for sock in sockets])
            if "workers" in options:
                return supervise(
                    [sys.executable, *sys.argv],
                    sockets,
                    options["workers"],
                    bundle=bundle,
                    ready=lambda: tell("supervising"),
                )
            run(options, settings, sockets, None)
    except ClavitorError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: dict[str, Any], settings: ServeSettings, sockets: Any, worker: Worker | None) -> None:
    app: Any = App(options, worker)
    if "limit" in options:
        app = BodyLimits(app, lambda method, path: options["limit"], settings)
    app = trust_proxies(app, settings.proxy_trusted, settings.proxy_header)

    def ready() -> None:
        if worker is not None:
            worker.ready()
        tell("ready", pid=os.getpid(), worker=worker and worker.index)

    serving = serve(
        app,
        settings,
        sockets=sockets,
        on_shutdown=lambda: tell("on_shutdown"),
        ready=ready,
        protocols=stock if options.get("stock") else protocol_of,
    )
    event_loop.run(serving)


if __name__ == "__main__":
    code = main()
    gc.freeze()
    sys.exit(code)
