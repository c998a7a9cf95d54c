"""The plugin's one `MetaData`. Every feature's `tables.py` adds to it. Times are µs since the epoch, ids text."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A 64-bit integer primary key; on SQLite the type must be INTEGER, or the key is an index beside the table."""
