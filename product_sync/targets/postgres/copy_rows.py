"""Inserts rows by COPY, which is much faster than INSERT for many rows."""

from __future__ import annotations

from typing import Final

import psycopg
import pyarrow as pa

from product_sync.errors import RowsRefused
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary, row_sql
from product_sync.targets.postgres.errors import describe

#: Seconds that the server may take to cancel an interrupted statement.
CANCEL_S: Final = 5.0


def copy_rows(connection: psycopg.Connection, row_schema: RowSchema, rows: pa.Table) -> int:
    """Copies rows in the open transaction; returns how many the server took. Raises `RowsRefused` or driver errors."""
    times = row_sql.times_of_write(row_schema) if row_schema.written_at else None
    with connection.cursor() as cursor:
        written_at = (cursor.execute(times).fetchone() or ()) if times else ()
        try:
            with cursor.copy(row_sql.copy_in(row_schema)) as copy:
                try:
                    copy.write(binary.copied(rows, row_schema, written_at))
                except BaseException:
                    if not connection.closed:
                        # Leaving the block waits for the server, which may be waiting for a row lock.
                        connection.cancel_safe(timeout=CANCEL_S)
                    raise
        except psycopg.errors.ProtocolViolation as error:
            if connection.closed:
                raise
            # A column has another type now, which is wider than the bytes of the value.
            raise RowsRefused(describe(error), sqlstate=error.sqlstate) from error
        return cursor.rowcount
