"""Asks the server which rows are in the way of rows that it has refused.

The server names one constraint and stops. Which rows a whole batch collides with is found by one query for each
constraint that relates rows to one another: unique indexes and exclusion constraints (with their expressions,
operators and predicates as the catalogue has them), and foreign keys of the table. What is not found here, because of a
column that the role may not read or that a trigger fills, is found one refused row at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from product_sync.adapters.postgres import arrays
from product_sync.adapters.postgres.inspect import table_oid
from product_sync.core.layout import Layout, LayoutColumn
from product_sync.core.model import ColumnType, TypeName
from product_sync.core.obstacles import Obstacle, ObstacleKind
from product_sync.core.ports import WriteBatch

#: How many rows one query asks about.
_ROWS_AT_ONCE: Final = 5_000

# Unique indexes but the primary key, and exclusion constraints: their keys as expressions of the table's columns, the
# operator under which two keys exclude each other (for an index that of equality), the predicate, and every column that
# any of it looks at. An index that belongs to a constraint depends on that, and the constraint on the columns.
_INDEXES: Final = sql.SQL(
    """
    SELECT COALESCE(con.conname, class.relname)::pg_catalog.text,
           COALESCE(con.condeferrable, false),
           index.indisunique,
           COALESCE((pg_catalog.to_jsonb(index) ->> 'indnullsnotdistinct')::pg_catalog.bool, false),
           ARRAY(SELECT pg_catalog.pg_get_indexdef(index.indexrelid, place::pg_catalog.int4, false)
                 FROM pg_catalog.generate_series(1, index.indnkeyatts) AS place ORDER BY place),
           ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', namespace.nspname, operator.oprname)
                 FROM pg_catalog.generate_series(1, index.indnkeyatts) AS place
                 LEFT JOIN pg_catalog.pg_opclass AS opclass
                     ON con.conexclop IS NULL AND opclass.oid = index.indclass[place - 1]
                 LEFT JOIN pg_catalog.pg_amop AS amop
                     ON amop.amopfamily = opclass.opcfamily AND amop.amopstrategy = 3
                    AND amop.amoplefttype = opclass.opcintype AND amop.amoprighttype = opclass.opcintype
                 JOIN pg_catalog.pg_operator AS operator ON operator.oid = COALESCE(con.conexclop[place], amop.amopopr)
                 JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = operator.oprnamespace
                 ORDER BY place),
           pg_catalog.pg_get_expr(index.indpred, index.indrelid),
           ARRAY(SELECT DISTINCT attribute.attname::pg_catalog.text
                 FROM pg_catalog.pg_depend AS depend
                 JOIN pg_catalog.pg_attribute AS attribute
                     ON attribute.attrelid = depend.refobjid AND attribute.attnum = depend.refobjsubid
                 WHERE depend.refobjid = index.indrelid AND depend.refobjsubid > 0
                   AND (depend.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND depend.objid = index.indexrelid
                        OR depend.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
                           AND depend.objid = con.oid)
                   AND pg_catalog.has_column_privilege(index.indrelid, attribute.attnum, 'SELECT')
                   AND attribute.attgenerated = ''
                 ORDER BY 1),
           (SELECT pg_catalog.count(DISTINCT depend.refobjsubid)
            FROM pg_catalog.pg_depend AS depend
            WHERE depend.refobjid = index.indrelid AND depend.refobjsubid > 0
              AND (depend.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND depend.objid = index.indexrelid
                   OR depend.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND depend.objid = con.oid))
    FROM pg_catalog.pg_index AS index
    JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
    LEFT JOIN pg_catalog.pg_constraint AS con
        ON con.conindid = index.indexrelid AND con.conrelid = index.indrelid AND con.contype IN ('u', 'x')
    WHERE index.indrelid = $1::pg_catalog.oid AND index.indislive AND NOT index.indisprimary
      AND (index.indisunique OR con.contype = 'x')
    ORDER BY 1
    """
)

# Foreign keys of the table whose columns the role may read on both sides: the referencing and the referenced columns.
_REFERENCES: Final = sql.SQL(
    """
    SELECT con.conname::pg_catalog.text, con.condeferrable, con.confrelid = con.conrelid,
           namespace.nspname::pg_catalog.text, class.relname::pg_catalog.text,
           ARRAY(SELECT attribute.attname::pg_catalog.text
                 FROM pg_catalog.unnest(con.conkey) WITH ORDINALITY AS key (attnum, place)
                 JOIN pg_catalog.pg_attribute AS attribute
                     ON attribute.attrelid = con.conrelid AND attribute.attnum = key.attnum
                 ORDER BY place),
           ARRAY(SELECT attribute.attname::pg_catalog.text
                 FROM pg_catalog.unnest(con.confkey) WITH ORDINALITY AS key (attnum, place)
                 JOIN pg_catalog.pg_attribute AS attribute
                     ON attribute.attrelid = con.confrelid AND attribute.attnum = key.attnum
                 ORDER BY place)
    FROM pg_catalog.pg_constraint AS con
    JOIN pg_catalog.pg_class AS class ON class.oid = con.confrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE con.contype = 'f' AND con.conrelid = $1::pg_catalog.oid
      AND pg_catalog.has_schema_privilege(namespace.oid, 'USAGE')
      AND (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(con.confrelid, attnum, 'SELECT'))
           FROM pg_catalog.unnest(con.confkey) AS attnum)
      AND (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(con.conrelid, attnum, 'SELECT'))
           FROM pg_catalog.unnest(con.conkey) AS attnum)
    ORDER BY 1
    """
)


@dataclass(frozen=True)
class _Index:
    """A unique index, or an exclusion constraint. ``keys`` and ``predicate`` are the server's own text, over columns
    without a qualifier."""

    name: str
    deferrable: bool
    unique: bool
    nulls_equal: bool
    keys: Sequence[str]
    operators: Sequence[str]
    predicate: str | None
    columns: Sequence[str]
    columns_in_all: int

    @property
    def can_be_asked(self) -> bool:
        return len(self.columns) == self.columns_in_all and len(self.operators) == len(self.keys)


@dataclass(frozen=True)
class _Reference:
    """A foreign key of the table."""

    name: str
    deferrable: bool
    to_itself: bool
    schema: str
    table: str
    columns: Sequence[str]
    referenced: Sequence[str]


def obstacles(connection: psycopg.Connection, layout: Layout, batch: WriteBatch) -> list[Obstacle]:
    """As in the port. Runs in the transaction that is open, or in one for each statement."""
    oid = table_oid(connection, layout.table)
    indexes = [_Index(*row) for row in connection.execute(_INDEXES, [oid]).fetchall()]
    references = [_Reference(*row) for row in connection.execute(_REFERENCES, [oid]).fetchall()]
    found: list[Obstacle] = []
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        part = batch.slice(start, _ROWS_AT_ONCE)
        wanted = _Wanted(layout, part)
        if wanted.num_rows:
            for index in indexes:
                if index.can_be_asked:
                    found += _excluding(connection, layout, wanted, index)
            for reference in references:
                found += _not_there(connection, layout, wanted, reference)
        if part.deletes.num_rows:
            for reference in references:
                if reference.to_itself:
                    found += _referring(connection, layout, part, reference)
    return found


class _Wanted:
    """The rows that are to be in the table, as a relation of the statement: ``new_row`` with the number of the row, its
    id, and the columns that a constraint looks at, named as in the table.

    Columns that are not written keep the value that the row has in the table; of a row to be inserted they are NULL.
    """

    def __init__(self, layout: Layout, batch: WriteBatch) -> None:
        self._layout = layout
        self._rows = pa.concat_tables([batch.inserts, batch.new])
        self.num_rows = self._rows.num_rows
        is_new = pa.array([True] * batch.inserts.num_rows + [False] * batch.new.num_rows, pa.bool_())
        numbers = pa.array(range(self.num_rows), pa.int32())
        self._marks = [
            arrays.bound(pa.chunked_array([numbers]), ColumnType(TypeName.INTEGER)),
            arrays.bound(pa.chunked_array([is_new]), ColumnType(TypeName.BOOLEAN)),
        ]

    def relation(self, columns: Sequence[str]) -> tuple[sql.Composed, list[Any]]:
        """A SELECT of ``"number"``, ``"row id"`` and ``columns``, and its parameters."""
        mapped = {column.name: column for column in self._layout.values}
        sent = [mapped[name] for name in columns if name in mapped]
        key = self._layout.key
        parameters = [*self._marks, *(arrays.bound(self._rows[c.name], c.type) for c in (key, *sent))]
        types = ["int4", "bool", *(arrays.wire(column.type).element for column in (key, *sent))]
        aliases = ["number", "is_new", "k", *(f"n{place}" for place in range(len(sent)))]
        unnested = sql.SQL(", ").join(
            sql.SQL(f"pg_catalog.unnest(${place}::pg_catalog.{{}}[])").format(sql.Identifier(name))
            for place, name in enumerate(types, start=1)
        )
        statement = sql.SQL(
            'SELECT u.number AS "number", {k}::pg_catalog.text AS "row id"{columns} FROM ROWS FROM ({unnested}) AS u '
            "({aliases}) LEFT JOIN {table} AS t ON t.{key} = {k}"
        ).format(
            k=arrays.wire(key.type).parsed(sql.Identifier("u", "k")),
            columns=sql.Composed([self._column(name, sent) for name in columns]),
            unnested=unnested,
            aliases=sql.SQL(", ").join(map(sql.Identifier, aliases)),
            table=_table(self._layout),
            key=sql.Identifier(key.name),
        )
        return statement, parameters

    def _column(self, name: str, sent: Sequence[LayoutColumn]) -> sql.Composed:
        in_table = sql.Identifier("t", name)
        if name == self._layout.key.name:
            value: sql.Composable = arrays.wire(self._layout.key.type).parsed(sql.Identifier("u", "k"))
        elif (place := next((at for at, column in enumerate(sent) if column.name == name), None)) is None:
            value = in_table
        else:
            column = sent[place]
            value = arrays.wire(column.type).parsed(sql.Identifier("u", f"n{place}"))
            if not column.update:
                value = sql.SQL("CASE WHEN u.is_new THEN {} ELSE {} END").format(value, in_table)
        return sql.SQL(", {} AS {}").format(value, sql.Identifier(name))


def _excluding(connection: psycopg.Connection, layout: Layout, wanted: _Wanted, index: _Index) -> list[Obstacle]:
    """The rows of the table, and of the batch, that hold or want what a row of the batch is to have."""
    relation, parameters = wanted.relation(index.columns)
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
            SELECT "number", "row id"{keys} FROM ({relation}) AS {alias} WHERE {predicate}
        ), p AS NOT MATERIALIZED (
            SELECT {key}::pg_catalog.text AS "row id"{keys} FROM {table} AS {alias} WHERE {predicate}
        )
        """
    ).format(
        keys=keys,
        relation=relation,
        alias=sql.Identifier(layout.table.name),
        predicate=predicate,
        key=sql.Identifier(layout.key.name),
        table=_table(layout),
    ) + sql.SQL(" UNION ALL ").join(parts)
    rows = connection.execute(statement, parameters, prepare=False).fetchall()
    return [
        Obstacle(
            row=row,
            other=other,
            kind=ObstacleKind.RIVAL if is_rival else ObstacleKind.HELD,
            constraint=index.name,
            columns=tuple(index.columns),
            deferrable=index.deferrable,
        )
        for row, other, is_rival in rows
    ]


