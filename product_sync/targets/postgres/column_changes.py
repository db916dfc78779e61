"""Checks that the mapped columns still have the types of the row schema: the table may be changed during a run.

PostgreSQL rounds an integer that it is sent for a column that has become real, and binary COPY takes its four bytes for
those of a float. Neither is an error to the server, so it has to be asked.
"""

from __future__ import annotations

import psycopg

from product_sync.errors import EveryBatchWouldFail
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import catalog_sql
from product_sync.targets.postgres.errors import START_AGAIN


def require_unchanged(connection: psycopg.Connection, row_schema: RowSchema) -> None:
    """Raises `EveryBatchWouldFail` if a mapped column has another type now or is gone, and driver errors.

    After a transaction has written to the table, the table is locked against such changes until the transaction ends.
    """
    if changes := changed(connection, row_schema):
        raise EveryBatchWouldFail(changes, hint=START_AGAIN)


def changed(connection: psycopg.Connection, row_schema: RowSchema) -> str:
    """A sentence about the mapped columns that have changed; empty if none has, or if the whole table is gone."""
    mapped = {column.name for column in (*row_schema.columns, *row_schema.written_at)}
    reflected = {
        column.name: column.declared.replace('"', "") for column in row_schema.table.columns if column.name in mapped
    }
    rows = connection.execute(catalog_sql.TYPES_NOW, [row_schema.table.schema, row_schema.table.name]).fetchall()
    now: dict[str, str] = dict(rows)
    changes = [
        f"{name} is {now[name]} now and was {declared}" if name in now else f"{name} is gone"
        for name, declared in reflected.items()
        if now.get(name) != declared
    ]
    if not now or not changes:
        return ""
    return f"{row_schema.table.qualified_name} was changed during the run: {', '.join(changes)}."
