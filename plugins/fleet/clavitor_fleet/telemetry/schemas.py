"""The JSON bodies of `/api/v1/telemetry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, RootModel, create_model

from clavitor_fleet.schemas import Micros, Result
from clavitor_fleet.telemetry.rows import MODELS
from clavitor_fleet.telemetry.store import Stream


class Accepted(Result):
    accepted: int
    replayed: Annotated[bool, Field(description="The same batch was kept before: its rows are not kept twice.")]


class KeptRow(Result):
    """What every row that is found begins with."""

    id: str
    ts: Micros
    environment_id: str
    app_id: str
    agent_id: str


def _batch_of(model: type[BaseModel]) -> type[BaseModel]:
    batch: type[BaseModel] = RootModel[list[model]]  # type: ignore[valid-type]
    return type(f"{model.__name__}Batch", (batch,), {"__module__": __name__})


def _page_of(model: type[BaseModel]) -> type[BaseModel]:
    columns: dict[str, Any] = {
        name: (field.annotation, ...) for name, field in model.model_fields.items() if name != "ts"
    }
    row = create_model(f"{model.__name__}Out", __base__=KeptRow, __module__=__name__, **columns)
    members: dict[str, Any] = {"rows": (list[row], ...), "next_cursor": (str | None, ...)}  # type: ignore[valid-type]
    return create_model(f"{model.__name__}Page", __base__=Result, __module__=__name__, **members)


BATCHES: Final[Mapping[Stream, type[BaseModel]]] = {stream: _batch_of(model) for stream, model in MODELS.items()}
"""What a stream takes."""
PAGES: Final[Mapping[Stream, type[BaseModel]]] = {stream: _page_of(model) for stream, model in MODELS.items()}
"""What a stream gives."""
