"""Reading `clavitor.toml`, and finding the line of a key for messages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from clavitor_host.errors import ConfigError


def read(file: Path) -> tuple[dict[str, Any], str]:
    """Return a TOML file's tables and its text. Raises ConfigError in one line, with line and column."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start + 1} is not UTF-8.") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        message = str(error)[: where.start()] if where else str(error).removesuffix(" (at end of document)")
        line, column = (where[1], where[2]) if where else _end_of(text)
        raise ConfigError(f"{file}: line {line}, column {column}: {message}.") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply.") from None


_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\[?\s*({_KEY})\s*\]\]?")
_PAIR = re.compile(rf"\s*({_KEY})\s*=")


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Return the line (from 1) that sets `path`, or the header of its table; None when it cannot be told.

    The text is read line by line, which is right for everything but look-alikes inside multi-line strings.
    """
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _TABLE.match(line)
        if header:
            table = _parts(header[1])
            if table[: len(path)] == path:
                return number
            continue
        pair = _PAIR.match(line)
        if pair and (*table, *_parts(pair[1]))[: len(path)] == path:
            return number
    return None


def _end_of(text: str) -> tuple[int, int]:
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))
