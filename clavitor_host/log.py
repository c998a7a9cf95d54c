"""Logs: one record, one line on stderr, for people or as JSON.

Values are given by keyword and never spliced into a format string, so braces and newlines in them are only
text. Tracebacks are shortened to places in the code; local variables are never shown.

    log.info("The vault is open", path=path, entries=count)
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import PurePath
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, TextIO

from clavitor_host.errors import ConfigError, StartError

if TYPE_CHECKING:
    from loguru import Message, Record

request_id: ContextVar[str] = ContextVar("clavitor_request_id", default="")
"""Id of the request being served; every record of the request carries it."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_INTERCEPTED = ("hypercorn.error", "hypercorn.access", "quart.app", "quart.serving", "alembic", "asyncio")
_TALKATIVE = ("aiosqlite", "alembic", "asyncpg", "databases", "httpcore", "httpx")
"""Libraries that tell what they do, with the values of every statement and the headers of every request."""
_MAX_FRAMES = 12


def setup(level: str = "INFO", *, json_lines: bool = False, sink: TextIO | None = None) -> None:
    """Send every record of this process at `level` or above to `sink` (stderr), stdlib logging included.

    json_lines: one JSON object per record instead of text for people. Replaces an earlier set-up.
    """
    from loguru import logger

    render = _json_line if json_lines else _text_line
    write = _writer(sink, render)
    logger.remove()
    logger.add(write, level=level, format="{message}", colorize=False, backtrace=False, diagnose=False, enqueue=False)
    _intercept_stdlib(level)


def debug(message: str, /, **fields: Any) -> None:
    """Log something only a developer looks for."""
    _log("DEBUG", message, fields)


def info(message: str, /, **fields: Any) -> None:
    """Log something an operator may want to know."""
    _log("INFO", message, fields)


def warning(message: str, /, **fields: Any) -> None:
    """Log something that may need an operator."""
    _log("WARNING", message, fields)


def error(message: str, /, **fields: Any) -> None:
    """Log something that failed."""
    _log("ERROR", message, fields)


def exception(message: str, error: BaseException, /, **fields: Any) -> None:
    """Log an unexpected error: its type, message and where in the code it happened."""
    text = f"{type(error).__name__}: {error}"
    _log("ERROR", message, {**fields, "error": text, "at": where(error)})


def where(error: BaseException) -> str:
    """Return the places in the code that an error came through, innermost first: `file.py:12 in f < …`."""
    frames = extract_tb(error.__traceback__)[::-1][:_MAX_FRAMES]
    return " < ".join(f"{'/'.join(PurePath(f.filename).parts[-2:])}:{f.lineno} in {f.name}" for f in frames)


def escape(text: str) -> str:
    """Return text with every control and separator character escaped, so that it stays on its line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _ESCAPES.get(char) or _hex(char) for char in text)


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _hex(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _log(level: str, message: str, fields: Mapping[str, Any]) -> None:
    from loguru import logger

    logger.bind(**fields).opt(depth=2).log(level, message)


def _writer(sink: TextIO | None, render: Callable[[Record, dict[str, Any]], str]) -> Callable[[Message], None]:
    def write(message: Message) -> None:
        record = message.record
        fields = dict(record["extra"])
        current = request_id.get()
        if current:
            fields["request_id"] = current
        caught = record["exception"]
        if caught is not None and caught.value is not None:
            fields["error"] = f"{caught.type.__name__ if caught.type else 'error'}: {caught.value}"
            fields["at"] = where(caught.value)
        stream = sink if sink is not None else sys.stderr
        stream.write(render(record, fields) + "\n")
        stream.flush()

    return write


def _text_line(record: Record, fields: dict[str, Any]) -> str:
    head = f"{_time(record)} {record['level'].name:<8} {escape(record['message'])}"
    return head + "".join(f" {escape(str(key))}={_text_value(value)}" for key, value in fields.items())


def _text_value(value: Any) -> str:
    text = value if isinstance(value, str) else _dump(value)
    if isinstance(value, str) and (not value or any(char in value for char in ' "=')):
        text = json.dumps(value, ensure_ascii=False)
    return escape(text)


def _json_line(record: Record, fields: dict[str, Any]) -> str:
    own = {
        "time": _time(record),
        "level": record["level"].name,
        "logger": record["name"] or "",
        "message": record["message"],
    }
    members = own | {f"{key}_" if key in own else key: value for key, value in fields.items()}
    return "{" + ",".join(f"{_dump(key)}:{_dump(value)}" for key, value in members.items()) + "}"


def _dump(value: Any) -> str:
    """Serialise to ASCII JSON: what is not a JSON value as its text. Never raises."""
    try:
        return json.dumps(value, default=_text_of, separators=(",", ":"), skipkeys=True, allow_nan=False)
    except (ValueError, RecursionError):  # it holds itself, or a number that JSON does not have
        return json.dumps(f"({type(value).__name__})")


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception as problem:  # noqa: BLE001 - whatever a value's own code raises
        return f"({type(value).__name__}: {type(problem).__name__})"


def _time(record: Record) -> str:
    from datetime import UTC

    return record["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Intercept(logging.Handler):
    """Hands records of the standard library's logging to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        from loguru import logger

        if record.exc_info and isinstance(record.exc_info[1], StartError | ConfigError):
            return  # the command line tells it in one line

        def named(target: Record) -> None:
            target["name"] = record.name

        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format
            message = str(record.msg)
        level = record.levelname if record.levelname in LEVELS else record.levelno
        logger.patch(named).opt(exception=record.exc_info).log(level, message)


def _intercept_stdlib(level: str) -> None:
    root = logging.getLogger()
    root.handlers = [_Intercept()]
    root.setLevel(level)
    for name in _INTERCEPTED:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
