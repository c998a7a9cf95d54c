"""Entries of a vault, also while its primary is away.

async with VaultClient(["https://calgary.example.com", "https://zurich.example.com"], token) as vault:
    await vault.put("mail", encrypted)
    entry = await vault.get("mail")
    if entry.origin.as_of is not None:
        ...  # a backup answered: everything until then is in it
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from clavitor_host.client.connection import Answer
from clavitor_host.client.servers import Parse, Servers, T
from clavitor_host.client.values import BatchResult, ChangesPage, EntriesPage, Origin, VaultChange, VaultEntry, Written

LIMIT: Final = 100
"""Entries or changes a page, when nothing else is asked for."""

KEEP: Final = "(keep)"
"""As `environment_id`: an entry stays in the environment that it is in."""


class VaultClient:
    """Reads and writes entries. The server keeps what it is given: encrypt before you write.

    urls: of one server, or of several that hold the same vault, the primary first. token: of a user or an agent.
    options: of `httpx.AsyncClient`, such as `verify`. It uses one event loop.

    Reads go to the first server. When it is not reached, takes too long or answers 5xx, the next is asked; a server
    that did not answer is asked last for some seconds, up to a minute. `origin` of what is read tells who answered, and
    how old it can be.

    Writes go to the server that takes them, also after a promotion. One that certainly has not done a write (it was not
    reached, or says that it is read-only) leaves it to the next. After every other failure, such as a time-out, the
    write is sent nowhere again, be it idempotent or not: `OutcomeUnknown`. A `put` without conditions may simply be
    repeated; of anything else a read tells whether it was done, if no backup answers it (`origin.as_of` is None). A
    write that no server takes raises `ReadOnly`, which names the primary.

    You read what you wrote: reads ask for `min_rev`, the rev of the last write of this client, and a backup that has
    not got it does not answer them; when nobody else does either, they raise `Behind`.

    All methods raise `ServerUnavailable`, of which these three are kinds, and `Refused`.
    """

    def __init__(self, urls: str | Sequence[str], token: str, **options: Any) -> None:
        self.min_rev = 0
        """What reads must have seen. Set it to 0 to read what there is, or to go on with another client's."""
        self._servers = Servers(urls, options)
        self._token = token

    async def __aenter__(self) -> Self:
        await self._servers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._servers.__aexit__(kind, error, trace)

    # --- reading

    async def get(self, entry_id: str) -> VaultEntry:
        """Return an entry with its blob. Raises `NotFound`: from a backup (`origin.as_of`) it may be too early."""
        return await self._read(VaultEntry.of, _path(entry_id))

    async def list(self, *, data: bool = False) -> AsyncIterator[VaultEntry]:
        """Yield all living entries, newest write first. data: with their blobs."""
        cursor: str | None = None
        while True:
            page = await self.page(cursor, data=data)
            for entry in page.entries:
                yield entry
            cursor = page.next_cursor
            if cursor is None:
                return

    async def page(self, cursor: str | None = None, *, data: bool = False, limit: int | None = None) -> EntriesPage:
        """Return one page of what `list` yields. cursor: `next_cursor` of the page before."""
        query: dict[str, Any] = {"limit": limit or LIMIT, **_with(data)}
        if cursor is not None:
            query["cursor"] = cursor
        return await self._read(_entries, "/api/entries", query)

    async def changes(self, since: int = 0, *, data: bool = False, limit: int = LIMIT) -> ChangesPage:
        """Return the last change of every entry after the rev `since`, in order, deletions included: one page."""
        return await self._read(_changes, "/api/changes", {"since": since, "limit": limit, **_with(data)})

    # --- writing

    async def put(
        self,
        entry_id: str,
        encrypted_data: str,
        *,
        environment_id: str | None = KEEP,
        if_match: int | None = None,
        if_none_match: bool = False,
    ) -> Written:
        """Create or replace an entry. encrypted_data: base64. environment_id: None takes it out of any.

        if_match: the rev that it must have; if_none_match: it must not be there. Raises `Conflict` otherwise.
        """
        headers = _if_match(if_match)
        if if_none_match:
            headers["If-None-Match"] = "*"
        body = {"encrypted_data": encrypted_data, **_in(environment_id)}
        return await self._write("PUT", _written, _path(entry_id), body, headers)

    async def create(
        self, encrypted_data: str, *, entry_id: str | None = None, environment_id: str | None = None
    ) -> Written:
        """Create an entry; the server makes the id when none is given. Raises `Conflict` when it is there already."""
        body: dict[str, Any] = {"encrypted_data": encrypted_data, "environment_id": environment_id}
        if entry_id is not None:
            body["entry_id"] = entry_id
        return await self._write("POST", _written, "/api/entries", body)

    async def delete(self, entry_id: str, *, if_match: int | None = None) -> int:
        """Delete an entry; return the rev of that. if_match: the rev that it must have.

        Raises `NotFound`, `Conflict`.
        """
        return await self._write("DELETE", _rev, _path(entry_id), None, _if_match(if_match))

    async def batch(self, operations: Sequence[Mapping[str, Any]]) -> Sequence[BatchResult]:
        """Do up to 100 operations, all or none, in order. Raises `Conflict` or `NotFound`, and nothing is done.

        Each is a mapping with `operation` (`create`, `put` or `delete`), `entry_id`, and as it needs `encrypted_data`,
        `environment_id`, `if_match` (a rev), `if_none_match` (`*`).
        """
        return await self._write(
            "POST", _results, "/api/entries/batch", {"operations": [dict(one) for one in operations]}
        )

    # --- inside

    async def _read(self, parse: Parse[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        headers = {"X-Min-Rev": str(self.min_rev)} if self.min_rev else None
        return await self._servers.read(parse, path, token=self._token, query=query, headers=headers)

    async def _write(
        self, method: str, parse: Callable[[Any], T], path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> T:
        def done(told: Answer) -> tuple[T, int]:
            found = parse(told)
            return found, _rev(told)

        found, rev = await self._servers.write(method, done, path, token=self._token, body=body, headers=headers)
        self.min_rev = max(self.min_rev, rev)
        return found


def _path(entry_id: str) -> str:
    """Return the path of an entry. Dots alone would be taken for a way through folders."""
    name = entry_id.replace(".", "%2E") if entry_id in (".", "..") else quote(entry_id, safe="")
    return f"/api/entries/{name}"


def _with(data: bool) -> dict[str, str]:
    return {"include": "data"} if data else {}


def _in(environment_id: str | None) -> dict[str, str | None]:
    return {} if environment_id is KEEP else {"environment_id": environment_id}


def _if_match(rev: int | None) -> dict[str, str]:
    return {} if rev is None else {"If-Match": f'"{rev}"'}


def _entries(told: Any, origin: Origin) -> EntriesPage:
    return EntriesPage([VaultEntry.of(entry, origin) for entry in told["entries"]], told["next_cursor"], origin)


def _changes(told: Any, origin: Origin) -> ChangesPage:
    changes = [VaultChange.of(change) for change in told["changes"]]
    return ChangesPage(changes, int(told["next_since"]), bool(told["more"]), origin)


def _rev(told: Answer) -> int:
    told.value()
    return int(told.headers["X-Clavitor-Rev"])


def _written(told: Answer) -> Written:
    return Written.of(told.value(), created=told.status == 201)


def _results(told: Answer) -> Sequence[BatchResult]:
    return [BatchResult(one["entry_id"], one["operation"], int(one["rev"])) for one in told.value()["results"]]