# Rows of the table that hold now what a row is to have.
_HOLDERS: Final = sql.SQL(
    """
    SELECT w."row id", p."row id", false FROM w JOIN p ON {matches} AND p."row id" <> w."row id"
    """
)

# Rows of the batch that are to have the same as an earlier one of it.
_RIVALS: Final = sql.SQL(
    """
    SELECT "row id", "first id", true FROM (
        SELECT w."row id", pg_catalog.first_value(w."row id") OVER (PARTITION BY {keys} ORDER BY "number") AS "first id"
        FROM w WHERE {comparable}
    ) AS rival WHERE "row id" <> "first id"
    """
)


def _not_there(
    connection: psycopg.Connection, layout: Layout, wanted: _Wanted, reference: _Reference
) -> list[Obstacle]:
    """Rows that refer to a row which is not there. Of the table's own rows only those that are referenced by their id
    can be told; a row may refer to itself."""
    key = layout.key.name
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
        SELECT w."row id", {needed}::pg_catalog.text FROM ({relation}) AS w
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
    rows = connection.execute(statement, parameters, prepare=False).fetchall()
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
        for row, other in rows
    ]


def _referring(
    connection: psycopg.Connection, layout: Layout, batch: WriteBatch, reference: _Reference
) -> list[Obstacle]:
    """Rows of the table that refer to one which is to be deleted."""
    key = layout.key
    statement = sql.SQL(
        """
        SELECT d.{key}::pg_catalog.text, p.{key}::pg_catalog.text FROM {table} AS d JOIN {table} AS p ON {matches}
        WHERE d.{key} = ANY ({ids}) AND p.{key} <> d.{key}
        """
    ).format(
        key=sql.Identifier(key.name),
        table=_table(layout),
        matches=sql.SQL(" AND ").join(
            sql.SQL("p.{} = d.{}").format(sql.Identifier(one), sql.Identifier(other))
            for one, other in zip(reference.columns, reference.referenced, strict=True)
        ),
        ids=arrays.wire(key.type).parsed_array(sql.SQL("$1::pg_catalog.text[]")),
    )
    ids = [arrays.ids(batch.deletes[key.name].to_pylist())]
    return [
        Obstacle(
            row=row,
            other=other,
            kind=ObstacleKind.REFERRING,
            constraint=reference.name,
            columns=tuple(reference.columns),
            deferrable=reference.deferrable,
        )
        for row, other in connection.execute(statement, ids, prepare=False).fetchall()
    ]


def _table(layout: Layout) -> sql.Identifier:
    return sql.Identifier(layout.table.schema, layout.table.name)


def _key(place: int) -> sql.Identifier:
    return sql.Identifier(f"key {place}")


def _text(expression: str) -> sql.SQL:
    """An expression or an operator as the server's catalogue has it."""
    return sql.SQL(expression)
