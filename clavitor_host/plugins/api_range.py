"""The range of plugin contract versions that a plugin declares, such as ">=1.0,<2"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

Version = tuple[int, ...]

_CLAUSE = re.compile(r"(>=|<=|==|!=|<|>)\s*(\d{1,5}(?:\.\d{1,5}){0,2})")
_OPERATORS: dict[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


def in_range(version: str, specifier: str) -> bool:
    """Tell whether `version` ("1.0") satisfies every comma-separated clause of `specifier`.

    Raises `ValueError`, saying what is expected, when `specifier` cannot be read.
    """
    own = _parse(version)
    results = []
    for clause in specifier.split(","):
        match = _CLAUSE.fullmatch(clause.strip())
        if match is None:
            raise ValueError(f'clavitor_api {specifier!r} is not a version range such as ">=1.0,<2"')
        results.append(_OPERATORS[match[1]](own, _parse(match[2])))
    return all(results)


def _parse(text: str) -> Version:
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))
