"""SQLAlchemy constructs and SQL text to what a driver takes: SQL with positional arguments, compiled once.

`databases` compiles every query anew (150 to 500 µs). This keeps the compiled form by SQLAlchemy's own cache key,
converts values by column type in both directions (so JSON is a Python value on either database), applies
Python-side column defaults, and expands `IN` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.ddl import DDLElement
from sqlalchemy.util import LRUCache

Row = Mapping[str, Any]
"""One result row by column name (a plain dict)."""

Query = str | sa.Executable
Values = Mapping[str, Any] | None
Processor = Callable[[Any], Any] | None


@dataclass(slots=True, frozen=True)
class Bound:
    """A statement ready for the driver. `columns`: result names, None to ask the driver. `processors`: how to
    convert each column, None when all are taken as they come."""

    sql: str
    args: Sequence[Any] = ()
    columns: Sequence[str] | None = None
    processors: Sequence[Processor] | None = None

    def rows(self, names: Sequence[str], values: Sequence[Sequence[Any]]) -> list[Row]:
        """Return the driver's rows as dicts of converted values."""
        if self.processors is None:
            return [dict(zip(names, row, strict=True)) for row in values]
        return [dict(zip(names, self.convert(row), strict=True)) for row in values]

    def convert(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """Return one row with each value converted by its column's type."""
        if self.processors is None:
            return tuple(row)
        values = list(row)
        for index, process in enumerate(self.processors):
            if process is not None:
                values[index] = process(values[index])
        return tuple(values)


@dataclass(slots=True, frozen=True)
class _Text:
    sql: str
    names: tuple[str, ...]
    count: int


class Compiler:
    """Compiles for one dialect (positional parameters)."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._texts: LRUCache[str, _Text] = LRUCache(500)
        self._compiled: LRUCache[Any, Any] = LRUCache(500)
        self._results: LRUCache[SQLCompiler, tuple[Any, Any]] = LRUCache(500)

    def bind(self, query: Query, values: Values = None) -> Bound:
        """Return `query` with its arguments.

        `values`: for SQL text and for selects, bind parameters by name; for an insert or update, also column
        values. Raises `ValueError` for a name that is missing or unknown.
        """
        if isinstance(query, str):
            return self._bind_text(query, values or {})
        if isinstance(query, DDLElement):
            return Bound(str(query.compile(dialect=self.dialect)))
        return self._bind_construct(query, dict(values) if values else {})

    def point(self, query: sa.Executable) -> tuple[Bound, Sequence[int]]:
        """Compile a hot read: its constant arguments in place, and which positions take the caller's values."""
        compiled = cast(sa.ClauseElement, query).compile(dialect=self.dialect)
        if not isinstance(compiled, SQLCompiler) or compiled.post_compile_params:
            raise TypeError("a point read cannot contain an expanding IN")
        names = list(compiled.positiontup or ())
        binds = compiled.binds
        args = [None if binds[name].required else binds[name].effective_value for name in names]
        order = list(dict.fromkeys(name for name in names if binds[name].required))
        slots = [order.index(name) if binds[name].required else -1 for name in names]
        columns, processors = self._result(compiled)
        return Bound(compiled.string, tuple(args), columns, processors), slots

    def result_processor(self, column: sa.Column[Any]) -> Processor:
        """Return how a stored value of `column` becomes a Python value, None when it already is one."""
        return column.type._cached_result_processor(self.dialect, None)

    def bind_processor(self, column: sa.Column[Any]) -> Processor:
        """Return how a Python value becomes what the driver stores in `column`, None when it already is that."""
        return column.type._cached_bind_processor(self.dialect)

    def _bind_text(self, query: str, values: Mapping[str, Any]) -> Bound:
        text = self._texts.get(query)
        if text is None:
            compiled = sa.text(query).compile(dialect=self.dialect)
            names = tuple(compiled.positiontup or ())
            text = self._texts[query] = _Text(compiled.string, names, len(set(names)))
        if len(values) != text.count or not all(name in values for name in text.names):
            raise ValueError(f"the statement takes {sorted(set(text.names))}, not {sorted(values)}")
        return Bound(text.sql, tuple([values[name] for name in text.names]))

    def _bind_construct(self, query: Any, values: dict[str, Any]) -> Bound:
        compiled, extracted, collected, _ = query._compile_w_cache(
            self.dialect, compiled_cache=self._compiled, column_keys=sorted(values)
        )
        parameters: dict[str, Any] = compiled.construct_params(
            values, extracted_parameters=extracted, escape_names=False, _collected_params=collected
        )
        for column in compiled.insert_prefetch or ():
            parameters[compiled._within_exec_param_key_getter(column)] = _default(column.default)
        for column in compiled.update_prefetch or ():
            parameters[compiled._within_exec_param_key_getter(column)] = _default(column.onupdate)
        sql: str = compiled.string
        names: Sequence[str] = compiled.positiontup or ()
        processors: Mapping[str, Any] = compiled._bind_processors
        if compiled.post_compile_params:
            state = compiled._process_parameters_for_postcompile(parameters)
            sql, names = state.statement, state.positiontup or ()
            parameters = {**parameters, **state.parameters}
            processors = {**processors, **state.processors}
        args = tuple([processors[name](parameters[name]) if name in processors else parameters[name] for name in names])
        columns, converters = self._result(compiled)
        return Bound(sql, args, columns, converters)

    def _result(self, compiled: SQLCompiler) -> tuple[Sequence[str] | None, Sequence[Processor] | None]:
        found = self._results.get(compiled)
        if found is None:
            found = self._results[compiled] = self._describe(compiled)
        return found

    def _describe(self, compiled: SQLCompiler) -> tuple[Sequence[str] | None, Sequence[Processor] | None]:
        described = compiled._result_columns
        if not described or not compiled._ordered_columns:
            return None, None
        processors = [entry.type._cached_result_processor(self.dialect, None) for entry in described]
        names = [str(entry.keyname) for entry in described]
        return names, processors if any(processors) else None


def _default(default: Any) -> Any:
    if default is None or default.is_clause_element or default.is_sequence:
        raise TypeError("a column default computed by the database belongs into server_default")
    return default.arg(None) if default.is_callable else default.arg
