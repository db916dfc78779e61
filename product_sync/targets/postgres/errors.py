"""What a PostgreSQL error means for the sync: retry, isolate the rows, or stop.

Without this table a bad row would be retried for a minute and a missing privilege bisected down to single rows. The
codes are those of the manual's Appendix A, "PostgreSQL Error Codes"; two letters stand for a whole class. The
classes were tried on a server, see the tests.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import psycopg

from product_sync.errors import (
    AccessDenied,
    EveryBatchWouldFail,
    NotAttempted,
    ProductSyncError,
    RowsExcluded,
    RowsRefused,
    TableError,
    TargetLocked,
    TransactionPooling,
    TransientError,
    Unreachable,
    WriteError,
)
from product_sync.runtime import hints

#: Characters of the server's message that are passed on: a trigger may raise a text of any length.
_MESSAGE_CHARACTERS: Final = 500


class Consequence(Enum):
    RETRY = "retry"
    RECONNECT = "reconnect"
    ISOLATE = "isolate"
    STOP = "stop"


#: By code, then by class. What is in neither isolates, see `consequence`.
_BY_CODE: Final = {
    "55P03": Consequence.RETRY,  # lock_not_available: lock_timeout
    "55006": Consequence.RETRY,  # object_in_use
    "57014": Consequence.RETRY,  # query_canceled: statement_timeout, or cancelled by an administrator
    "53200": Consequence.RETRY,  # out_of_memory: of the moment
    "25P03": Consequence.RECONNECT,  # idle_in_transaction_session_timeout
    "25P04": Consequence.RECONNECT,  # transaction_timeout
    "53300": Consequence.RECONNECT,  # too_many_connections
    "57P01": Consequence.RECONNECT,  # admin_shutdown
    "57P02": Consequence.RECONNECT,  # crash_shutdown
    "57P03": Consequence.RECONNECT,  # cannot_connect_now
    "57P05": Consequence.RECONNECT,  # idle_session_timeout
    "54000": Consequence.ISOLATE,  # program_limit_exceeded: a value too large for its index
    "XX001": Consequence.STOP,  # data_corrupted
    "XX002": Consequence.STOP,  # index_corrupted
}
_BY_CLASS: Final = {
    "08": Consequence.RECONNECT,  # connection exception
    "40": Consequence.RETRY,  # transaction rollback: deadlock, serialisation
    "22": Consequence.ISOLATE,  # data exception
    "23": Consequence.ISOLATE,  # integrity constraint violation
    "44": Consequence.ISOLATE,  # WITH CHECK OPTION violation
    "P0": Consequence.ISOLATE,  # raised by a trigger
    "0A": Consequence.STOP,  # feature not supported
    "25": Consequence.STOP,  # transaction state: read-only
    "28": Consequence.STOP,  # authorization
    "3D": Consequence.STOP,  # database gone
    "3F": Consequence.STOP,  # schema gone
    "42": Consequence.STOP,  # privilege, table or column missing
    "53": Consequence.STOP,  # insufficient resources: disk full
    "54": Consequence.STOP,  # program limit exceeded
    "55": Consequence.STOP,  # object not in the right state
    "57": Consequence.STOP,  # operator intervention: database dropped
    "58": Consequence.STOP,  # system error: input/output
    "F0": Consequence.STOP,  # configuration file
}
#: A row is refused because of another one: restrict_violation (of a deletion), foreign_key_violation, unique_violation,
#: exclusion_violation.
_BY_ANOTHER_ROW: Final = frozenset({"23001", "23503", "23505", "23P01"})
#: What to do when the table was changed under a run.
START_AGAIN: Final = "Start the sync again, so that the table is reflected anew."
_HINTS: Final = {
    "25006": "The role or the database is set read-only (default_transaction_read_only).",
    "42501": "Grant SELECT, INSERT and UPDATE on the table."
    f" `{hints.shell('product-sync', 'doctor')}` has the statement to execute.",
    "42P01": "The table was dropped or renamed during the run.",
    "42703": f"A column was dropped or renamed during the run. {START_AGAIN}",
    "53100": "Free disk space on the database server.",
}


def consequence(sqlstate: str) -> Consequence:
    """What follows from an error code.

    A code that is in no table isolates: triggers and extensions raise codes of their own, about the row before them.
    If it is not the row after all, isolating ends at ``max_isolated_rows`` and nothing is lost; retrying would never
    end, and stopping would let one row stop every sync.
    """
    return _BY_CODE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2], Consequence.ISOLATE)


def write_error(error: psycopg.Error, *, broken: bool, standby: bool = False) -> WriteError:
    """A failed transaction as one of the port's errors.

    ``broken`` says that the connection is gone, ``standby`` that the server is in recovery, where writes will be
    possible after a promotion. The message is the server's first line with the constraint and the column; never its
    DETAIL, which quotes the row.
    """
    state, message = error.sqlstate, describe(error)
    if broken or state is None:
        return TransientError(message, sqlstate=state, connection_lost=True)
    if state == "25006" and standby:
        # A new connection may reach the new primary.
        return TransientError(message, sqlstate=state, connection_lost=True)
    match consequence(state):
        case Consequence.RETRY:
            return TransientError(message, sqlstate=state)
        case Consequence.RECONNECT:
            return TransientError(message, sqlstate=state, connection_lost=True)
        case Consequence.ISOLATE:
            refused = RowsExcluded if state in _BY_ANOTHER_ROW else RowsRefused
            return refused(message, sqlstate=state)
        case Consequence.STOP:
            return EveryBatchWouldFail(message, sqlstate=state, hint=_HINTS.get(state, ""))


def pools_statements(message: str) -> bool:
    """Whether a server's message is that of a pool which lends sessions by the statement (PgBouncer)."""
    return "statement pooling" in message


