"""JSON as RFC 8259 means it: UTF-8, one value for a name, no NaN, and a bound on nesting and digits."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 32
"""Deepest nesting of arrays and objects that is read."""

MAX_DIGITS: Final = 100
"""Longest integer that is read, with its sign."""

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)


class StrictJSONError(ValueError):
    """The bytes are not acceptable JSON; the message says why and never repeats them."""


def loads(data: bytes) -> Any:
    """Parse JSON. Raises `StrictJSONError`."""
    problem = "it is not UTF-8"
    try:
        text = data.decode("utf-8")
        if _is_too_deep(text):
            problem = f"it is nested deeper than {MAX_DEPTH} levels"
        else:
            problem = "it is not JSON"
            value = _DECODER.decode(text)
            problem = "a string holds half a surrogate pair"
            if "\\u" in text:
                json.dumps(value, ensure_ascii=False).encode()
            return value
    except StrictJSONError:
        raise
    except (ValueError, RecursionError):
        pass
    raise StrictJSONError(problem)  # out here, so that the decoder's exception, which holds the text, is let go


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _STRUCTURE.finditer(text):
        depth += 1 if match[1] else -1 if match[2] else 0
        if depth > MAX_DEPTH:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise StrictJSONError("an object has the same name twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise StrictJSONError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise StrictJSONError("a number is out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant)
