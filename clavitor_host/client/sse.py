"""Server-Sent Events, as they come in (HTML standard, section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_EVENT = 4 * 1024 * 1024
"""Bytes of one event; a longer one is an error."""


class ServerSentEvent(NamedTuple):
    """`id`: the last id that the stream has named, maybe by an earlier event. `data`: "" when it only names one."""

    name: str
    data: str
    id: str


class EventParser:
    """Turns the bytes of a stream into events. `retry`: the milliseconds that the server asks for, if it does."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._buffer = b""
        self._name = ""
        self._data: list[str] = []
        self._named = False

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that end in a further piece. Raises `ValueError` for one that does not end."""
        self._buffer += piece
        if len(self._buffer) + sum(map(len, self._data)) > MAX_EVENT:
            raise ValueError("an event is too long")
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            found = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if found is not None:
                yield found

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._end()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\x00" not in value:
            self.last_id = value
            self._named = True
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _end(self) -> ServerSentEvent | None:
        name, data, named = self._name, self._data, self._named
        self._name, self._data, self._named = "", [], False
        if not data and not named:
            return None
        return ServerSentEvent(name, "\n".join(data), self.last_id)
