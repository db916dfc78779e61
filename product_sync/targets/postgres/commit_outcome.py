"""Finds out whether a transaction was committed whose answer was lost, and waits until a COMMIT is on the disk.

The server is asked, nothing is assumed. When in doubt a transaction was not committed: running a batch again changes no
row twice, but counting it blindly would hide rows that were never written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg

from product_sync.errors import TransientError
from product_sync.schema.ports import Written
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary, row_sql, session_sql

#: How long a transaction may stay in progress before the batch counts as failed, and how often the server is asked.
_IN_PROGRESS_S: Final = 30.0
_POLL_S: Final = 0.25
#: How long the server may take to flush a COMMIT, and how often it is asked. Its own bound is three times
#: wal_writer_delay, which is at most 10 s (manual, 28.4 "Asynchronous Commit").
_FLUSH_S: Final = 30.0
_FLUSH_POLL_S: Final = 0.01
#: How many rows are tried to have the log flushed: the first may be deleted or locked.
_ROWS_TO_FLUSH_BY: Final = 10

Sleep = Callable[[float], None]


def can_flush_later(connection: psycopg.Connection) -> bool:
    """Whether COMMIT waits for this server's disk only, and the role may see how far the log is flushed."""
    try:
        return connection.execute(session_sql.WAITS_FOR_ITS_DISK).fetchone() == (True,)
    except psycopg.Error:
        # Some services show their log to nobody.
        if connection.closed:
            raise
        return False


def wait_for_flush(
    connection: psycopg.Connection, row_schema: RowSchema, written: Written, within_s: float, sleep: Sleep
) -> None:
    """Waits until everything that was committed is on the disk. If no other COMMIT has flushed the log within
    ``within_s`` seconds, has it flushed. Raises driver errors."""
    log = connection.execute(session_sql.WRITTEN_LOG).fetchone()
    for attempt in range(int(_FLUSH_S / _FLUSH_POLL_S)):
        if connection.execute(session_sql.IS_FLUSHED, log).fetchone() == (True,):
            return
        if attempt == int(within_s / _FLUSH_POLL_S):
            rows = binary.ids(sorted(written.inserted | written.updated)[:_ROWS_TO_FLUSH_BY])
            # A role without UPDATE waits until the server flushes by itself.
            with suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute(row_sql.flush(row_schema), [rows])
        sleep(_FLUSH_POLL_S)
    raise psycopg.OperationalError(f"the log is not on the disk after {_FLUSH_S:g} s")


def was_committed(
    connection: psycopg.Connection, row_schema: RowSchema, transaction: str, written: Written | None, *, sleep: Sleep
) -> bool:
    """Whether ``transaction``, which wrote ``written``, was committed. Raises driver errors, and `TransientError` if it
    stays in progress. A transaction id that was lost in a crash or a failover is given out again, perhaps to a
    stranger. So one of our rows must carry it."""
    if _status(connection, transaction, sleep) != "committed":
        return False
    if written is None:
        return True
    wrote = written.inserted | written.updated
    parameters = [binary.ids(sorted(wrote)), transaction, binary.ids(sorted(written.deleted))]
    [(carries_it, still_there)] = connection.execute(row_sql.written_by(row_schema), parameters)
    return bool(carries_it) if wrote else not still_there


def _status(connection: psycopg.Connection, transaction: str, sleep: Sleep) -> str | None:
    for _ in range(int(_IN_PROGRESS_S / _POLL_S)):
        try:
            row = connection.execute(session_sql.TRANSACTION_STATUS, [transaction]).fetchone()
        except psycopg.errors.InvalidParameterValue:
            # "transaction ID is in the future": the server lost it in a crash and has not given it out again yet.
            return None
        if row != ("in progress",):
            return None if row is None else row[0]
        sleep(_POLL_S)
    raise TransientError(f"Transaction {transaction} is still in progress after {_IN_PROGRESS_S:g} s.")
