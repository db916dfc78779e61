"""Reads a whole table as Arrow, through ADBC: three times as cheap as the driver's cursor, and without a Python object
for a value, so that it keeps nobody from the interpreter while it works.

The driver reads the binary form of COPY. What its columns are is decided by the statement (`queries.select_all`), so
the values are those that the cursor would give; a timestamptz is left to the cursor, because ADBC cannot hold the
infinite ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pyarrow as pa

from product_sync.schema.records import TypeName
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary_arrays, statements
from product_sync.targets.postgres.connection import conninfo
from product_sync.targets.postgres.errors import changed_meanwhile, reading_failed, waited_too_long
from product_sync.targets.postgres.interruptible_calls import BrokenOff, InterruptibleCalls, close, keep_from_closing
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, log_wait, watching

#: Bytes of a batch: the driver ends it with the row that goes beyond.
BATCH_BYTES: Final = 2 * 1024 * 1024

_SQLSTATE: Final = re.compile(r"SQLSTATE: ([0-9A-Z]{5})")

# One consistent picture, and an error instead of fewer rows where row-level security would hide some.
_BEGIN: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL row_security = off",
    "SET LOCAL synchronize_seqscans = off",
    statements.CHECK_CLIENT_IN_TRANSACTION,
)


def is_possible(row_schema: RowSchema) -> bool:
    return all(column.type.name is not TypeName.TIMESTAMPTZ for column in row_schema.columns)


def record_batches(
    url: str, row_schema: RowSchema, statement: str, *, on_wait: OnWait = log_wait, patience: Patience = PATIENCE
) -> Iterator[pa.RecordBatch]:
    """The rows of ``statement``, which gives the columns of ``layout``, with ``RowSchema.target_schema``.

    Raises as `reader.PostgresReader`.
    """
    import adbc_driver_postgresql.dbapi as adbc

    table, ended = row_schema.table.qualified_name, ""
    try:
        connection = adbc.connect(conninfo(url))
        cursor = connection.cursor()
        call = InterruptibleCalls(cursor.adbc_cancel)
        try:
            backend = call(partial(_begin, cursor))
            with watching(
                url,
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
        # What goes wrong while batches arrive comes through Arrow, as a text alone.
        state, message = _told(str(error))
        raise reading_failed(state, message, table=table) from error


def _begin(cursor: Any) -> int:
    """Begin the transaction of the reading; the server's process."""
    for setting in _BEGIN:
        cursor.execute(setting)
    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
    cursor.execute(statements.BACKEND_PID_AS_TEXT.as_string())
    return int(cursor.fetchone()[0])


def _canonical(batch: pa.RecordBatch, row_schema: RowSchema) -> pa.RecordBatch:
    columns = list(zip(batch.columns, row_schema.columns, strict=True))
    for values, column in columns:
        if values.type != column.type.arrow:
            raise changed_meanwhile(
                f"{column.name} is not {column.type} any more.", table=row_schema.table.qualified_name
            )
    return pa.RecordBatch.from_arrays(
        [binary_arrays.canonical_array(values, column.type) for values, column in columns],
        schema=row_schema.target_schema,
    )


def _told(text: str) -> tuple[str | None, str]:
    """The SQLSTATE, ``None`` where the server sent none, and its words: the driver puts its own around them."""
    found = _SQLSTATE.search(text)
    words = " ".join(text.partition("\n")[0].split())
    message = words.partition("ERROR: ")[2].strip() or words
    return (found[1], f"{message} (SQLSTATE {found[1]}).") if found else (None, f"{message.rstrip('.')}.")
