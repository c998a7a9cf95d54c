"""The table of notes."""

import sqlalchemy as sa
from alembic import op

revision = "r1_notes"
down_revision = None


def upgrade() -> None:
    op.create_table("notes", sa.Column("entry_id", sa.Text, primary_key=True), sa.Column("text", sa.Text))
    op.create_table("notes_seen", sa.Column("rev", sa.BigInteger, primary_key=True), sa.Column("entry_id", sa.Text))
