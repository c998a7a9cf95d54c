"""One statement for many rows: SQL text for bulk inserts and key lookups, built once per shape.

SQLite takes the rows through `executemany` of one prepared statement. PostgreSQL takes one array a column and
`unnest`: several times faster than single statements (`python -m bench --only postgres`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from clavitor_host.storage.compile import Bound, Compiler, Processor


class Insert(NamedTuple):
    """One shape of bulk insert."""

    sql: str
    columns: tuple[str, ...]
    processors: tuple[Processor, ...] | None
    upsert_on: tuple[str, ...]
    update: tuple[str, ...]

    def tuples(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Return each row's driver values in column order. Raises `ValueError` when a row has other columns."""
        columns, processors = self.columns, self.processors
        width = len(columns)
        result = []
        for row in rows:
            if len(row) != width:
                raise ValueError(f"every row needs the columns {columns}, not {tuple(row)}")
            values = [row[name] for name in columns]
            if processors is not None:
                pairs = zip(processors, values, strict=True)
                values = [value if process is None else process(value) for process, value in pairs]
            result.append(tuple(values))
        return result

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Return one list a column. Rows with the same upsert key are merged as if written one after the other."""
        if self.upsert_on and self.update and len(rows) > 1:
            rows = self._merged(rows)
        return [list(column) for column in zip(*self.tuples(rows), strict=True)]

    def _merged(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        merged: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for row in rows:
            key = tuple(row[name] for name in self.upsert_on)
            known = merged.get(key)
            merged[key] = row if known is None else {**known, **{name: row[name] for name in self.update}}
        return list(merged.values())


class Setwise:
    """Builds and keeps the statements of one dialect."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._postgresql = compiler.dialect.name == "postgresql"
        self._inserts: dict[Any, Insert] = {}
        self._lookups: dict[Any, tuple[Bound, bool]] = {}

    def insert(
        self, table: sa.Table, columns: tuple[str, ...], upsert_on: tuple[str, ...], update: tuple[str, ...]
    ) -> Insert:
        """Return the insert for rows of these columns. `upsert_on` without `update` skips rows that exist."""
        shape = (table, columns, upsert_on, update)
        found = self._inserts.get(shape)
        if found is None:
            found = self._inserts[shape] = self._build_insert(table, columns, upsert_on, update)
        return found

    def lookup(self, table: sa.Table, columns: tuple[str, ...], key: str, values: Sequence[Any]) -> Bound:
        """Return the select of the rows whose `key` is one of `values`."""
        shape = (table, columns, key)
        found = self._lookups.get(shape)
        if found is None:
            found = self._lookups[shape] = self._build_lookup(table, columns, key)
        bound, blobs = found
        if self._postgresql:
            return Bound(bound.sql, (list(values),), bound.columns, bound.processors)
        if blobs:
            marks = ", ".join("?" * len(values))
            return Bound(bound.sql.format(marks), tuple(values), bound.columns, bound.processors)
        return Bound(bound.sql, (json.dumps(list(values)),), bound.columns, bound.processors)

    def _build_insert(
        self, table: sa.Table, columns: tuple[str, ...], upsert_on: tuple[str, ...], update: tuple[str, ...]
    ) -> Insert:
        quote = self._compiler.dialect.identifier_preparer.quote
        names = ", ".join(quote(table.c[name].name) for name in columns)
        if self._postgresql:
            types = [table.c[name].type.compile(dialect=self._compiler.dialect) for name in columns]
            if any(isinstance(table.c[name].type, sa.ARRAY) for name in columns):
                raise TypeError("array columns cannot be written in bulk")
            arrays = ", ".join(f"${position}::{kind}[]" for position, kind in enumerate(types, 1))
            source = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - types of our own columns
        else:
            source = "VALUES (" + ", ".join("?" * len(columns)) + ")"
        sql = f"INSERT INTO {self._table(table)} ({names}) {source}"
        if upsert_on:
            target = ", ".join(quote(table.c[name].name) for name in upsert_on)
            sets = ", ".join(f"{quote(table.c[n].name)} = excluded.{quote(table.c[n].name)}" for n in update)
            sql += f" ON CONFLICT ({target}) DO " + (f"UPDATE SET {sets}" if update else "NOTHING")
        processors = tuple(self._compiler.bind_processor(table.c[name]) for name in columns)
        return Insert(sql, columns, processors if any(processors) else None, upsert_on, update)

    def _build_lookup(self, table: sa.Table, columns: tuple[str, ...], key: str) -> tuple[Bound, bool]:
        quote = self._compiler.dialect.identifier_preparer.quote
        column = table.c[key]
        blobs = isinstance(column.type, sa.LargeBinary)
        if self._postgresql:
            where = f"= ANY($1::{column.type.compile(dialect=self._compiler.dialect)}[])"
        else:
            where = "IN ({})" if blobs else "IN (SELECT value FROM json_each(?))"
        names = ", ".join(quote(table.c[name].name) for name in columns)
        processors = tuple(self._compiler.result_processor(table.c[name]) for name in columns)
        sql = f"SELECT {names} FROM {self._table(table)} WHERE {quote(column.name)} {where}"  # noqa: S608 - quoted
        return Bound(sql, (), columns, processors if any(processors) else None), blobs

    def _table(self, table: sa.Table) -> str:
        return self._compiler.dialect.identifier_preparer.format_table(table)
