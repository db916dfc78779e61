"""Statements that read and write rows of the target, composed from the row schema and the scope.

Values are bound, as one array per column; identifiers are composed. `session_sql` says how names are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg import sql

from product_sync.conversion import id_bounds
from product_sync.conversion.document import constant
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.scope import KeyRange
from product_sync.schema.types import ColumnType, TypeName
from product_sync.targets.postgres.column_types import wire_format

_LEAST, _MOST = -(2**63), 2**63 - 1
_NO_ROW = sql.SQL("false")


def table(row_schema: RowSchema) -> sql.Identifier:
    return sql.Identifier(row_schema.table.schema, row_schema.table.name)


def is_ours(row_schema: RowSchema, alias: str = "p") -> sql.Composable:
    """Whether a row is one of this sync: always, or if it is of its tenant. Compares columns with literals, which the
    index of the key can serve."""
    return (
        sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(alias, column.name), _literal(column))
            for column in row_schema.tenant
        )
        if row_schema.tenant
        else sql.SQL("true")
    )


def is_in_range(key: RowColumn, scope: KeyRange, *, in_byte_order: bool) -> sql.Composable:
    """Whether the row ``p`` is in ``scope``, a range of texts in the order of their bytes, whatever the collation.

    An integer or uuid column is compared by its own values, so that the index of the key serves the condition. A text
    column keeps its own collation if that orders texts by their bytes, which ``in_byte_order`` says; else the server
    compares each row.
    """
    column: sql.Composable = sql.Identifier("p", key.name)
    if key.type.as_text:
        return _integer_in(column, scope)
    if key.type.name is TypeName.UUID:
        found = id_bounds.of_form(id_bounds.UUID, scope)
        return _between(column, found.first, found.end, "uuid") if found else _NO_ROW
    if key.type.name is not TypeName.TEXT or not in_byte_order:
        column = sql.SQL("{}::pg_catalog.text").format(column)
    if not in_byte_order:
        column = sql.SQL('{} COLLATE pg_catalog."C"').format(column)
    return _between(column, scope.first, scope.end, "text")


def _integer_in(column: sql.Composable, scope: KeyRange) -> sql.Composable:
    within = sql.SQL("{} BETWEEN {}::pg_catalog.int8 AND {}::pg_catalog.int8")
    intervals = [
        within.format(column, sql.Literal(str(max(first, _LEAST))), sql.Literal(str(min(last, _MOST))))
        for first, last in id_bounds.integers(scope)
        if first <= _MOST and last >= _LEAST
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(intervals)) if intervals else _NO_ROW


def _between(column: sql.Composable, first: str, end: str | None, type_name: str) -> sql.Composable:
    of_type = sql.SQL("{}::pg_catalog.{}")
    bounds = [sql.SQL("{} >= {}").format(column, of_type.format(sql.Literal(first), sql.Identifier(type_name)))]
    if end is not None:
        bounds.append(sql.SQL("{} < {}").format(column, of_type.format(sql.Literal(end), sql.Identifier(type_name))))
    return sql.SQL(" AND ").join(bounds)


def select_all(row_schema: RowSchema, wanted: sql.Composable) -> sql.Composed:
    """Reads every row for which ``wanted`` holds, in canonical values."""
    return sql.SQL("SELECT {} FROM {} AS p WHERE {}").format(_shown(row_schema), table(row_schema), wanted)


def count(row_schema: RowSchema) -> sql.Composed:
    return _statement(row_schema, "SELECT pg_catalog.count(*) FROM {table} AS p WHERE {is_ours}")


def estimate(row_schema: RowSchema, wanted: sql.Composable) -> sql.Composed:
    """Lets the planner estimate by its statistics for how many rows ``wanted`` holds."""
    return sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} AS p WHERE {}").format(table(row_schema), wanted)


def select_by_ids(row_schema: RowSchema) -> sql.Composed:
    """Reads the rows of the ids in ``$1``. ``= ANY`` of an array uses the index of the key."""
    found = "SELECT {shown} FROM {table} AS p WHERE {is_ours} AND p.{key} = ANY ({ids})"
    return _statement(row_schema, found, shown=_shown(row_schema))


def insert(row_schema: RowSchema) -> sql.Composed:
    """Inserts the rows whose id is not there yet. The conflict target is named: without it the server would skip rows
    that violate another unique constraint, without an error."""
    rows = _bound(row_schema, _numbered("n", row_schema.values))
    return _statement(
        row_schema,
        "INSERT INTO {table} AS p ({columns}) SELECT {values} FROM {rows} ON CONFLICT ({keys}) DO NOTHING"
        " RETURNING {id}",
        columns=_written_names(row_schema),
        values=comma([*rows.values(), *map(_time_of_write, row_schema.written_at)]),
        rows=rows.unnested(),
        keys=comma(sql.Identifier(name) for name in row_schema.key_names),
    )


def copy_in(row_schema: RowSchema) -> sql.Composed:
    """Inserts rows by the fastest way. One row that is already there fails them all."""
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table(row_schema), _written_names(row_schema))


def times_of_write(row_schema: RowSchema) -> sql.Composed:
    """Reads the values of `RowSchema.written_at` for this transaction, in the binary form of COPY."""
    return sql.SQL("SELECT {}").format(
        comma(
            sql.SQL("pg_catalog.{}({})").format(sql.Identifier(f"{column.type.name}_send"), _time_of_write(column))
            for column in row_schema.written_at
        )
    )


def update(row_schema: RowSchema) -> sql.Composed:
    """Updates rows by compare-and-swap: only where the row still holds the old values. The key is not part of the row
    comparison, because the server would not use its index then."""
    new, old = _numbered("n", row_schema.compared), _numbered("o", row_schema.compared)
    rows = _bound(row_schema, [*new, *old])
    assigned = [(column, rows.value(alias)) for alias, column in new]
    assigned += [(column, _time_of_write(column)) for column in row_schema.written_at if column.update]
    return _statement(
        row_schema,
        "UPDATE {table} AS p SET {assignments} FROM {rows} WHERE {is_ours} AND p.{key} = {k} AND {unchanged}"
        " RETURNING {id}",
        assignments=comma(sql.SQL("{} = {}").format(sql.Identifier(column.name), value) for column, value in assigned),
        rows=rows.unnested(),
        k=rows.value("k"),
        unchanged=_unchanged(rows, old),
    )


def delete(row_schema: RowSchema) -> sql.Composed:
    """Deletes rows by compare-and-swap: only where the row still holds all the values that were read."""
    old = _numbered("o", row_schema.values)
    rows = _bound(row_schema, old)
    return _statement(
        row_schema,
        "DELETE FROM {table} AS p USING {rows} WHERE {is_ours} AND p.{key} = {k} AND {unchanged} RETURNING {id}",
        rows=rows.unnested(),
        k=rows.value("k"),
        unchanged=_unchanged(rows, old),
    )


def written_by(row_schema: RowSchema) -> sql.Composed:
    """Says whether transaction ``$2`` was the last to write one of the rows ``$1``, and whether one of the rows ``$3``
    exists. ``xmin`` is the low 32 bits of the transaction that wrote a row (manual, 5.6 "System Columns")."""
    return _statement(
        row_schema,
        """
        SELECT EXISTS (SELECT FROM {table} AS p WHERE {is_ours} AND p.{key} = ANY ({ids})
                       AND p.xmin = $2::pg_catalog.text::pg_catalog.xid8::pg_catalog.xid),
               EXISTS (SELECT FROM {table} AS p WHERE {is_ours} AND p.{key} = ANY ({deleted}))
        """,
        deleted=ids(row_schema, "$3"),
    )


def flush(row_schema: RowSchema) -> sql.Composed:
    """Makes the next COMMIT flush the log, with everything before it, without changing a row: takes the weakest lock on
    one of the rows ``$1``, without waiting for it."""
    found = "SELECT FROM {table} AS p WHERE {is_ours} AND p.{key} = ANY ({ids}) LIMIT 1 FOR KEY SHARE SKIP LOCKED"
    return _statement(row_schema, found)


def key(row_schema: RowSchema) -> sql.Identifier:
    return sql.Identifier(row_schema.key.name)


def ids(row_schema: RowSchema, parameter: LiteralString = "$1") -> sql.Composed:
    """The ids in a parameter as an array of the key's type."""
    return wire_format(row_schema.key.type).parsed_ids(parameter)


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _written_names(row_schema: RowSchema) -> sql.Composed:
    return comma(sql.Identifier(column.name) for column in (*row_schema.columns, *row_schema.written_at))


