"""Translates PostgreSQL errors by what the sync has to do: retry, isolate the rows, or stop.

Without this table a bad row would be retried for a minute, and a missing privilege bisected down to single rows. The
codes are those of the manual's Appendix A, "PostgreSQL Error Codes"; the tests cause them on a server.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import psycopg

from product_sync.errors import (
    AccessDenied,
    EveryBatchWouldFail,
    ForeignKeyRefused,
    NotAttempted,
    PrivilegeMissing,
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

#: Characters of the server's message that are shown: a trigger may raise a text of any length.
_MESSAGE_CHARACTERS: Final = 500


class Consequence(Enum):
    RETRY = "retry"
    RECONNECT = "reconnect"
    ISOLATE = "isolate"
    STOP = "stop"


#: By code, then by class (the first two letters). A code that is in neither isolates rows, see `consequence`.
_BY_CODE: Final = {
    "55P03": Consequence.RETRY,  # lock_not_available: lock_timeout
    "55006": Consequence.RETRY,  # object_in_use
    "57014": Consequence.RETRY,  # query_canceled: statement_timeout, or cancelled by an administrator
    "53200": Consequence.RETRY,  # out_of_memory
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
#: A row is refused because of another row. By default the row itself is bad.
_REFUSED: Final = {
    "23001": ForeignKeyRefused,  # restrict_violation
    "23503": ForeignKeyRefused,  # foreign_key_violation
    "23505": RowsExcluded,  # unique_violation
    "23P01": RowsExcluded,  # exclusion_violation
}
_NO_PRIVILEGE: Final = "42501"
#: The hint after a change of the table during a run.
START_AGAIN: Final = "Start the sync again, so that it reads the table's columns again."
_HINTS: Final = {
    "25006": "The role or the database is set read-only (default_transaction_read_only).",
    _NO_PRIVILEGE: "Grant SELECT, INSERT and UPDATE on the table. `doctor` shows the statement to execute.",
    "42P01": "The table was dropped or renamed during the run.",
    "42703": f"A column was dropped or renamed during the run. {START_AGAIN}",
    "53100": "Free disk space on the database server.",
}


def consequence(sqlstate: str) -> Consequence:
    """What to do about an error code. An unknown code isolates rows: triggers and extensions raise their own codes
    about the row that they see. If the row is not the cause, isolating ends at ``max_isolated_rows`` and nothing is
    lost. Retrying would never end, and stopping would let one row stop every sync."""
    return _BY_CODE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2], Consequence.ISOLATE)


def write_error(error: psycopg.Error, *, broken: bool, standby: bool = False) -> WriteError:
    """A failed transaction as one of the port's errors. ``broken`` says that the connection is lost, ``standby`` that
    the server can be written to after a promotion. The message is the server's first line with the constraint and the
    column, never its DETAIL, which quotes the row."""
    state, message = error.sqlstate, describe(error)
    # After a failover, a new connection may reach the new primary.
    if broken or state is None or (state == "25006" and standby):
        return TransientError(message, sqlstate=state, connection_lost=True)
    match consequence(state):
        case Consequence.RETRY:
            return TransientError(message, sqlstate=state)
        case Consequence.RECONNECT:
            return TransientError(message, sqlstate=state, connection_lost=True)
        case Consequence.ISOLATE:
            return _REFUSED.get(state, RowsRefused)(message, sqlstate=state)
        case Consequence.STOP:
            stop = PrivilegeMissing if state == _NO_PRIVILEGE else EveryBatchWouldFail
            return stop(message, sqlstate=state, hint=_HINTS.get(state, ""))


def pools_statements(message: str) -> bool:
    """Whether the message comes from a pool that lends sessions by the statement (PgBouncer)."""
    return "statement pooling" in message


def read_error(error: psycopg.Error, *, table: str, broken: bool) -> ProductSyncError:
    """The error for a failed read of ``table`` (schema and name). Nothing that was read may be used."""
    return reading_failed(None if broken else error.sqlstate, describe(error), table=table)


def reading_failed(state: str | None, message: str, *, table: str) -> ProductSyncError:
    """The same for a message and an SQLSTATE, which is ``None`` if the connection is lost."""
    if pools_statements(message):
        return TransactionPooling(
            f"{table} is reached through a pooler that allows no transactions: {message}",
            hint="Let the URL name the server itself, or a pool in session mode.",
        )
    if "invalid byte sequence for encoding" in message or state == "22021":
        # A database with the encoding SQL_ASCII accepts any bytes as text.
        return NotAttempted(
            f"{table} holds a text that is not in the encoding of the database, or not UTF-8: {message}",
            hint="Correct that text in the table.",
        )
    if state is None or consequence(state) is Consequence.RECONNECT:
        return Unreachable(
            f"The connection was lost while {table} was read: {message}", hint="Nothing was changed. Start again."
        )
    if state == _NO_PRIVILEGE:
        return AccessDenied(
            f"{table} cannot be read: {message}",
            hint="The role needs SELECT, and under row-level security BYPASSRLS too:"
            " `doctor` shows the statement to execute.",
        )
    if state in {"42P01", "42703", "3F000"}:
        return changed_meanwhile(message, table=table)
    hint = "The role's statement_timeout may be too short to read the table." if state == "57014" else ""
    return NotAttempted(f"{table} could not be read: {message}", hint=hint)


def waited_too_long(why: str, *, table: str) -> TargetLocked:
    """The error for a read whose wait was ended (`waits`); ``why`` says what it waited for."""
    return TargetLocked(
        f"{table} could not be read. {why}", hint="Wait until that session ends, or end it. Then start again."
    )


def changed_meanwhile(message: str, *, table: str) -> TableError:
    """The error for a table whose columns were changed during the run."""
    return TableError(f"{table} changed while it was used: {message}", hint=START_AGAIN)


def describe(error: psycopg.Error) -> str:
    """The server's message in one line, with code, constraint and column, or the driver's if the server sent none."""
    primary = error.diag.message_primary or str(error) or type(error).__name__
    line = " ".join(primary.split())
    if len(line) > _MESSAGE_CHARACTERS:
        line = line[: _MESSAGE_CHARACTERS - 1] + "…"
    diag = error.diag
    known = {"SQLSTATE": error.sqlstate, "constraint": diag.constraint_name, "column": diag.column_name}
    details = ", ".join(f"{label} {value}" for label, value in known.items() if value)
    return f"{line} ({details})." if details else f"{line.rstrip('.')}."
