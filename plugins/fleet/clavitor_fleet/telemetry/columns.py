"""What a row of each stream is made of, for the stores: beside `ts` and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from clavitor_fleet.telemetry.store import Stream

Kind = Literal["text", "json", "integer", "real"]


LARGEST_REAL: Final = 1e100
"""Of what is a real number, either way from zero: so that no sum, and no square within an average, is more than there
are numbers for."""


class Column(NamedTuple):
    """`kind` json: compact JSON text, as it is kept and given back. `required`: never None."""

    kind: Kind
    required: bool = True


_TEXT, _TEXT_OR_NONE = Column("text"), Column("text", required=False)
_INTEGER, _INTEGER_OR_NONE = Column("integer"), Column("integer", required=False)
_REAL, _REAL_OR_NONE = Column("real"), Column("real", required=False)
_JSON, _JSON_OR_NONE = Column("json"), Column("json", required=False)

COLUMNS: Final[Mapping[Stream, Mapping[str, Column]]] = {
    "executions": {
        "execution_id": _TEXT,
        "route": _TEXT_OR_NONE,
        "status": _TEXT,
        "started_at": _INTEGER_OR_NONE,
        "duration_ms": _REAL_OR_NONE,
        "error": _TEXT_OR_NONE,
        "attributes": _JSON_OR_NONE,
    },
    "processors": {
        "execution_id": _TEXT,
        "processor_id": _TEXT,
        "type": _TEXT_OR_NONE,
        "position": _INTEGER,
        "duration_ms": _REAL,
        "status": _TEXT,
    },
    "route_diagrams": {"route": _TEXT, "diagram": _JSON, "version": _TEXT_OR_NONE},
    "agent_events": {"type": _TEXT, "message": _TEXT_OR_NONE, "attributes": _JSON_OR_NONE},
    "logs": {"level": _TEXT, "message": _TEXT, "logger": _TEXT_OR_NONE, "attributes": _JSON_OR_NONE},
    "metrics": {"name": _TEXT, "value": _REAL, "labels": _JSON_OR_NONE},
}
