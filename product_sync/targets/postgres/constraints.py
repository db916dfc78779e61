"""Asks the server which rows are in the way of rows that it has refused.

The server names one constraint and stops. Which rows a whole batch collides with is found by one query for each
constraint that relates rows to one another: unique indexes and exclusion constraints (with their expressions,
operators and predicates as the catalogue has them), and foreign keys of the table. What is not found here, because of a
column that the role may not read or that a trigger fills, is found one refused row at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from product_sync.schema.obstacle import Obstacle, ObstacleKind
from product_sync.schema.ports import WriteBatch
from product_sync.schema.records import ColumnType, TypeName
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.targets.postgres import binary_arrays
from product_sync.targets.postgres.constraint_catalog import Index, Reference, indexes_of, references_of
from product_sync.targets.postgres.errors import describe
from product_sync.targets.postgres.requirements import table_oid

_LOGGER = logging.getLogger(__name__)
#: How many rows one query asks about.
_ROWS_AT_ONCE: Final = 5_000


def obstacles(connection: psycopg.Connection, row_schema: RowSchema, batch: WriteBatch) -> list[Obstacle]:
    """As in the port. Runs in the transaction that is open, or in one for each statement."""
    oid = table_oid(connection, row_schema.table)
    indexes, references = indexes_of(connection, oid), references_of(connection, oid)
    found: list[Obstacle] = []
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        part = batch.slice(start, _ROWS_AT_ONCE)
        wanted = _Wanted(row_schema, part)
        if wanted.num_rows:
            for index in indexes:
                if index.can_be_asked:
                    found += _excluding(connection, row_schema, wanted, index)
            for reference in references:
                found += _not_there(connection, row_schema, wanted, reference)
        if part.deletes.num_rows:
            for reference in references:
                if reference.to_itself:
                    found += _referring(connection, row_schema, part, reference)
    return found


class _Wanted:
    """The rows that are to be in the table, as a relation of the statement: ``new_row`` with the number of the row, its
    id, and the columns that a constraint looks at, named as in the table.

    Columns that are not written keep the value that the row has in the table; of a row to be inserted they are NULL.
    """

    def __init__(self, row_schema: RowSchema, batch: WriteBatch) -> None:
        self._layout = row_schema
        self._rows = pa.concat_tables([batch.inserts, batch.new])
        self.num_rows = self._rows.num_rows
        is_new = pa.array([True] * batch.inserts.num_rows + [False] * batch.new.num_rows, pa.bool_())
        numbers = pa.array(range(self.num_rows), pa.int32())
        self._marks = [
            binary_arrays.bound(pa.chunked_array([numbers]), ColumnType(TypeName.INTEGER)),
            binary_arrays.bound(pa.chunked_array([is_new]), ColumnType(TypeName.BOOLEAN)),
        ]

    def relation(self, columns: Sequence[str]) -> tuple[sql.Composed, list[Any]]:
        """A SELECT of ``"product_sync number"``, ``"product_sync id"`` and ``columns``, and its parameters."""
        mapped = {column.name: column for column in self._layout.values}
        sent = [mapped[name] for name in columns if name in mapped]
        key = self._layout.key
        parameters = [*self._marks, *(binary_arrays.bound(self._rows[c.name], c.type) for c in (key, *sent))]
        types = ["int4", "bool", *(binary_arrays.wire(column.type).element for column in (key, *sent))]
        aliases = ["number", "is_new", "k", *(f"n{place}" for place in range(len(sent)))]
        unnested = sql.SQL(", ").join(
            sql.SQL(f"pg_catalog.unnest(${place}::pg_catalog.{{}}[])").format(sql.Identifier(name))
            for place, name in enumerate(types, start=1)
        )
        statement = sql.SQL(
            """
            SELECT u.number AS "product_sync number", {k}::pg_catalog.text AS "product_sync id"{columns}
            FROM ROWS FROM ({unnested}) AS u ({aliases}) LEFT JOIN {table} AS t ON t.{key} = {k}
            """
        ).format(
            k=binary_arrays.wire(key.type).parsed(sql.Identifier("u", "k")),
            columns=sql.Composed([self._column(name, sent) for name in columns]),
            unnested=unnested,
            aliases=sql.SQL(", ").join(map(sql.Identifier, aliases)),
            table=_table(self._layout),
            key=sql.Identifier(key.name),
        )
        return statement, parameters

    def _column(self, name: str, sent: Sequence[RowColumn]) -> sql.Composed:
        in_table = sql.Identifier("t", name)
        if name == self._layout.key.name:
            value: sql.Composable = binary_arrays.wire(self._layout.key.type).parsed(sql.Identifier("u", "k"))
        elif (place := next((at for at, column in enumerate(sent) if column.name == name), None)) is None:
            value = in_table
        else:
            column = sent[place]
            value = binary_arrays.wire(column.type).parsed(sql.Identifier("u", f"n{place}"))
            if not column.update:
                value = sql.SQL("CASE WHEN u.is_new THEN {} ELSE {} END").format(value, in_table)
        return sql.SQL(", {} AS {}").format(value, sql.Identifier(name))


def _excluding(connection: psycopg.Connection, row_schema: RowSchema, wanted: _Wanted, index: Index) -> list[Obstacle]:
    """The rows of the table, and of the batch, that hold or want what a row of the batch is to have."""
    relation, parameters = wanted.relation(index.columns)
    if index.generated:
        made = zip(index.generated, index.expressions, strict=True)
        relation = sql.SQL("SELECT *{generated} FROM ({relation}) AS {alias}").format(
            generated=sql.SQL("").join(sql.SQL(", {} AS {}").format(_text(e), sql.Identifier(n)) for n, e in made),
            relation=relation,
            alias=sql.Identifier(row_schema.table.name),
        )
    keys = sql.SQL("").join(sql.SQL(", {} AS {}").format(_text(key), _key(n)) for n, key in enumerate(index.keys))
    predicate = _text(index.predicate) if index.predicate else sql.SQL("true")
    each = [
        sql.SQL("p.{k} {op} w.{k}").format(k=_key(n), op=_text(operator)) for n, operator in enumerate(index.operators)
    ]
    parts = [_HOLDERS.format(matches=sql.SQL(" AND ").join(each))]
    if index.unique:
        not_null = sql.SQL(" AND ").join(sql.SQL("w.{} IS NOT NULL").format(_key(n)) for n in range(len(each)))
        parts.append(
            _RIVALS.format(
                keys=sql.SQL(", ").join(map(_key, range(len(each)))),
                comparable=sql.SQL("true") if index.nulls_equal else not_null,
            )
        )
        if index.nulls_equal:
            same = sql.SQL(" AND ").join(
                sql.SQL("({each} OR p.{k} IS NULL AND w.{k} IS NULL)").format(each=one, k=_key(n))
                for n, one in enumerate(each)
            )
            parts.append(_HOLDERS.format(matches=sql.SQL("NOT ({}) AND {}").format(not_null, same)))
    statement = sql.SQL(
        """
        WITH w AS MATERIALIZED (
            SELECT "product_sync number", "product_sync id"{keys} FROM ({relation}) AS {alias} WHERE {predicate}
        ), p AS NOT MATERIALIZED (
            SELECT {key}::pg_catalog.text AS "product_sync id"{keys} FROM {table} AS {alias} WHERE {predicate}
        )
        """
    ).format(
        keys=keys,
        relation=relation,
        alias=sql.Identifier(row_schema.table.name),
        predicate=predicate,
        key=sql.Identifier(row_schema.key.name),
        table=_table(row_schema),
    ) + sql.SQL(" UNION ALL ").join(parts)
    return [
        Obstacle(
            row=row,
            other=other,
            kind=ObstacleKind.RIVAL if is_rival else ObstacleKind.HELD,
            constraint=index.name,
            columns=tuple(index.columns),
            deferrable=index.deferrable,
        )
        for row, other, is_rival in _rows(connection, statement, parameters)
    ]


# Rows of the table that hold now what a row is to have.
_HOLDERS: Final = sql.SQL(
    """
    SELECT w."product_sync id", p."product_sync id", false
    FROM w JOIN p ON {matches} AND p."product_sync id" <> w."product_sync id"
    """
)

# Rows of the batch that are to have the same as an earlier one of it.
_RIVALS: Final = sql.SQL(
    """
    SELECT "product_sync id", "product_sync first", true FROM (
        SELECT w."product_sync id", pg_catalog.first_value(w."product_sync id")
                   OVER (PARTITION BY {keys} ORDER BY "product_sync number") AS "product_sync first"
        FROM w WHERE {comparable}
    ) AS rival WHERE "product_sync id" <> "product_sync first"
    """
)


def _not_there(
    connection: psycopg.Connection, row_schema: RowSchema, wanted: _Wanted, reference: Reference
) -> list[Obstacle]:
    """Rows that refer to a row which is not there. Of the table's own rows only those that are referenced by their id
    can be told; a row may refer to itself."""
    key = row_schema.key.name
    if reference.to_itself and key not in reference.referenced:
        return []
    columns = list(dict.fromkeys([*reference.columns, *(reference.referenced if reference.to_itself else ())]))
    relation, parameters = wanted.relation([name for name in columns if name != key] + [key] * (key in columns))
    pairs = list(zip(reference.columns, reference.referenced, strict=True))
    own = sql.SQL(" AND ").join(
        sql.SQL("w.{} = w.{}").format(sql.Identifier(one), sql.Identifier(other)) for one, other in pairs
    )
    if reference.to_itself:
        needed: sql.Composable = sql.Identifier("w", reference.columns[reference.referenced.index(key)])
    else:
        needed = sql.SQL("pg_catalog.concat_ws(', ', {})").format(
            sql.SQL(", ").join(sql.Identifier("w", name) for name in reference.columns)
        )
    statement = sql.SQL(
        """
        SELECT w."product_sync id", {needed}::pg_catalog.text FROM ({relation}) AS w
        WHERE {complete} AND NOT ({own})
          AND NOT EXISTS (SELECT FROM {referenced} AS p WHERE {matches})
        """
    ).format(
        needed=needed,
        relation=relation,
        complete=sql.SQL(" AND ").join(
            sql.SQL("w.{} IS NOT NULL").format(sql.Identifier(n)) for n in reference.columns
        ),
        own=own if reference.to_itself else sql.SQL("false"),
        referenced=sql.Identifier(reference.schema, reference.table),
        matches=sql.SQL(" AND ").join(
            sql.SQL("p.{} = w.{}").format(sql.Identifier(other), sql.Identifier(one)) for one, other in pairs
        ),
    )
    kind = ObstacleKind.NEEDED if reference.to_itself else ObstacleKind.NEEDED_ELSEWHERE
    return [
        Obstacle(
            row=row,
            other=other,
            kind=kind,
            constraint=reference.name,
            columns=tuple(reference.columns),
            deferrable=reference.deferrable,
            table="" if reference.to_itself else f"{reference.schema}.{reference.table}",
        )
        for row, other in _rows(connection, statement, parameters)
    ]


def _referring(
    connection: psycopg.Connection, row_schema: RowSchema, batch: WriteBatch, reference: Reference
) -> list[Obstacle]:
    """Rows of the table that refer to one which is to be deleted."""
    key = row_schema.key
    statement = sql.SQL(
        """
        SELECT d.{key}::pg_catalog.text, p.{key}::pg_catalog.text FROM {table} AS d JOIN {table} AS p ON {matches}
        WHERE d.{key} = ANY ({ids}) AND p.{key} <> d.{key}
        """
    ).format(
        key=sql.Identifier(key.name),
        table=_table(row_schema),
        matches=sql.SQL(" AND ").join(
            sql.SQL("p.{} = d.{}").format(sql.Identifier(one), sql.Identifier(other))
            for one, other in zip(reference.columns, reference.referenced, strict=True)
        ),
        ids=binary_arrays.wire(key.type).parsed_array(sql.SQL("$1::pg_catalog.text[]")),
    )
    ids = [binary_arrays.ids(batch.deletes[key.name].to_pylist())]
    return [
        Obstacle(
            row=row,
            other=other,
            kind=ObstacleKind.REFERRING,
            constraint=reference.name,
            columns=tuple(reference.columns),
            deferrable=reference.deferrable,
        )
        for row, other in _rows(connection, statement, ids)
    ]


def _rows(connection: psycopg.Connection, statement: sql.Composed, parameters: list[Any]) -> list[tuple[Any, ...]]:
    """What a query finds. It finds nothing where the server cannot run it, for example because an expression of the
    index fails for a value of the batch; then the refused rows are found one by one."""
    try:
        with connection.transaction():
            return connection.execute(statement, parameters, prepare=False).fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        _LOGGER.warning("Which rows exclude each other could not be asked: %s", describe(error))
        return []


def _table(row_schema: RowSchema) -> sql.Identifier:
    return sql.Identifier(row_schema.table.schema, row_schema.table.name)


def _key(place: int) -> sql.Identifier:
    return sql.Identifier(f"key {place}")


def _text(expression: str) -> sql.SQL:
    """An expression or an operator as the server's catalogue has it."""
    return sql.SQL(expression)
