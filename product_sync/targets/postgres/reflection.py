"""The target table as its catalogue describes it, in the words of `product_sync.schema.records`.

The conversion rules hang on the column types. A type read wrongly here would let values through that the server
rounds or pads; so what is not known to be exact has no type, and is refused by name when it is mapped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import SAWarning

from product_sync.errors import TableError
from product_sync.schema.records import ColumnType, TableColumn, TargetTable, TypeName
from product_sync.targets.postgres import statements
from product_sync.targets.postgres.connection import VARIABLE, connect
from product_sync.targets.postgres.errors import read_error
from product_sync.targets.postgres.requirements import refuse_heirs

_TABLE_KINDS: Final = {"r": "table", "p": "partitioned table"}
_OTHER_KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "c": "type"}
#: How many of the tables that do exist are named when the one that was asked for does not.
_NAMED_TABLES: Final = 10
#: BSON dates have milliseconds; a column with fewer digits would round them.
_MILLISECONDS: Final = 3

#: By exact class: a subclass (DOMAIN, CITEXT, CHAR) is another type with other rules.
_TYPES: Final[dict[type[sa.types.TypeEngine[Any]], Callable[[Any], ColumnType | None]]] = {
    sa.SMALLINT: lambda _: ColumnType(TypeName.SMALLINT),
    sa.INTEGER: lambda _: ColumnType(TypeName.INTEGER),
    sa.BIGINT: lambda _: ColumnType(TypeName.BIGINT),
    sa.NUMERIC: lambda found: _numeric(found.precision, found.scale),
    sa.REAL: lambda _: ColumnType(TypeName.REAL),
    sa.DOUBLE_PRECISION: lambda _: ColumnType(TypeName.DOUBLE),
    sa.TEXT: lambda _: ColumnType(TypeName.TEXT),
    sa.VARCHAR: lambda found: ColumnType(TypeName.VARCHAR, length=found.length),
    sa.BOOLEAN: lambda _: ColumnType(TypeName.BOOLEAN),
    sa.UUID: lambda _: ColumnType(TypeName.UUID),
    postgresql.TIMESTAMP: lambda found: _timestamp(found.timezone, found.precision),
}


def engine(url: str) -> sa.Engine:
    """An SQLAlchemy engine whose connections are those of `connect`, one at a time and never kept.

    Raises what `connect` raises when it is used.
    """

    def creator() -> psycopg.Connection:
        connection = connect(url)
        connection.execute(statements.PLAIN_NAMES)
        # SQLAlchemy writes its placeholders in psycopg's own style and begins its transactions itself.
        connection.cursor_factory = psycopg.Cursor
        connection.autocommit = False
        return connection

    return sa.create_engine(
        "postgresql+psycopg://", creator=creator, poolclass=sa.NullPool, use_native_hstore=False, hide_parameters=True
    )


def reflect(url: str, schema: str, table: str) -> TargetTable:
    """The columns and the primary key of ``schema.table``, letter case as written.

    Raises `TableError` if there is no such table, naming those of the schema, if it is not a table, or if its primary
    key is deferrable (PostgreSQL cannot infer a conflict from one), and what `connect` raises.
    """
    with closing(connect(url)) as connection:
        try:
            connection.execute(statements.PLAIN_NAMES)
            relation = connection.execute(statements.RELATION, [schema, table]).fetchone()
            oid = None if relation is None else _require_table(schema, table, *relation)
            if oid is not None:
                refuse_heirs(connection, oid, f"{schema}.{table}")
            declared = {name: rest for name, *rest in connection.execute(statements.COLUMN_TYPES, [oid])}
        except psycopg.Error as error:
            raise read_error(error, table=f"{schema}.{table}", broken=connection.closed) from error
    try:
        inspector = sa.inspect(engine(url))
        if oid is None:
            raise _no_such_table(schema, table, sorted(inspector.get_table_names(schema)))
        with warnings.catch_warnings():
            # Types that SQLAlchemy does not know are refused by the name that the server gives them.
            warnings.simplefilter("ignore", SAWarning)
            columns = inspector.get_columns(table, schema)
        primary_key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
    except sa.exc.DBAPIError as error:
        raise _read_error(error, f"{schema}.{table}") from error
    except sa.exc.NoSuchTableError as error:
        raise _no_such_table(schema, table, []) from error
    return TargetTable(
        schema,
        table,
        tuple(_column(column, *declared.get(column["name"], ("unknown", None))) for column in columns),
        tuple(primary_key),
    )


def _require_table(schema: str, table: str, oid: int, kind: str, deferrable: bool) -> int:
    if kind not in _TABLE_KINDS:
        raise TableError(
            f"{schema}.{table} is a {_OTHER_KINDS.get(kind, 'relation of another kind')}, not a table.",
            hint="Let `target` of the mapping file name the table that holds the rows.",
        )
    if deferrable:
        raise TableError(
            f"The primary key of {schema}.{table} is deferrable, so an insert cannot give way to an existing row.",
            hint="Make it NOT DEFERRABLE.",
        )
    return oid


def _no_such_table(schema: str, table: str, others: list[str]) -> TableError:
    shown = ", ".join(others[:_NAMED_TABLES]) + (", …" if len(others) > _NAMED_TABLES else "")
    return TableError(
        f"There is no table {schema}.{table}; schema {schema} has {f'the tables {shown}' if others else 'no tables'}.",
        hint=f"Check `target` in the mapping file and the database in {VARIABLE}. Letter case counts.",
    )


def _read_error(error: sa.exc.DBAPIError, table: str) -> Exception:
    if isinstance(error.orig, psycopg.Error):
        return read_error(error.orig, table=table, broken=error.connection_invalidated)
    return error


def _column(column: ReflectedColumn, declared: str, collation: str | None) -> TableColumn:
    generated = column.get("computed") is not None
    identity = column.get("identity")
    always = identity is not None and identity["always"]
    known = _TYPES.get(type(column["type"]))
    column_type = known(column["type"]) if known else None
    if generated or always:
        # The server fills it and refuses values of ours.
        declared += " generated always" + (" as identity" if always else "")
        column_type = None
    elif collation is not None:
        # Equal texts may differ under it, so comparing could take a changed value for the old one.
        declared += f' COLLATE "{collation}" (nondeterministic)'
        column_type = None
    return TableColumn(
        name=column["name"],
        declared=declared,
        type=column_type,
        nullable=column["nullable"],
        has_default=column["default"] is not None or generated or identity is not None,
    )


def _numeric(precision: int | None, scale: int | None) -> ColumnType | None:
    if scale is not None and precision is not None and not 0 <= scale <= precision:
        return None
    return ColumnType(TypeName.NUMERIC, precision=precision, scale=scale)


def _timestamp(timezone: bool, precision: int | None) -> ColumnType | None:
    exact = timezone and (precision is None or precision >= _MILLISECONDS)
    return ColumnType(TypeName.TIMESTAMPTZ) if exact else None
