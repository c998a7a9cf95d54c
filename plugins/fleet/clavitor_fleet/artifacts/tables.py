"""The tables of artifacts: what they are, their bytes, and bytes that are no artifact's."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Index("ix_artifacts_app_id_version", "app_id", "version", unique=True),
)
"""`sha256`: hex. `size`: bytes. `created_by`: the audit actor."""

artifact_chunks = sa.Table(
    "artifact_chunks",
    metadata,
    sa.Column("artifact_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""The bytes of artifacts, and of uploads under the id that the artifact will have; `position` counts from 0."""

artifact_uploads = sa.Table(
    "artifact_uploads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_artifact_uploads_updated_at", "updated_at"),
)
"""Ids in `artifact_chunks` that are no artifact yet, or no more. `updated_at`: when the last chunk came; 0 once the
bytes are to be deleted."""

TABLES = ("artifacts", "artifact_chunks", "artifact_uploads")
