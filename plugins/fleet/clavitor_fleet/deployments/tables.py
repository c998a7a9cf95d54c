"""The table of deployments."""

from __future__ import annotations

import sqlalchemy as sa

from clavitor_fleet.metadata import metadata

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("artifact_id", sa.Text, nullable=True),
    sa.Column("replicas", sa.BigInteger, nullable=False),
    sa.Column("cpu_millis", sa.BigInteger, nullable=True),
    sa.Column("memory_mb", sa.BigInteger, nullable=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("runtime", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("running_at", sa.BigInteger, nullable=True),
    sa.Column("ended_at", sa.BigInteger, nullable=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("reconcile_at", sa.BigInteger, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Index("ix_deployments_app_id", "app_id", "id"),
    sa.Index("ix_deployments_status", "status"),
    sa.Index("ix_deployments_artifact_id", "artifact_id"),
    sa.Index("ix_deployments_reconcile_at", "reconcile_at"),
)
"""`artifact_id` is no foreign key: an ended deployment still says what it ran when that is gone. The columns are those
of `models.Deployment`; numbers are 64 bits wide so that sums over them do not overflow."""

TABLES = ("deployments",)
