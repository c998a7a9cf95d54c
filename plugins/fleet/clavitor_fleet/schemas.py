"""What the JSON bodies of all features are made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_NAME = 128
"""Longest name, in characters."""


def spelled(pattern: str, expected: str) -> AfterValidator:
    """Return the check that a text matches `pattern`, whose error says in words what is `expected`. The schema learns
    of the pattern by `json_schema_extra`."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise PydanticCustomError("spelling", "expected {expected}", {"expected": expected})
        return text

    return AfterValidator(check)


_ID = "[A-Za-z0-9._-]{1,128}"
_SPELLED_ID = spelled(_ID, "1 to 128 of A-Z a-z 0-9 . _ -")
_ID_SCHEMA = {"pattern": f"^{_ID}$"}

Micros = Annotated[int, Field(description="µs since the epoch")]
_PRINTABLE = r"!-~\u00a1-\u00ac\u00ae-\u0377\u0400-\u052f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
"""Some of what is printable, as a regular expression can say it; `clean_name` decides."""
Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NAME,
        description="1 to 128 printable characters with no space at either end; case does not tell two apart.",
        json_schema_extra={"pattern": f"^[{_PRINTABLE}](?:[ {_PRINTABLE}]*[{_PRINTABLE}])?$"},
        examples=["production"],
    ),
]
Id = Annotated[str, _SPELLED_ID, Field(description="An id.", json_schema_extra=_ID_SCHEMA)]
ExternalId = Annotated[str, _SPELLED_ID, Field(json_schema_extra=_ID_SCHEMA)]
"""An id that a client may choose: the same form as an entry's."""


class Body(BaseModel):
    """Base of what clients send: unknown members are errors."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Result(BaseModel):
    """Base of what clients get."""

    model_config = ConfigDict(defer_build=True, from_attributes=True)
