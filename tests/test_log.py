"""Logs: one record is one line; nothing in a value can break it or leak a local variable (operations.md section 6)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from loguru import logger

from clavitor_host import log

SECRET = "hunter2-canary"


@pytest.fixture
def sink() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield StringIO()
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()


def lines(sink: StringIO) -> list[str]:
    return sink.getvalue().splitlines()


def test_a_record_for_people(sink: StringIO) -> None:
    log.setup(sink=sink)
    log.info("The vault is open", path="/var/lib/x y", entries=3, empty="", on=True, nothing=None)
    (line,) = lines(sink)
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO     The vault is open path="/var/lib/x y" entries=3 empty="" on=true nothing=null'


def test_a_record_as_json(sink: StringIO) -> None:
    log.setup(json_lines=True, sink=sink)
    log.warning("Löschen", entries=3, details={"a": [1, 2]}, message="clash", odd=object)
    record = json.loads(sink.getvalue())
    assert record["level"] == "WARNING"
    assert record["message"] == "Löschen"
    assert record["logger"] == __name__
    assert record["entries"] == 3
    assert record["details"] == {"a": [1, 2]}
    assert record["message_"] == "clash"
    assert record["odd"] == "<class 'object'>"


HOSTILE = ["a\nb", "a\r\n2026-01-01 ERROR forged", "\x1b[31mred", "\u2028line", "\x00", "\ud800", "\u202eright", "\x85"]


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_cannot_forge_a_record(sink: StringIO, text: str, json_lines: bool) -> None:
    log.setup(json_lines=json_lines, sink=sink)
    log.info(text, value=text, inner={"key": text}, **{text: 1})
    assert sink.getvalue().count("\n") == 1
    assert len(sink.getvalue().splitlines()) == 1
    assert text not in sink.getvalue()
    sink.getvalue().encode()


@pytest.mark.parametrize("text", ["{", "}", "{}", "{name}", "{0}", "{x!r:>{y}}", "<red>", "%s %d", "</"])
def test_braces_and_markup_are_only_text(sink: StringIO, text: str) -> None:
    log.setup(sink=sink)
    log.info(text, value=text, name="n")
    logger.bind(value=text).info(text)
    logging.getLogger("probe").warning(text)
    assert sink.getvalue().count(text) == 5


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_value_that_cannot_be_shown_does_not_lose_the_record(sink: StringIO, json_lines: bool) -> None:
    log.setup(json_lines=json_lines, sink=sink)
    endless: list[Any] = []
    endless.append(endless)
    log.info("one", value=Unprintable(), keys={(1, 2): 3, "a": 1}, data=b"x", number=float("nan"))
    log.info("two", value=endless)
    one, two = lines(sink)
    assert "(Unprintable: RuntimeError)" in one
    assert "two" in two
    if json_lines:
        assert json.loads(one)["number"] == "(float)"


def fail(password: str) -> None:
    digest = password * 2
    raise ValueError("cannot log in") if digest else AssertionError


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize(
    "report",
    [
        lambda error: log.exception("Failed", error),
        lambda error: logger.opt(exception=error).error("Failed"),
        lambda error: logger.exception("Failed"),
        lambda error: logging.getLogger("hypercorn.error").exception("Failed"),
    ],
)
def test_a_local_variable_never_appears(sink: StringIO, report: Callable[[Any], None], json_lines: bool) -> None:
    log.setup("DEBUG", json_lines=json_lines, sink=sink)
    try:
        fail(SECRET)
    except ValueError as error:
        report(error)
    (line,) = lines(sink)
    assert "ValueError: cannot log in" in line
    assert "tests/test_log.py:" in line
    assert "in fail" in line
    assert SECRET not in line


def test_the_level_is_respected(sink: StringIO) -> None:
    log.setup("WARNING", sink=sink)
    log.info("quiet")
    logging.getLogger("alembic").info("quiet")
    log.error("loud")
    logging.getLogger("alembic").error("loud")
    assert [line.split()[1] for line in lines(sink)] == ["ERROR", "ERROR"]


@pytest.mark.parametrize("name", ["hypercorn.error", "hypercorn.access", "quart.app", "alembic.runtime", "anything"])
def test_the_standard_librarys_records_come_along(sink: StringIO, name: str) -> None:
    source = logging.getLogger(name)
    source.addHandler(logging.StreamHandler(StringIO()))
    log.setup(json_lines=True, sink=sink)
    source.warning("from %s\n", "there")
    record = json.loads(sink.getvalue())
    assert (record["logger"], record["message"], record["level"]) == (name, "from there\n", "WARNING")


def test_arguments_that_do_not_fit_do_not_raise(sink: StringIO) -> None:
    log.setup(sink=sink)
    wrong = "%d and %s"
    logging.getLogger("probe").warning(wrong, "text")
    assert "%d and %s" in sink.getvalue()


def test_a_record_of_a_request_carries_its_id(sink: StringIO) -> None:
    log.setup(json_lines=True, sink=sink)
    token = log.request_id.set("r-1")
    log.info("inside")
    log.request_id.reset(token)
    log.info("outside")
    inside, outside = (json.loads(line) for line in lines(sink))
    assert inside["request_id"] == "r-1"
    assert "request_id" not in outside


def test_a_second_set_up_replaces_the_first(sink: StringIO) -> None:
    first = StringIO()
    log.setup(sink=first)
    log.setup(sink=sink)
    log.info("once")
    assert first.getvalue() == ""
    assert len(lines(sink)) == 1


def test_records_go_to_stderr_by_default(capsys: pytest.CaptureFixture[str], sink: StringIO) -> None:
    log.setup()
    log.info("here")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "here" in captured.err
