"""A batch of rows, from what came over the network to what a store takes: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from clavitor_fleet.telemetry.columns import COLUMNS
from clavitor_fleet.telemetry.rows import LARGEST_JSON, MODELS
from clavitor_fleet.telemetry.store import Stream
from clavitor_host.api import Problem, problem

MAX_ROWS: Final = 1000
AHEAD_US: Final = 86_400_000_000
"""How far ahead of the server's clock a row's time may be."""


def checked_rows(stream: Stream, received: Sequence[Any], now: int) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a batch, with every column. now: µs since the epoch, the time of rows that have none.

    Raises a 400 that names the first row and field that cannot be, and a 413 for more rows than a batch may have.
    """
    if len(received) > MAX_ROWS:
        raise problem(413, "too_many_rows", f"A batch has at most {MAX_ROWS} rows, not {len(received)}.")
    try:
        models = _adapter(stream).validate_python(received)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        number, *names = first["loc"]
        raise _invalid_row(int(number), ".".join(map(str, names[:1])), first["msg"]) from None
    rows = [vars(model) for model in models]
    json_columns, texts = _COLUMNS_AS_JSON[stream], _TEXT_COLUMNS[stream]
    latest = now + AHEAD_US
    for number, row in enumerate(rows):
        ts = row["ts"]
        if ts is None:
            row["ts"] = now
        elif ts > latest:
            raise _invalid_row(number, "ts", "expected a time at most a day ahead")
        for name in json_columns:
            if (value := row[name]) is not None:
                row[name] = _json_text(value, number, name)
        for name in texts:
            if (text := row[name]) is not None and "\0" in text:
                raise _invalid_row(number, name, "expected text without NUL")
    return rows


def _json_text(value: Any, number: int, name: str) -> str:
    text = to_json(value)
    if len(text) > LARGEST_JSON[name]:
        raise _invalid_row(number, name, f"expected at most {LARGEST_JSON[name]} bytes of JSON")
    return text.decode()


def _invalid_row(number: int, field: str, message: str) -> Problem:
    name = f"row {number}, {field}" if field else f"row {number}"
    return problem(400, "invalid_row", f"{name}: {message}.", row=number, field=field)


@cache
def _adapter(stream: Stream) -> TypeAdapter[list[Any]]:
    model = MODELS[stream]
    return TypeAdapter(list[model])  # type: ignore[valid-type]


_COLUMNS_AS_JSON: Final = {
    stream: tuple(name for name, (kind, _) in columns.items() if kind == "json") for stream, columns in COLUMNS.items()
}
_TEXT_COLUMNS: Final = {
    stream: tuple(name for name, (kind, _) in columns.items() if kind == "text") for stream, columns in COLUMNS.items()
}
