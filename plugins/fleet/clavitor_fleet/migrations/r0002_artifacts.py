"""Artifacts, their bytes in chunks, and uploads in progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002_artifacts"
down_revision = "r0001_environments"


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"]),
    )
    op.create_index("ix_artifacts_app_id_version", "artifacts", ["app_id", "version"], unique=True)
    op.create_table(
        "artifact_chunks",
        sa.Column("artifact_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("artifact_id", "position"),
    )
    op.create_table(
        "artifact_uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_artifact_uploads_updated_at", "artifact_uploads", ["updated_at"])