def _time_of_write(column: RowColumn) -> sql.Composed:
    """When the transaction began, on the server's clock. A date without a zone is that of UTC."""
    if column.type.name is TypeName.TIMESTAMPTZ:
        return sql.SQL("pg_catalog.now()").format()
    local = sql.SQL("pg_catalog.timezone({}, pg_catalog.now())").format(sql.Literal(column.type.zone or "UTC"))
    return sql.SQL("{}::pg_catalog.date").format(local) if column.type.name is TypeName.DATE else local


class BoundRows:
    """Bound arrays as rows: ``ROWS FROM (unnest($1::…[]), unnest($2::…[])) AS u (alias, alias)``, with the parameters
    in the given order. ``unnest`` of several arrays is short for this, but takes no schema before its name."""

    def __init__(self, columns: Iterable[tuple[str, ColumnType]]) -> None:
        self._formats = {alias: wire_format(column_type) for alias, column_type in columns}

    def unnested(self) -> sql.Composed:
        arrays = (
            sql.SQL(f"pg_catalog.unnest(${number}::pg_catalog.{{}}[])").format(sql.Identifier(form.sent_as))
            for number, form in enumerate(self._formats.values(), start=1)
        )
        return sql.SQL("ROWS FROM ({}) AS u ({})").format(comma(arrays), comma(map(sql.Identifier, self._formats)))

    def value(self, alias: str) -> sql.Composed:
        return self._formats[alias].parsed(sql.Identifier("u", alias))

    def compared(self, alias: str, column: sql.Composable) -> tuple[sql.Composed, sql.Composed]:
        """What a column of the table holds, and the value of the row that it is compared with."""
        return self._formats[alias].compared(column, sql.Identifier("u", alias))

    def values(self) -> list[sql.Composed]:
        return [self.value(alias) for alias in self._formats]


