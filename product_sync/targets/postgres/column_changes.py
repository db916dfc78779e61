"""Whether the mapped columns still are what the layout says: somebody may change the table while a run is at work.

PostgreSQL takes an integer for a column that is real by now and rounds it, and COPY in its binary form takes the four
bytes for those of a float. Neither is an error to the server, so it has to be asked.
"""

from __future__ import annotations

import psycopg

from product_sync.errors import EveryBatchWouldFail
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import catalog_sql
from product_sync.targets.postgres.errors import START_AGAIN


def require_unchanged(connection: psycopg.Connection, row_schema: RowSchema) -> None:
    """Raises `EveryBatchWouldFail` if a mapped column has another type now, or is gone, and driver errors.

    In a transaction that has written to the table the answer holds until its end: the table is locked against such
    changes.
    """
    if changes := changed(connection, row_schema):
        raise EveryBatchWouldFail(changes, hint=START_AGAIN)


def changed(connection: psycopg.Connection, row_schema: RowSchema) -> str:
    """What has become of the mapped columns, in words; empty if nothing has, or if the whole table is gone."""
    mapped = {column.name for column in row_schema.columns}
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
