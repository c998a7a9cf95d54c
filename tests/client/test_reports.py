"""Telemetry on its way: batches, repeated until they are answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from clavitor_host.client import AgentClient, reports
from clavitor_host.client.errors import Refused, ServerUnavailable, refusal
from clavitor_host.client.reports import Reports


class Receiver:
    """Takes batches; `errors` are raised first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.batches: list[tuple[str, list[int], str]] = []
        self._heard = asyncio.Condition()

    async def received(self, count: int) -> None:
        """Wait until so many batches have come."""
        async with asyncio.timeout(20), self._heard:
            await self._heard.wait_for(lambda: len(self.batches) >= count)

    async def __call__(self, stream: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        async with self._heard:
            self.batches.append((stream, [row["n"] for row in rows], name))
            self._heard.notify_all()
        if self.errors:
            raise self.errors.pop(0)


def too_large() -> Refused:
    return refusal(413, {"code": "body_too_large"})


async def test_rows_are_sent_in_order_at_most_a_thousand_at_once() -> None:
    receiver = Receiver()
    waiting = Reports(receiver)
    waiting.add("logs", ({"n": number} for number in range(2500)))
    await waiting.flush()
    assert [len(rows) for _, rows, _ in receiver.batches] == [1000, 1000, 500]
    assert [number for _, rows, _ in receiver.batches for number in rows] == list(range(2500))


async def test_a_batch_without_an_answer_is_sent_again_under_its_name() -> None:
    receiver = Receiver(ServerUnavailable("cut"))
    waiting = Reports(receiver)
    waiting.add("logs", [{"n": 1}])
    with pytest.raises(ServerUnavailable):
        await waiting.flush()
    waiting.add("logs", [{"n": 2}])
    await waiting.flush()
    first, again, more = receiver.batches
    assert first == again
    assert (more[1], more[2] != first[2]) == ([2], True)


async def test_what_the_server_does_not_take_is_counted_and_holds_nothing_up() -> None:
    receiver = Receiver(refusal(400, {"code": "invalid_field"}))
    waiting = Reports(receiver)
    waiting.add("logs", [{"n": 1}])
    waiting.add("metrics", [{"n": 2}])
    await waiting.flush()
    assert (waiting.refused, waiting.last_refusal is not None, len(receiver.batches)) == (1, True, 2)


async def test_a_batch_of_too_many_bytes_is_halved() -> None:
    receiver = Receiver(too_large(), too_large())
    waiting = Reports(receiver)
    waiting.add("logs", [{"n": number} for number in range(4)])
    await waiting.flush()
    assert [rows for _, rows, _ in receiver.batches] == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]
    assert waiting.refused == 0


async def test_the_oldest_rows_are_dropped_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_WAITING", 3)
    receiver = Receiver()
    waiting = Reports(receiver)
    waiting.add("logs", [{"n": number} for number in range(5)])
    await waiting.flush()
    assert (receiver.batches[0][1], waiting.dropped) == ([2, 3, 4], 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), "\ud800"])
async def test_a_row_that_cannot_be_sent_is_refused_at_once_with_those_beside_it(value: object) -> None:
    receiver = Receiver()
    waiting = Reports(receiver)
    with pytest.raises(ValueError, match="metrics"):
        waiting.add("metrics", [{"n": 1}, {"n": value}])
    waiting.add("metrics", [{"n": 2}])
    await waiting.flush()
    assert ([rows for _, rows, _ in receiver.batches], waiting.refused) == ([[2]], 2)


async def test_sending_outlives_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "PAUSE", 0.01)
    receiver = Receiver(ValueError("changed since"), KeyError("odd"))
    waiting = Reports(receiver)
    waiting.add("logs", [{"n": 1}])
    running = asyncio.create_task(waiting.run())
    try:
        await receiver.received(1)
        waiting.add("logs", [{"n": 2}])
        await receiver.received(3)
    finally:
        running.cancel()
    assert [rows for _, rows, _ in receiver.batches] == [[1], [2], [2]]
    assert waiting.refused == 1


async def test_heartbeats_outlive_every_error_and_the_connection_is_closed_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = AgentClient("http://127.0.0.1:9", "token", app_id="a", instance_id="one", version="1")
    beats: list[int] = []
    twice = asyncio.Event()

    async def registered() -> None:
        agent.heartbeat_interval = 0.01

    async def beat() -> int:
        beats.append(1)
        if len(beats) == 2:
            twice.set()
        raise KeyError("odd")

    async def broken() -> None:
        raise OSError("odd")

    monkeypatch.setattr(agent, "register", registered)
    monkeypatch.setattr(agent, "heartbeat", beat)
    monkeypatch.setattr(agent.reports, "flush", broken)
    with pytest.raises(OSError, match="odd"):
        async with agent, asyncio.timeout(20):
            await twice.wait()
    assert agent._connection.http.is_closed
