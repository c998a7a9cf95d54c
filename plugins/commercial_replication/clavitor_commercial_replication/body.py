"""Reading the JSON of a request that is mostly base64, as strictly as the host does and several times as fast."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from clavitor_host.api import Request


async def read_json(request: Request) -> Any:
    """Return the body. Raises what `Request.json` does.

    What cannot be told to be strict JSON by cheap means is read by the host.
    """
    content_type = request.header(b"content-type")
    if content_type is not None and content_type.partition(";")[0] == "application/json":
        try:
            return quick(await request.body())
        except _Doubtful:
            pass
    return await request.json()


def quick(data: bytes) -> Any:
    """Return the value of JSON in which nothing is escaped, no number is a fraction and no name is there twice.

    Raises `_Doubtful` for anything else, good or bad. Twice: each member has one colon, so when there are no more
    colons than members, no member has been overwritten by another of its name.
    """
    if b"\\" in data:
        raise _Doubtful
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise _Doubtful from None
    if text.count(":") != _members(value, 0):
        raise _Doubtful
    return value


class _Doubtful(Exception):
    """The host's reader decides."""


MAX_DEPTH = 8
"""Deepest nesting that is read here; ours has three levels."""


def _members(value: Any, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise _Doubtful
    if type(value) is dict:
        count = len(value)
        for member in value.values():
            if type(member) is dict or type(member) is list:
                count += _members(member, depth + 1)
        return count
    if type(value) is list:
        return sum([_members(item, depth + 1) for item in value if type(item) is dict or type(item) is list])
    return 0


def _doubt(text: str) -> NoReturn:
    del text
    raise _Doubtful


_DECODER = json.JSONDecoder(parse_float=_doubt, parse_constant=_doubt)
