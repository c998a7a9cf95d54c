"""The plugin's one `MetaData`. Every feature's `tables.py` adds to it. Times are µs since the epoch, ids text."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A 64-bit integer primary key; on SQLite the type must be INTEGER, or the key is an index beside the table."""


def named() -> tuple[sa.Column[Any], ...]:
    """Return the columns of a thing that people name. `name_key`: the name as it is compared."""
    texts = [sa.Column(column, sa.Text, nullable=False) for column in ("name", "name_key")]
    times = [sa.Column(column, sa.BigInteger, nullable=False) for column in ("created_at", "updated_at")]
    return (sa.Column("id", sa.Text, primary_key=True), *texts, *times)
