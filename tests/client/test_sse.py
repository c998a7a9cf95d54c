"""Server-Sent Events as they come in, cut anywhere."""

from __future__ import annotations

import pytest

from clavitor_host.client import sse
from clavitor_host.client.sse import EventParser, ServerSentEvent

STREAM = (
    b"retry: 2000\nid: 4.0\n\n"
    b":\n\n"
    b'id: 5.0\r\nevent: entry\r\ndata: {"a":1}\r\n\r\n'
    b"data: two\ndata:lines\nignored: x\n\n"
    b"event: nothing\n\n"
)
EVENTS = [
    ServerSentEvent("", "", "4.0"),
    ServerSentEvent("entry", '{"a":1}', "5.0"),
    ServerSentEvent("", "two\nlines", "5.0"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_the_same_wherever_the_pieces_end(size: int) -> None:
    parser = EventParser()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS
    assert (parser.retry, parser.last_id) == (2000, "5.0")


def test_an_event_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(ValueError, match="too long"):
        list(EventParser().feed(b"data: " + b"x" * 200))
