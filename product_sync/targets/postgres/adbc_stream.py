"""Reads a whole table as Arrow through ADBC: no Python object per value, and bounded memory.

It costs a third of the driver's cursor and does not hold the interpreter. ADBC reads the binary form of COPY. It finds
types by the text of their functions, and does not find them where a role has ``quote_all_identifiers``: then each value
comes as its bytes, and `binary.canonical` decodes it.

ADBC waits inside C, and Python runs a signal handler only when the call returns: behind a table lock, when the lock is
freed. So its calls run in a thread, and the caller waits in Python. If it is interrupted, the statement is cancelled at
the server.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import pyarrow as pa

from product_sync.runtime import prefetch
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary, session_sql
from product_sync.targets.postgres.column_types import wire_format
from product_sync.targets.postgres.connection import conninfo
from product_sync.targets.postgres.errors import changed_meanwhile, reading_failed, waited_too_long
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, Watch, log_wait

#: Bytes of a batch. ADBC ends a batch with the row that goes beyond.
BATCH_BYTES: Final = 2 * 1024 * 1024
#: Seconds between two checks whether the caller must stop waiting.
_CHECK_EVERY_S: Final = 0.2
#: Seconds that a server has to end a cancelled statement.
_CANCEL_S: Final = 3.0
_SQLSTATE: Final = re.compile(r"SQLSTATE: ([0-9A-Z]{5})")
#: The objects that stuck calls use, kept from the garbage collector, which would close them during the call.
_stuck: list[object] = []

_T = TypeVar("_T")


class _Left(Exception):
    """The stream that the call belongs to was closed, so nobody needs its result."""


class _BrokenOff(Exception):
    """The server has not answered for too long."""


class _Calls:
    """Runs calls one after the other. ``cancel`` ends the running one, from another thread. After `break_off` is set
    the running call raises `_BrokenOff`. ``is_stuck`` says that a call did not end: then the objects that it uses must
    not be closed."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self.break_off = threading.Event()
        self.is_busy = False
        self.is_stuck = False

    def __call__(self, call: Callable[[], _T]) -> _T:
        self.is_busy = True
        running = prefetch.run_in_thread(call)
        try:
            while not wait([running], _CHECK_EVERY_S).done:
                self._require_patience()
        except BaseException:
            # A cancel request opens a connection, and may wait for a silent server too.
            wait([prefetch.run_in_thread(self._cancel)], _CANCEL_S)
            self.is_stuck = bool(wait([running], _CANCEL_S).not_done)
            raise
        finally:
            self.is_busy = False
        return running.result()

    def _require_patience(self) -> None:
        if prefetch.is_abandoned():
            raise _Left
        if self.break_off.is_set():
            raise _BrokenOff


def record_batches(
    address: TargetAddress,
    row_schema: RowSchema,
    statement: str,
    *,
    on_wait: OnWait = log_wait,
    patience: Patience = PATIENCE,
) -> Iterator[pa.RecordBatch]:
    """The rows of ``statement``, which selects the columns of ``row_schema``, with ``RowSchema.target_schema``. Raises
    what `reader.PostgresReader` raises."""
    import adbc_driver_postgresql.dbapi as adbc

    table = row_schema.table.qualified_name
    watch: Watch | None = None
    try:
        connection = adbc.connect(conninfo(address))
        cursor = connection.cursor()
        call = _Calls(cursor.adbc_cancel)
        try:
            backend = call(partial(_begin, cursor))
            watch = Watch(address, backend, lambda: call.is_busy, call.break_off.set, on_wait, patience)
            with watch:
                call(partial(cursor.execute, statement))
                reader = cursor.fetch_record_batch()
                while (batch := call(partial(next, reader, None))) is not None:
                    yield _canonical(batch, row_schema)
        finally:
            for used in (cursor, connection):
                if call.is_stuck:
                    _stuck.append(used)
                else:
                    # The result of the read is known.
                    with suppress(Exception):
                        used.close()
    except (_BrokenOff, adbc.Error, pa.ArrowException, OSError) as error:
        if watch and watch.ended:
            raise waited_too_long(watch.ended, table=table) from error
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
