"""JSON as RFC 8259 means it: UTF-8 only, no NaN, no duplicate names, bounded nesting and digits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects that is read."""

MAX_INTEGER = 2**63 - 1
"""Largest integer that is read (and its negative the smallest): what 64 bits and every database hold."""


class StrictJSONError(ValueError):
    """The bytes are not acceptable JSON; the message says why and never repeats the bytes."""


def loads(data: bytes, *, whole_floats: bool = True) -> Any:
    """Parse UTF-8 JSON strictly. Raises `StrictJSONError`.

    whole_floats: False reads `1.0` as the integer 1, which it is to JSON Schema (2020-12 core, section 4.2.3).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"not UTF-8 at byte {error.start}") from None
    if _depth_exceeds(text, MAX_DEPTH):
        raise StrictJSONError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = (_DECODER if whole_floats else _LENIENT).decode(text)
        if "\\ud" in text or "\\uD" in text:
            _reject_lone_surrogates(value)
        return value
    except StrictJSONError:
        raise
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise StrictJSONError(str(error)) from None


def loads_lines(data: bytes, *, whole_floats: bool = True) -> list[Any]:
    """Parse NDJSON, one value a line, each as strictly as `loads`; empty lines are passed over.

    Raises `StrictJSONError`, which names the line.
    """
    decoder = _DECODER if whole_floats else _LENIENT
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"not UTF-8 at byte {error.start}") from None
    values: list[Any] = []
    number = 0
    try:
        for whole in text.split("\n"):
            number += 1
            line = whole.strip(" \t\r")
            if not line:
                continue
            if _depth_exceeds(line, MAX_DEPTH):
                raise StrictJSONError(f"nested deeper than {MAX_DEPTH} levels")
            value, end = decoder.raw_decode(line)
            if end != len(line):
                raise StrictJSONError("something follows the value")
            if "\\ud" in line or "\\uD" in line:
                _reject_lone_surrogates(value)
            values.append(value)
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"{error.msg} at line {number} column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise StrictJSONError(f"{error} at line {number}") from None
    return values


def dumps(value: Any) -> bytes:
    """Serialise to compact UTF-8 JSON. NaN and Infinity raise `ValueError`."""
    return _ENCODER.encode(value).encode()


def canonical(value: Any) -> bytes:
    """Serialise to the one canonical form: sorted names, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def _reject_lone_surrogates(value: Any) -> None:
    try:
        dumps(value)
    except UnicodeEncodeError:
        raise StrictJSONError("a string holds half a surrogate pair") from None


def _depth_exceeds(text: str, limit: int) -> bool:
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > limit:
                return True
        elif first in "]}":
            depth -= 1
    return False


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise StrictJSONError("an object has the same name twice")
    return result


def _integer(digits: str) -> int:
    if len(digits) <= 20 and -MAX_INTEGER <= (value := int(digits)) <= MAX_INTEGER:
        return value
    raise StrictJSONError("an integer does not fit 64 bits")


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise StrictJSONError("a number is out of range")
    return value


def _number(digits: str) -> float | int:
    value = _float(digits)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is not JSON")


_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A string, also one that does not end: so no text is looked at twice."""
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_LENIENT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_CANONICAL = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
