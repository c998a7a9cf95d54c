"""What the client logs: once, and again after a while."""

from __future__ import annotations

import pytest

from clavitor_host.client import lines, twins
from clavitor_host.client.lines import Outage
from clavitor_host.client.twins import Twins


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    for module in (lines, twins):
        monkeypatch.setattr(module, "time", made)
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return found


def test_an_outage_is_told_once_a_minute_and_its_end_once(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outage = Outage("away: %s", "back")
    outage.end()
    assert said(caplog) == []
    for _ in range(3):
        outage.begin("why")
    assert said(caplog) == ["WARNING away: why"]
    time.now += 60
    outage.begin("still")
    outage.end()
    outage.end()
    assert said(caplog) == ["WARNING away: still", "INFO back"]
    outage.begin("flaps")
    outage.end()
    assert said(caplog) == []


def test_three_tokens_that_end_within_three_intervals_are_a_twin(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    seen = Twins()
    assert [seen.token_ended(token, "one", 30) for token in ("a", "a", "a", "b")] == [0, 0, 0, 0]
    assert said(caplog) == []
    time.now += 90
    assert seen.token_ended("c", "one", 30) == 30
    (line,) = said(caplog)
    assert line.startswith("WARNING Another process uses this instance_id: one.")
    assert seen.token_ended("d", "one", 30) == 30
    assert said(caplog) == []
    time.now += 91
    assert seen.token_ended("e", "one", 30) == 0
