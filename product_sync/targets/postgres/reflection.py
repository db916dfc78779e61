"""The target table as the server's catalogue describes it, in the terms of `product_sync.schema.records`.

The conversion rules depend on the column types, so a type that is not known to be exact is reflected without one
(`column_types`) and is refused by name if it is mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from product_sync.errors import TableError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TableColumn, TargetTable
from product_sync.targets.postgres import catalog_sql
from product_sync.targets.postgres.column_types import column_type
from product_sync.targets.postgres.connection import connected
from product_sync.targets.postgres.requirements import refuse_heirs

#: Tables and partitioned tables.
_TABLE_KINDS: Final = ("r", "p")
_OTHER_KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "c": "type"}
#: How many tables are named if the one of the mapping does not exist.
_NAMED_TABLES: Final = 10


def reflect(address: TargetAddress, schema: str, table: str) -> TargetTable:
    """The columns and the keys of ``schema.table``. Letter case counts. Raises `TableError` if there is no such table
    (it names those of the schema) or if it is not a table, and what `connect` raises."""
    name = f"{schema}.{table}"
    with connected(address, name) as connection:
        connection.execute(catalog_sql.PLAIN_NAMES)
        relation = connection.execute(catalog_sql.RELATION, [schema, table]).fetchone()
        if relation is None:
            raise _no_such_table(connection, address, schema, table)
        oid, kind, has_primary_key = relation
        if kind not in _TABLE_KINDS:
            raise TableError(
                f"{name} is a {_OTHER_KINDS.get(kind, 'relation of another kind')}, not a table.",
                hint="Let `target` of the mapping file name the table that holds the rows.",
            )
        refuse_heirs(connection, oid, name)
        columns = connection.execute(catalog_sql.COLUMNS, [oid]).fetchall()
        keys = [tuple(columns) for (columns,) in connection.execute(catalog_sql.KEYS, [oid])]
    return TargetTable(schema, table, tuple(map(_column, columns)), has_primary_key, tuple(keys))


def _no_such_table(connection: psycopg.Connection, address: TargetAddress, schema: str, table: str) -> TableError:
    others = [str(name) for (name,) in connection.execute(catalog_sql.TABLES, [schema])]
    shown = ", ".join(others[:_NAMED_TABLES]) + (", …" if len(others) > _NAMED_TABLES else "")
    if others:
        found = f"There is no table {schema}.{table}; schema {schema} has the tables {shown}."
    elif connection.execute(catalog_sql.HAS_SCHEMA, [schema]).fetchone():
        found = f"There is no table {schema}.{table}; schema {schema} has no tables."
    else:
        found = f"There is no schema {schema}, so there is no table {schema}.{table}."
    return TableError(
        found,
        hint=f"Check `target` in the mapping file and the database in {address.variable}. Letter case counts.",
    )


def _column(described: Sequence[Any]) -> TableColumn:
    """A column as `catalog_sql.COLUMNS` describes it."""
    name, declared, type_name, modifier, is_not_null, has_default = described[:6]
    generated, identity, collation, type_schema, own_name, labels = described[6:]
    known = column_type(type_name, modifier)
    if known is not None and type_schema is not None:
        known = known.detailed(own_name=(type_schema, own_name), labels=tuple(labels))
    if generated or identity == "a":
        # The server fills it and refuses our values.
        declared += " generated always" + (" as identity" if identity else "")
        known = None
    elif collation is not None:
        # Equal texts may differ under it, so a comparison could take a changed value for the old one.
        declared += f' COLLATE "{collation}" (nondeterministic)'
        known = None
    return TableColumn(name, declared, known, nullable=not is_not_null, has_default=has_default or bool(identity))
