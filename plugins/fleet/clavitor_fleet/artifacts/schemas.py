"""The JSON bodies of artifacts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clavitor_fleet.schemas import Micros, Result


class ArtifactOut(Result):
    id: str
    app_id: str
    version: str
    sha256: Annotated[str, Field(description="SHA-256 of the bytes, hex.")]
    size: Annotated[int, Field(description="Bytes.")]
    created_at: Micros
    created_by: str


class ArtifactPage(Result):
    artifacts: list[ArtifactOut]
    next_cursor: str | None
