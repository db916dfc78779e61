"""Asks the server which rows keep out the rows that it has refused.

The server names one constraint and stops. One query for each constraint that relates rows to one another finds all rows
that a batch collides with: unique indexes and exclusion constraints (with their expressions, operators and predicates
from the catalogue), and the foreign keys of the table. A constraint that looks at a column that the role may not read,
or that a trigger fills, cannot be asked about: then the load finds the refused rows one by one.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from product_sync.schema.obstacle import Obstacle, ObstacleKind
from product_sync.schema.ports import WriteBatch
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.types import ColumnType, TypeName
from product_sync.targets.postgres import binary, row_sql
from product_sync.targets.postgres.constraint_catalog import INDEXES, REFERENCES, Index, Reference
from product_sync.targets.postgres.errors import describe
from product_sync.targets.postgres.requirements import table_oid

_LOGGER = logging.getLogger(__name__)
#: Rows per query.
_ROWS_AT_ONCE: Final = 5_000
_NUMBER, _IS_NEW = ColumnType(TypeName.INTEGER), ColumnType(TypeName.BOOLEAN)


def obstacles(connection: psycopg.Connection, row_schema: RowSchema, batch: WriteBatch) -> list[Obstacle]:
    """As in the port. Runs in the transaction that is open, or in one for each statement."""
    oid = table_oid(connection, row_schema.table)
    indexes = [Index(*row) for row in connection.execute(INDEXES, [oid, sorted(row_schema.key_names)])]
    references = [Reference(*row) for row in connection.execute(REFERENCES, [oid])]
    found: list[Obstacle] = []
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        part = batch.slice(start, _ROWS_AT_ONCE)
        wanted = _Wanted(row_schema, part)
        if wanted.num_rows:
            for index in indexes:
                if index.may_be_read and len(index.operators) == len(index.keys):
                    found += _excluding(connection, row_schema, wanted, index)
            for reference in references:
                found += _not_there(connection, row_schema, wanted, reference)
        if part.deletes.num_rows:
            for reference in references:
                if reference.to_itself:
                    found += _referring(connection, row_schema, part, reference)
    return found


class _Wanted:
    """The rows that are to be in the table, as a relation of a statement. Columns that are not written keep the value
    that the row has in the table; in a row to be inserted they are NULL."""

    def __init__(self, row_schema: RowSchema, batch: WriteBatch) -> None:
        self._row_schema = row_schema
        self._rows = pa.concat_tables([batch.inserts, batch.new])
        self.num_rows = self._rows.num_rows
        is_new = pa.array([True] * batch.inserts.num_rows + [False] * batch.new.num_rows, pa.bool_())
        numbers = pa.array(range(self.num_rows), pa.int32())
        marks = (numbers, _NUMBER), (is_new, _IS_NEW)
        self._marks = [binary.bound(pa.chunked_array([values]), kind) for values, kind in marks]

    def relation(self, columns: Sequence[str]) -> tuple[sql.Composed, list[Any]]:
        """A SELECT of ``"product_sync number"``, ``"product_sync id"`` and ``columns``, and its parameters."""
        key = self._row_schema.key
        mapped = {column.name: column for column in self._row_schema.values}
        sent = {name: (f"n{place}", mapped[name]) for place, name in enumerate(columns) if name in mapped}
        marks = ("number", _NUMBER), ("is_new", _IS_NEW), ("k", key.type)
        rows = row_sql.BoundRows([*marks, *((alias, column.type) for alias, column in sent.values())])
        statement = sql.SQL(
            """
            SELECT u.number AS "product_sync number", {k}::pg_catalog.text AS "product_sync id"{columns}
            FROM {rows} LEFT JOIN {table} AS t ON {is_ours} AND t.{key} = {k}
            """
        ).format(
            k=rows.value("k"),
            columns=sql.Composed([self._column(name, sent, rows) for name in columns]),
            rows=rows.unnested(),
            is_ours=row_sql.is_ours(self._row_schema, "t"),
            table=row_sql.table(self._row_schema),
            key=row_sql.key(self._row_schema),
        )
        values = [key, *(column for _, column in sent.values())]
        return statement, [*self._marks, *(binary.bound(self._rows[column.name], column.type) for column in values)]

    def _column(self, name: str, sent: dict[str, tuple[str, RowColumn]], rows: row_sql.BoundRows) -> sql.Composed:
        in_table = sql.Identifier("t", name)
        if name == self._row_schema.key.name:
            value: sql.Composable = rows.value("k")
        elif name not in sent:
            value = in_table
        else:
            alias, column = sent[name]
            value = rows.value(alias)
            if not column.update:
                value = sql.SQL("CASE WHEN u.is_new THEN {} ELSE {} END").format(value, in_table)
        return sql.SQL(", {} AS {}").format(value, sql.Identifier(name))


def _excluding(
    connection: psycopg.Connection, row_schema: RowSchema, wanted: _Wanted, index: Index
) -> Iterator[Obstacle]:
    """Rows of the table, and of the batch, that hold or want the same value as a row of the batch."""
    relation, parameters = wanted.relation(index.columns)
    if index.generated:
        made = zip(index.generated, index.expressions, strict=True)
        relation = sql.SQL("SELECT *{generated} FROM ({relation}) AS {alias}").format(
            generated=sql.SQL("").join(sql.SQL(", {} AS {}").format(sql.SQL(e), sql.Identifier(n)) for n, e in made),
            relation=relation,
            alias=sql.Identifier(row_schema.table.name),
        )
    keys = sql.SQL("").join(sql.SQL(", {} AS {}").format(sql.SQL(key), _key(n)) for n, key in enumerate(index.keys))
    matches = [
        sql.SQL("p.{k} {op} w.{k}").format(k=_key(n), op=sql.SQL(operator))
        for n, operator in enumerate(index.operators)
    ]
    parts = [_HOLDERS.format(matches=_and(matches))]
    if index.unique:
        not_null = _and(sql.SQL("w.{} IS NOT NULL").format(_key(n)) for n in range(len(matches)))
        parts.append(
            _RIVALS.format(
                keys=row_sql.comma(map(_key, range(len(matches)))),
                comparable=sql.SQL("true") if index.nulls_equal else not_null,
            )
        )
        if index.nulls_equal:
            same = _and(
                sql.SQL("({match} OR p.{k} IS NULL AND w.{k} IS NULL)").format(match=match, k=_key(n))
                for n, match in enumerate(matches)
            )
            parts.append(_HOLDERS.format(matches=sql.SQL("NOT ({}) AND {}").format(not_null, same)))
    statement = sql.SQL(
        """
        WITH w AS MATERIALIZED (
            SELECT "product_sync number", "product_sync id"{keys} FROM ({relation}) AS {alias} WHERE {predicate}
        ), p AS NOT MATERIALIZED (
            SELECT {key}::pg_catalog.text AS "product_sync id", {whole_key} AS "product_sync key",
                   {is_ours} AS "product_sync is ours"{keys}
            FROM {table} AS {alias} WHERE {predicate}
        )
        """
    ).format(
        keys=keys,
        relation=relation,
        alias=sql.Identifier(row_schema.table.name),
        predicate=sql.SQL(index.predicate or "true"),
        key=row_sql.key(row_schema),
        whole_key=_whole_key(row_schema, row_schema.table.name),
        is_ours=row_sql.is_ours(row_schema, row_schema.table.name),
        table=row_sql.table(row_schema),
    ) + sql.SQL(" UNION ALL ").join(parts)
    for row, other, kind in _rows(connection, statement, parameters):
        yield Obstacle(row, other, ObstacleKind(kind), index.name, tuple(index.columns), index.deferrable)


# Rows of the table that hold the value that a row of the batch is to have.
_HOLDERS: Final = sql.SQL(
    """
    SELECT w."product_sync id",
           CASE WHEN p."product_sync is ours" THEN p."product_sync id" ELSE p."product_sync key" END,
           CASE WHEN p."product_sync is ours" THEN 'held' ELSE 'outside' END
    FROM w JOIN p ON {matches} AND NOT (p."product_sync is ours" AND p."product_sync id" = w."product_sync id")
    """
)

# Rows of the batch that are to have the same value as an earlier row of the batch.
_RIVALS: Final = sql.SQL(
    """
    SELECT "product_sync id", "product_sync first", 'rival' FROM (
        SELECT w."product_sync id", pg_catalog.first_value(w."product_sync id")
                   OVER (PARTITION BY {keys} ORDER BY "product_sync number") AS "product_sync first"
        FROM w WHERE {comparable}
    ) AS rival WHERE "product_sync id" <> "product_sync first"
    """
)


def _not_there(
    connection: psycopg.Connection, row_schema: RowSchema, wanted: _Wanted, reference: Reference
) -> Iterator[Obstacle]:
    """Rows that refer to a row which is not there. Rows of the same table are found only if they are referenced by
    their id. A row may refer to itself."""
    key = row_schema.key.name
    if reference.to_itself and key not in reference.referenced:
        return
    columns = list(dict.fromkeys([*reference.columns, *(reference.referenced if reference.to_itself else ())]))
    relation, parameters = wanted.relation([name for name in columns if name != key] + [key] * (key in columns))
    pairs = list(zip(reference.columns, reference.referenced, strict=True))
    if reference.to_itself:
        needed: sql.Composable = sql.Identifier("w", reference.columns[reference.referenced.index(key)])
        own: sql.Composable = _and(
            sql.SQL("w.{} = w.{}").format(sql.Identifier(one), sql.Identifier(other)) for one, other in pairs
        )
    else:
        needed = sql.SQL("pg_catalog.concat_ws(', ', {})").format(
            row_sql.comma(sql.Identifier("w", name) for name in reference.columns)
        )
        own = sql.SQL("false")
    statement = sql.SQL(
        """
        SELECT w."product_sync id", {needed}::pg_catalog.text FROM ({relation}) AS w
        WHERE {complete} AND NOT ({own})
          AND NOT EXISTS (SELECT FROM {referenced} AS p WHERE {matches})
        """
    ).format(
        needed=needed,
        relation=relation,
        complete=_and(sql.SQL("w.{} IS NOT NULL").format(sql.Identifier(name)) for name in reference.columns),
        own=own,
        referenced=sql.Identifier(reference.schema, reference.table),
        matches=_and(sql.SQL("p.{} = w.{}").format(sql.Identifier(other), sql.Identifier(one)) for one, other in pairs),
    )
    kind = ObstacleKind.NEEDED if reference.to_itself else ObstacleKind.NEEDED_ELSEWHERE
    table = "" if reference.to_itself else f"{reference.schema}.{reference.table}"
    for row, other in _rows(connection, statement, parameters):
        yield Obstacle(row, other, kind, reference.name, tuple(reference.columns), reference.deferrable, table)


def _referring(
    connection: psycopg.Connection, row_schema: RowSchema, batch: WriteBatch, reference: Reference
) -> Iterator[Obstacle]:
    """Rows of the table that refer to a row which is to be deleted."""
    statement = sql.SQL(
        """
        SELECT d.{key}::pg_catalog.text, CASE WHEN {is_ours} THEN p.{key}::pg_catalog.text ELSE {whole_key} END,
               CASE WHEN {is_ours} THEN 'referring' ELSE 'outside' END
        FROM {table} AS d JOIN {table} AS p ON {matches}
        WHERE {deleted_is_ours} AND d.{key} = ANY ({ids}) AND NOT ({is_ours} AND p.{key} = d.{key})
        """
    ).format(
        key=row_sql.key(row_schema),
        table=row_sql.table(row_schema),
        matches=_and(
            sql.SQL("p.{} = d.{}").format(sql.Identifier(one), sql.Identifier(other))
            for one, other in zip(reference.columns, reference.referenced, strict=True)
        ),
        is_ours=row_sql.is_ours(row_schema),
        deleted_is_ours=row_sql.is_ours(row_schema, "d"),
        whole_key=_whole_key(row_schema, "p"),
        ids=row_sql.ids(row_schema),
    )
    parameters = [binary.ids(batch.deletes[row_schema.key.name].to_pylist())]
    for row, other, kind in _rows(connection, statement, parameters):
        yield Obstacle(row, other, ObstacleKind(kind), reference.name, tuple(reference.columns), reference.deferrable)


def _rows(connection: psycopg.Connection, statement: sql.Composed, parameters: list[Any]) -> list[tuple[Any, ...]]:
    """The rows of a query. None if the server cannot run it, for example because an expression of the index fails for a
    value of the batch; then the load finds the refused rows one by one."""
    try:
        with connection.transaction():
            return connection.execute(statement, parameters, prepare=False).fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        _LOGGER.warning("The server could not say which rows exclude each other: %s", describe(error))
        return []


def _and(conditions: Iterator[sql.Composed] | Sequence[sql.Composed]) -> sql.Composed:
    return sql.SQL(" AND ").join(conditions)


def _whole_key(row_schema: RowSchema, alias: str) -> sql.Composed:
    names = (sql.Identifier(alias, name) for name in row_schema.key_names)
    return sql.SQL("pg_catalog.concat_ws(', ', {})").format(row_sql.comma(names))


def _key(place: int) -> sql.Identifier:
    return sql.Identifier(f"key {place}")
