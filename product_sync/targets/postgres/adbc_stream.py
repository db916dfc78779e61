"""Reads a whole table as Arrow through ADBC: no Python object per value, and bounded memory.

It costs a third of the driver's cursor and does not hold the interpreter. ADBC reads the binary form of COPY. It finds
types by the text of their functions, and does not find them where a role has ``quote_all_identifiers``: then each value
comes as its bytes, and `binary.canonical` decodes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pyarrow as pa

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary, session_sql
from product_sync.targets.postgres.column_types import wire_format
from product_sync.targets.postgres.connection import conninfo
from product_sync.targets.postgres.errors import changed_meanwhile, reading_failed, waited_too_long
from product_sync.targets.postgres.interruptible_calls import BrokenOff, InterruptibleCalls, close, keep_from_closing
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, log_wait, watching

#: Bytes of a batch. ADBC ends a batch with the row that goes beyond.
BATCH_BYTES: Final = 2 * 1024 * 1024

_SQLSTATE: Final = re.compile(r"SQLSTATE: ([0-9A-Z]{5})")


def record_batches(
    address: TargetAddress,
    row_schema: RowSchema,
    statement: str,
    *,
    on_wait: OnWait = log_wait,
    patience: Patience = PATIENCE,
) -> Iterator[pa.RecordBatch]:
    """The rows of ``statement``, which selects the columns of ``row_schema``, with ``RowSchema.target_schema``.

    Raises what `reader.PostgresReader` raises.
    """
    import adbc_driver_postgresql.dbapi as adbc

    table, ended = row_schema.table.qualified_name, ""
    try:
        connection = adbc.connect(conninfo(address))
        cursor = connection.cursor()
        call = InterruptibleCalls(cursor.adbc_cancel)
        try:
            backend = call(partial(_begin, cursor))
            with watching(
                address,
                backend,
                on_wait=on_wait,
                is_busy=lambda: call.is_busy,
                break_off=call.break_off,
                patience=patience,
            ) as watch:
                try:
                    call(partial(cursor.execute, statement))
                    reader = cursor.fetch_record_batch()
                    while (batch := call(partial(next, reader, None))) is not None:
                        yield _canonical(batch, row_schema)
                finally:
                    ended = watch.ended
        finally:
            if call.is_stuck:
                keep_from_closing(cursor, connection)
            else:
                close(cursor, connection)
    except BrokenOff as error:
        raise waited_too_long(ended, table=table) from error
    except (adbc.Error, pa.ArrowException, OSError) as error:
        if ended:
            raise waited_too_long(ended, table=table) from error
        # An error that occurs while batches arrive comes through Arrow, as text only.
        state, message = _parsed(str(error))
        raise reading_failed(state, message, table=table) from error


def _begin(cursor: Any) -> int:
    """Begins the transaction of the read; returns the process id of the server's session."""
    for setting in session_sql.READ_SETTINGS:
        cursor.execute(setting)
    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
    cursor.execute(session_sql.BACKEND_PID.as_string())
    return int(cursor.fetchone()[0])


def _canonical(batch: pa.RecordBatch, row_schema: RowSchema) -> pa.RecordBatch:
    arrays = []
    for values, field, column in zip(batch.columns, batch.schema, row_schema.columns, strict=True):
        if field.metadata[b"POSTGRESQL:type"].decode() != wire_format(column.type).read_type:
            raise changed_meanwhile(
                f"{column.name} is not {column.type} any more.", table=row_schema.table.qualified_name
            )
        is_extension = isinstance(values, pa.ExtensionArray)
        arrays.append(binary.canonical(values.storage if is_extension else values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=row_schema.target_schema)


def _parsed(text: str) -> tuple[str | None, str]:
    """The SQLSTATE (``None`` if the server sent none) and the server's message, without the driver's words."""
    found = _SQLSTATE.search(text)
    words = " ".join(text.partition("\n")[0].split())
    message = words.partition("ERROR: ")[2].strip() or words
    return (found[1], f"{message} (SQLSTATE {found[1]}).") if found else (None, f"{message.rstrip('.')}.")