def read_error(error: psycopg.Error, *, table: str, broken: bool) -> ProductSyncError:
    """A failed reading of the table ``table`` (schema and name). Nothing of what was read may be used."""
    return reading_failed(None if broken else error.sqlstate, describe(error), table=table)


def reading_failed(state: str | None, message: str, *, table: str) -> ProductSyncError:
    """The same of an SQLSTATE, ``None`` for a connection that is lost, and a message."""
    if pools_statements(message):
        return TransactionPooling(
            f"A pooler stands before {table} that allows no transactions: {message}",
            hint="Let CART_DB_URL name the server itself, or a pool in session mode.",
        )
    if "invalid byte sequence for encoding" in message or state == "22021":
        # A database whose encoding is SQL_ASCII takes any bytes for a text.
        return NotAttempted(
            f"{table} holds a text that is not in the encoding of the database, or not UTF-8: {message}",
            hint="Correct that text in the table.",
        )
    if state is None or consequence(state) is Consequence.RECONNECT:
        return Unreachable(
            f"The connection was lost while {table} was read: {message}", hint="Nothing was changed; start again."
        )
    if state == "42501":
        return AccessDenied(
            f"{table} cannot be read: {message}",
            hint="The role needs SELECT, and under row-level security BYPASSRLS too:"
            f" `{hints.shell('product-sync', 'doctor')}` has the GRANT to execute.",
        )
    if state in {"42P01", "42703", "3F000"}:
        return changed_meanwhile(message, table=table)
    hint = "The role's statement_timeout may be too short to read the table." if state == "57014" else ""
    return NotAttempted(f"{table} could not be read: {message}", hint=hint)


def waited_too_long(why: str, *, table: str) -> TargetLocked:
    """A reading whose wait was ended (`waits`); ``why`` says what it waited for."""
    return TargetLocked(f"{table} could not be read. {why}", hint="Let that session end, or end it; then start again.")


def changed_meanwhile(message: str, *, table: str) -> TableError:
    """What was read is not of the types that the table had."""
    return TableError(f"{table} changed while it was used: {message}", hint=START_AGAIN)


def describe(error: psycopg.Error) -> str:
    """The server's message in one line with code, constraint and column, or the driver's where the server sent none."""
    primary = error.diag.message_primary or str(error) or type(error).__name__
    line = " ".join(primary.split())
    if len(line) > _MESSAGE_CHARACTERS:
        line = line[: _MESSAGE_CHARACTERS - 1] + "…"
    details = [
        f"{label} {value}"
        for label, value in (
            ("SQLSTATE", error.sqlstate),
            ("constraint", error.diag.constraint_name),
            ("column", error.diag.column_name),
        )
        if value
    ]
    return f"{line} ({', '.join(details)})." if details else f"{line.rstrip('.')}."
