"""Pydantic's findings as one line for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def one_line(error: ValidationError, prefix: tuple[str, ...], origins: Mapping[str, str]) -> str:
    """Return the first finding: key, what was expected, where it was set. Values are never repeated.

    prefix: the table that was validated, such as `("plugins", "x")`. origins: places by dotted key.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    path = (*prefix, *(str(part) for part in found[0]["loc"]))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    origin = next((origins[key] for key in _outwards(path) if key in origins), None)
    place = f" ({origin})" if origin else ""
    return f"{'.'.join(path) or 'configuration'}: {_expectation(found[0])}{place}{more}"


def _outwards(path: tuple[str, ...]) -> list[str]:
    return [".".join(path[:length]) for length in range(len(path), 0, -1)]


def _expectation(detail: ErrorDetails) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "missing":
        return "must be given"
    if kind == "extra_forbidden":
        return "no such key"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in ("too_short", "too_long"):
        return message.partition(" after ")[0].replace("Value should have", "expected").replace(" items", " characters")
    if kind.endswith("_parsing"):
        message = message.partition(",")[0]
    for start in ("Input should be ", "Input should "):
        if message.startswith(start):
            return f"expected {message.removeprefix(start)}"
    return message[:1].lower() + message[1:]