def _bound(row_schema: RowSchema, columns: Sequence[tuple[str, RowColumn]]) -> BoundRows:
    """The key as ``k``, then ``columns``."""
    return BoundRows([("k", row_schema.key.type), *((alias, column.type) for alias, column in columns)])


def _numbered(prefix: str, columns: Iterable[RowColumn]) -> list[tuple[str, RowColumn]]:
    return [(f"{prefix}{number}", column) for number, column in enumerate(columns)]


def _unchanged(rows: BoundRows, old: Sequence[tuple[str, RowColumn]]) -> sql.Composed:
    pairs = [rows.compared(alias, sql.Identifier("p", column.name)) for alias, column in old]
    return sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        comma(now for now, _ in pairs), comma(before for _, before in pairs)
    )


def _shown(row_schema: RowSchema) -> sql.Composed:
    return comma(wire_format(column.type).shown(sql.Identifier("p", column.name)) for column in row_schema.columns)


def _literal(column: RowColumn) -> sql.Composed:
    """The constant of a column, in the column's type."""
    form = wire_format(column.type)
    sent = sql.SQL("{}::pg_catalog.{}").format(sql.Literal(str(constant(column))), sql.Identifier(form.sent_as))
    return form.parsed(sent)


def _statement(row_schema: RowSchema, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
    """``text`` with the table, its key, the rows of this sync, and the ids in ``$1``, beside ``parts``."""
    key_name = row_schema.key.name
    return sql.SQL(text).format(
        table=table(row_schema),
        is_ours=is_ours(row_schema),
        key=sql.Identifier(key_name),
        id=sql.SQL("{}::pg_catalog.text").format(sql.Identifier("p", key_name)),
        ids=ids(row_schema),
        **parts,
    )
