"""An agent's side: registering, heartbeats, commands and changed entries, telemetry.

async with AgentClient(url, token, app_id=…, instance_id=…, version=…) as agent:
    async for event in agent.events():
        match event:
            case Command():
                await agent.acknowledge(event)
            case EntryChanged(deleted=False):
                entry = await agent.entry(event.entry_id)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from clavitor_host.client.artifacts import download, save
from clavitor_host.client.connection import Backoff
from clavitor_host.client.errors import CapReached, ClientError, Forbidden, ServerUnavailable, Unauthorized
from clavitor_host.client.events import open_stream
from clavitor_host.client.lines import Outage, log
from clavitor_host.client.reports import Reports
from clavitor_host.client.servers import Parse, Servers, T
from clavitor_host.client.session import AGENTS, Session
from clavitor_host.client.values import Command, Entry, Event, Origin, Resync

_LAST_FLUSH = 5.0
"""Seconds that leaving waits for telemetry to be sent."""


class AgentClient(Session):
    """One agent. As a context it registers (again, when the server has forgotten it), and sends heartbeats and
    telemetry in the background. It uses one event loop.

    url: of the server; with several, the others only answer `entry` and `entries` while the first does not. token: what
    may register: a registration token of the app's environment. options: of `httpx.AsyncClient`, such as `verify`. Its
    methods raise `ServerUnavailable` and `Refused`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: str,
        *,
        app_id: str,
        instance_id: str,
        version: str,
        name: str | None = None,
        deployment_id: str | None = None,
        scope: Literal["read", "write"] = "read",
        **options: Any,
    ) -> None:
        wanted = {
            "app_id": app_id,
            "instance_id": instance_id,
            "version": version,
            "name": name,
            "deployment_id": deployment_id,
            "scope": scope,
        }
        self._servers = Servers(url, options)
        super().__init__(self._servers.all[0].connection, token, wanted)
        self.status: str | None = None
        """What this agent says of itself with its next heartbeat."""
        self.last_event_id = ""
        """How far `events` has come; keep it, and set it again, to go on there after a restart."""
        self.reports = Reports(self._send_rows)
        self._refusal = Outage("The server refuses heartbeats: %s", "The server takes heartbeats again")
        self._tasks: list[asyncio.Task[None]] = []
        self._began = False

    async def __aenter__(self) -> Self:
        await self._servers.__aenter__()
        try:
            await self._until_answered(self.register)
        except BaseException:
            await self._servers.__aexit__(None, None, None)
            raise
        self._tasks = [
            asyncio.create_task(self._beat(), name="agent heartbeats"),
            asyncio.create_task(self.reports.run(), name="agent reports"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if not self._left:
                with suppress(TimeoutError, ClientError):
                    async with asyncio.timeout(_LAST_FLUSH):
                        await self.reports.flush()
        finally:
            await self._servers.__aexit__(kind, error, trace)

    # --- being there

    async def heartbeat(self) -> int:
        """Show that this agent lives; return how many commands wait. Done in the background as well."""
        with self._noting_seat():
            told = await self._request("POST", f"{AGENTS}/{self.id}/heartbeat", body={"status": self.status})
        self.heartbeat_interval = float(told["heartbeat_interval"])
        return int(told["pending_commands"])

    async def leave(self) -> None:
        """Send what is still to be reported, and tell the server that this agent is gone: its seat is free at once."""
        for task in self._tasks:
            task.cancel()
        with suppress(TimeoutError, ClientError):
            async with asyncio.timeout(_LAST_FLUSH):
                await self.reports.flush()
        self._left = True
        await self._request("DELETE", f"{AGENTS}/{self.id}")

    # --- hearing

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield commands and changes of entries as they come, for ever: whatever cuts the connection, it goes on where
        it was. The first is a `Resync`: what changes from then on is heard. An event counts as heard when the next
        one is asked for. A new process hears first of all commands that nobody has acknowledged, also where it goes on
        at a `last_event_id` behind them. It ends when this agent has left."""
        backoff = Backoff()
        told = 0
        takes_over, self._began = bool(self.last_event_id) and not self._began, True
        while not self._left:
            asked, begins = None, not self.last_event_id
            try:
                if takes_over:
                    for command in await self._pending():
                        yield command
                        told = command.seq
                    takes_over = False
                stream = open_stream(self._connection, self.id, self._token, self.last_event_id)
                async with aclosing(stream):
                    async for id, event in stream:
                        backoff.reset()
                        if begins:
                            yield Resync("start")
                            begins = False
                        if event is not None and not (isinstance(event, Command) and event.seq <= told):
                            yield event
                        self.last_event_id = id
            except ServerUnavailable as error:
                asked = error.retry_after
            except Unauthorized:
                with suppress(CapReached):
                    await self._register_again(self._token)
            except Forbidden:
                with suppress(ServerUnavailable, Forbidden):  # without a seat: a heartbeat asks for one
                    await self.heartbeat()
            await backoff.wait(asked)

    async def acknowledge(
        self, command: Command, status: Literal["DONE", "FAILED"] = "DONE", detail: str | None = None
    ) -> None:
        """Say what came of a command. Raises `Conflict` when its time is over."""
        path = f"{AGENTS}/{self.id}/commands/{command.id}/ack"
        await self._request("POST", path, body={"status": status, "detail": detail})

    # --- reading and reporting

    async def entry(self, entry_id: str) -> Entry:
        """Return an entry of the agent's environment. Raises `NotFound`."""
        return await self._read(lambda told, _: Entry.of(told), f"/api/entries/{entry_id}")

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield all entries of the agent's environment: at the start, and after a `Resync`."""
        query: dict[str, Any] = {"include": "data", "limit": 100}
        while True:
            page, cursor = await self._read(_entries, "/api/entries", query)
            for found in page:
                yield found
            if cursor is None:
                return
            query["cursor"] = cursor

    async def artifact_content(self) -> bytes:
        """Return the bytes of `artifact`, checked against its hash. Raises `NotFound` when they are there no more, and
        `ClientError` when there is no artifact."""
        return b"".join([piece async for piece in self._content()])

    async def save_artifact(self, path: str | PathLike[str]) -> None:
        """Write the bytes of `artifact` to a file: whole and checked, or not at all. Raises what `artifact_content`
        does."""
        await save(self._content(), Path(path))

    def report(self, stream: str, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Have telemetry sent soon, in batches, each kept once. What became of it: `reports`.

        stream: `executions`, `processors`, `route_diagrams`, `agent_events`, `logs` or `metrics`.
        """
        self.reports.add(stream, [rows] if isinstance(rows, Mapping) else rows)

    # --- inside

    async def _read(self, parse: Parse[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        token = self._token
        try:
            return await self._servers.read(parse, path, token=token, query=query)
        except Unauthorized:
            if self._left:
                raise
            await self._register_again(token)
            return await self._servers.read(parse, path, token=self._token, query=query)

    async def _pending(self) -> Sequence[Command]:
        """Return the commands that nobody has acknowledged, in the order they were sent."""
        query = {"status": "PENDING", "limit": 1000}
        page = await self._request("GET", f"{AGENTS}/{self.id}/commands", query=query)
        return [Command(**{field: told[field] for field in Command._fields}) for told in page["commands"]]

    async def _content(self) -> AsyncGenerator[bytes, None]:
        if self.artifact is None:
            raise ClientError("There is no artifact: the agent's deployment does not say what it runs.")
        token = self._token
        try:
            async with aclosing(download(self._connection, self.id, token, self.artifact)) as pieces:
                async for piece in pieces:
                    yield piece
        except Unauthorized:  # as the answer: nothing has come
            await self._register_again(token)
            async with aclosing(download(self._connection, self.id, self._token, self.artifact)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_interval)
            try:
                await self.heartbeat()
                self._refusal.end()
            except (ServerUnavailable, CapReached):  # it is said; the next one asks again
                pass
            except ClientError as error:
                self._refusal.begin(error)
            except Exception:  # noqa: BLE001 - heartbeats outlive every error
                log.exception("A heartbeat failed")

    async def _send_rows(self, stream: str, rows: Sequence[Mapping[str, Any]], batch: str) -> None:
        try:
            headers = {"Idempotency-Key": batch}
            await self._request("POST", f"/api/v1/telemetry/{stream}", body=rows, headers=headers)
        except Forbidden as error:
            raise ServerUnavailable(error.detail) from error  # without a seat for now

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff()
        while True:
            try:
                await work()
            except ServerUnavailable as error:
                await backoff.wait(error.retry_after)
            else:
                return


def _entries(told: Any, _: Origin) -> tuple[Sequence[Entry], str | None]:
    return [Entry.of(found) for found in told["entries"]], told["next_cursor"]
