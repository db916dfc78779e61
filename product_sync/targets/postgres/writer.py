"""The one connection that writes: set-based transactions, compare-and-swap, under the sync's lock.

Here the second promise is kept: nothing is written over a newer value, nothing two at a time. And the first: what a
transaction wrote is what the server returned, and where its answer was lost the server is asked, not assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final, Self

import psycopg
import pyarrow as pa
from psycopg.pq import TransactionStatus

from product_sync.errors import (
    CommitOutcomeUnknown,
    ConfigurationError,
    EveryBatchWouldFail,
    NotAttempted,
    RowsRefused,
    TableError,
    TransientError,
)
from product_sync.runtime import signals
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import WriteBatch, Written
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.targets.postgres import binary_arrays, binary_copy, constraints, reader, statements
from product_sync.targets.postgres.column_changes import changed, require_unchanged
from product_sync.targets.postgres.connection import application_name, connect
from product_sync.targets.postgres.errors import START_AGAIN, describe, read_error, write_error
from product_sync.targets.postgres.lock import already_running, holder_of, try_lock, wait_for_lock
from product_sync.targets.postgres.requirements import require_writable
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, log_wait, watched

#: How long a transaction may stay in progress before the batch counts as failing, and how often it is asked about.
_IN_PROGRESS_S: Final = 30.0
_POLL_S: Final = 0.25
#: How long the server may take to hear that an interrupted statement is not wanted any more.
_CANCEL_S: Final = 5.0
#: How long the server may take to flush what it has committed, and how often it is asked. Its own bound is three times
#: wal_writer_delay, which is at most 10 s (manual, 28.4 "Asynchronous Commit").
_FLUSH_S: Final = 30.0
_FLUSH_POLL_S: Final = 0.01
#: Of how many rows one is locked to have the log flushed: the first may be gone, or somebody else's.
_ROWS_TO_FLUSH_BY: Final = 10
#: From how many inserts on COPY is so much faster that a failed attempt is worth it.
_COPY_ROWS: Final = 200


class PostgresWriter:
    """`product_sync.schema.ports.TargetWriter` on PostgreSQL; closing it frees the lock.

    Needs SELECT, INSERT and UPDATE on the one table, and DELETE for deletions. Opening it raises what `connect` and
    `require_writable` raise, and `SyncAlreadyRunning` if another sync holds the lock for longer than ``lock_wait_s``
    seconds; ``on_wait`` hears of it meanwhile. A writer that is only ``probing`` takes no lock, so that it is in no
    sync's way, and is not opened beside one.

    With ``flush_within_s`` COMMIT does not wait for the disk, and `settle` does, so that others who commit at that
    moment need not wait for our flush before theirs: the next of them flushes for both. If nobody has within that many
    seconds, nobody is there to be in the way of, and `settle` has it done. Where a COMMIT waits for a replica too,
    nothing is different.
    """

    def __init__(
        self,
        url: str,
        row_schema: RowSchema,
        *,
        run_id: str,
        flush_within_s: float | None = None,
        lock_wait_s: float = 0.0,
        on_wait: OnWait = log_wait,
        patience: Patience = PATIENCE,
        probing: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._layout = row_schema
        self._name = application_name(run_id)
        self._sleep = sleep
        self._watched = partial(watched, url=url, on_wait=on_wait, patience=patience)
        self._unknown: dict[str, Written] = {}
        self._unsettled: tuple[str, Written] | None = None
        self._flush_within_s = flush_within_s
        self._flush = statements.flush(row_schema).as_bytes()
        self._insert = statements.insert(row_schema).as_bytes()
        self._update = statements.update(row_schema).as_bytes()
        self._delete = statements.delete(row_schema).as_bytes()
        with ExitStack() as on_failure:
            connection = on_failure.enter_context(closing(connect(url, application_name=self._name)))
            self._watch = on_failure.enter_context(self._watched(connection))
            try:
                self._session = _session(connection)
                self._admit(connection, lock_wait_s, on_wait, probing=probing)
                self._copies = binary_copy.is_possible(row_schema)
                self._flushes_later = self._may_flush_later(connection)
            except psycopg.Error as error:
                raise read_error(error, table=row_schema.table.qualified_name, broken=connection.closed) from error
            self._open = on_failure.pop_all()
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection and with it the lock back. A transaction in progress is rolled back by the server."""
        self._connection.close()
        self._open.close()

    def write(self, batch: WriteBatch) -> Written:
        with self._unless_table_changed():
            return self._run(batch, self._begin, self._commit)

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        done = 0
        try:
            with self._unless_table_changed(), self._transaction():
                transaction = self._begin()
                self._connection.execute(statements.DEFER_CONSTRAINTS)
                total = Written()
                for step in steps:
                    written = self._insert_update_and_delete(step)
                    if written.num_rows < step.num_rows:
                        return Written()
                    total = total.joined(written)
                    done += 1
                require_unchanged(self._connection, self._layout)
                self._commit(transaction, total)
                return total
        except RowsRefused as error:
            error.step = done if done < len(steps) else None
            raise

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        with self._transaction():
            try:
                self._connection.execute(statements.BEGIN_READ, prepare=False)
                return constraints.obstacles(self._connection, self._layout, batch)
            except TableError as error:
                raise EveryBatchWouldFail(error.message, hint=error.hint) from error

    @contextmanager
    def _unless_table_changed(self) -> Iterator[None]:
        try:
            yield
        except (RowsRefused, EveryBatchWouldFail) as error:
            # A column that was changed may refuse every row. It is not the rows then.
            with self._transaction():
                changes = changed(self._connection, self._layout)
            if not changes or changes == error.message:
                raise
            raise EveryBatchWouldFail(
                f"{changes} The server says: {error.message}", sqlstate=error.sqlstate, hint=START_AGAIN
            ) from error.__cause__

    def probe(self, batch: WriteBatch) -> Written:
        return self._run(batch, self._begin_probe, self._check_deferred)

    def _run(self, batch: WriteBatch, begin: Callable[[], str], end: Callable[[str, Written], None]) -> Written:
        """One transaction. Many inserts go by COPY, which has no ON CONFLICT and does not say which rows a trigger
        swallowed: where it fails for the rows' sake, or takes fewer, nothing of it is kept, and the statements that
        can tell have the word."""
        if self._copies and batch.inserts.num_rows >= _COPY_ROWS:
            with suppress(RowsRefused), self._transaction():
                transaction = begin()
                if self._copy(batch.inserts) == batch.inserts.num_rows:
                    inserted = frozenset(batch.inserts[self._layout.key.name].to_pylist())
                    written = replace(self._update_and_delete(batch), inserted=inserted)
                    require_unchanged(self._connection, self._layout)
                    end(transaction, written)
                    return written
        with self._transaction():
            transaction = begin()
            written = self._insert_update_and_delete(batch)
            require_unchanged(self._connection, self._layout)
            end(transaction, written)
        return written

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        with self._transaction():
            try:
                return reader.fetch(self._connection, self._layout, ids)
            except TableError as error:
                raise EveryBatchWouldFail(error.message, hint=error.hint) from error

    def settle(self) -> None:
        if self._unsettled is None:
            return
        transaction, written = self._unsettled
        with self._transaction():
            try:
                self._wait_for_flush(written)
            except psycopg.Error as error:
                self._unknown[transaction] = written
                raise CommitOutcomeUnknown(
                    f"The server was lost before it had flushed a COMMIT: {describe(error)}",
                    transaction=transaction,
                    written=written,
                ) from error
        self._unsettled = None

    def was_committed(self, transaction: str) -> bool:
        """As in the port. When in doubt it did not: running a batch again changes no row twice, counting it blindly
        would hide rows that were never written. Doubt is a status that the server no longer knows, and a
        commit that left no trace: a transaction id that was lost in a crash or a failover is given out again
        and may be that of a stranger, so one of our rows must bear it."""
        with self._transaction():
            if self._outcome(transaction) != "committed":
                return False
            written = self._unknown.get(transaction)
            return written is None or self._left_traces(transaction, written)

    def reconnect(self) -> None:
        self.close()
        try:
            connection = connect(self._url, application_name=self._name)
        except (NotAttempted, ConfigurationError) as error:
            # It could be opened once, so what is wrong now may be over soon (database notes, "Classes of errors").
            raise TransientError(error.message, connection_lost=True) from error
        self._connection = connection
        self._watch = self._open.enter_context(self._watched(connection))
        with self._transaction():
            session = _session(connection)
            if not try_lock(connection, self._layout.table):
                self._take_from_former_session(connection)
            self._flushes_later = self._may_flush_later(connection)
            self._session = session

    def _may_flush_later(self, connection: psycopg.Connection) -> bool:
        return self._flush_within_s is not None and _waits_for_its_disk(connection)

    def _admit(self, connection: psycopg.Connection, lock_wait_s: float, on_wait: OnWait, *, probing: bool) -> None:
        """Let only a session through that can write, hold the lock and see every row."""
        table = self._layout.table
        require_writable(connection, self._url, table)
        if not probing:
            wait_for_lock(connection, table, wait_s=lock_wait_s, on_wait=on_wait, sleep=self._sleep)
        elif (holder := holder_of(connection, table)) is not None:
            raise already_running(holder, table)

    def _take_from_former_session(self, connection: psycopg.Connection) -> None:
        """The lock is taken: by our own lost session, which the server has not missed yet, or by another sync."""
        holder = holder_of(connection, self._layout.table)
        connection.execute(statements.END_FORMER_SESSION, self._session)
        if holder is None or holder.backend == self._session[0]:
            connection.close()
            raise TransientError("The lost session still held the sync's lock; it was ended.", connection_lost=True)
        connection.close()
        raise already_running(holder, self._layout.table)

    def _begin(self) -> str:
        begin = statements.BEGIN_UNFLUSHED_WRITE if self._flushes_later else statements.BEGIN_WRITE
        cursor = self._connection.execute(begin, prepare=False)
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        if row is None:
            raise psycopg.InternalError("pg_current_xact_id() returned no row")
        return str(row[0])

    def _begin_probe(self) -> str:
        self._connection.execute(statements.BEGIN_PROBE, prepare=False)
        return ""

    def _check_deferred(self, _transaction: str, _written: Written) -> None:
        self._connection.execute(statements.CHECK_DEFERRED)

    def _copy(self, rows: pa.Table) -> int:
        """How many of the rows the server took."""
        try:
            return self._copy_in(rows)
        except psycopg.errors.ProtocolViolation as error:
            if self._connection.closed:
                raise
            # A column is wider than the bytes of its value: it has another type by now.
            raise RowsRefused(describe(error), sqlstate=error.sqlstate) from error

    def _copy_in(self, rows: pa.Table) -> int:
        with self._connection.cursor() as cursor:
            with cursor.copy(statements.copy_in(self._layout)) as copy:
                is_sent = False
                try:
                    copy.write(binary_copy.encoded(rows, self._layout))
                    is_sent = True
                finally:
                    if not is_sent and not self._connection.closed:
                        # Leaving the block waits for the server, which may be waiting for a row.
                        self._connection.cancel_safe(timeout=_CANCEL_S)
            return cursor.rowcount

    def _insert_update_and_delete(self, batch: WriteBatch) -> Written:
        inserted = self._execute(self._insert, (batch.inserts, self._layout.columns))
        return replace(self._update_and_delete(batch), inserted=inserted)

    def _update_and_delete(self, batch: WriteBatch) -> Written:
        row_schema = self._layout
        return Written(
            updated=self._execute(
                self._update, (batch.new, (row_schema.key, *row_schema.compared)), (batch.old, row_schema.compared)
            ),
            deleted=self._execute(self._delete, (batch.deletes, row_schema.columns)),
        )

    def _execute(self, statement: bytes, *parts: tuple[pa.Table, Sequence[RowColumn]]) -> frozenset[str]:
        """The ids that a statement wrote. ``parts`` are the tables and columns of its parameters, in order."""
        if not parts[0][0].num_rows:
            return frozenset()
        parameters = [
            binary_arrays.bound(table[column.name], column.type) for table, columns in parts for column in columns
        ]
        return frozenset(key for (key,) in self._connection.execute(statement, parameters).fetchall())

    def _commit(self, transaction: str, written: Written) -> None:
        signals.commit_begins()
        self._unsettled = (transaction, written) if self._flushes_later else None
        try:
            self._connection.commit()
        except psycopg.Error as error:
            if not self._connection.closed:
                self._unsettled = None
                signals.commit_failed()
                raise
            # Whatever came before the connection broke, only the server knows whether COMMIT did.
            self._unknown[transaction] = written
            raise CommitOutcomeUnknown(
                f"The answer to COMMIT was lost: {describe(error)}", transaction=transaction, written=written
            ) from error

    def _wait_for_flush(self, written: Written) -> None:
        ids = [binary_arrays.ids(sorted(written.inserted | written.updated)[:_ROWS_TO_FLUSH_BY])]
        log = self._connection.execute(statements.WRITTEN_LOG).fetchone()
        for look in range(int(_FLUSH_S / _FLUSH_POLL_S)):
            if self._connection.execute(statements.IS_FLUSHED, log).fetchone() == (True,):
                return
            if look == int((self._flush_within_s or 0.0) / _FLUSH_POLL_S):
                # Who may not update must wait until the server does it by itself.
                with suppress(psycopg.errors.InsufficientPrivilege):
                    self._connection.execute(self._flush, ids)
            self._sleep(_FLUSH_POLL_S)
        raise psycopg.OperationalError(f"the log is not on the disk after {_FLUSH_S:g} s")

    def _outcome(self, transaction: str) -> str | None:
        for _ in range(int(_IN_PROGRESS_S / _POLL_S)):
            try:
                row = self._connection.execute(statements.TRANSACTION_STATUS, [transaction]).fetchone()
            except psycopg.errors.InvalidParameterValue:
                # "transaction ID is in the future": a server that lost it in a crash has not got there again.
                return None
            if row != ("in progress",):
                return None if row is None else row[0]
            self._sleep(_POLL_S)
        raise TransientError(f"Transaction {transaction} is still in progress after {_IN_PROGRESS_S:g} s.")

    def _left_traces(self, transaction: str, written: Written) -> bool:
        wrote = written.inserted | written.updated
        row = self._connection.execute(
            statements.written_by(self._layout),
            [binary_arrays.ids(sorted(wrote)), transaction, binary_arrays.ids(sorted(written.deleted))],
        ).fetchone()
        bears_it, still_there = row or (False, True)
        return bool(bears_it) if wrote else not still_there

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Whatever happens inside: afterwards no transaction is open, and driver errors are the port's."""
        try:
            try:
                yield
            finally:
                self._roll_back()
        except psycopg.Error as error:
            if why := self._watch.ended:
                self._watch.ended = ""
                lost = self._connection.closed
                raise TransientError(why, sqlstate=error.sqlstate, connection_lost=lost) from error
            standby = error.sqlstate == "25006" and self._in_recovery()
            raise write_error(error, broken=self._connection.closed, standby=standby) from error

    def _roll_back(self) -> None:
        connection = self._connection
        status = connection.info.transaction_status
        if connection.closed or status is TransactionStatus.IDLE:
            return
        try:
            if status is TransactionStatus.ACTIVE:
                # Interrupted in mid-statement. A server that waits for a row does not see the connection close, and
                # would keep our locks for as long as it waits.
                connection.cancel_safe(timeout=_CANCEL_S)
                connection.close()
            else:
                connection.rollback()
        except psycopg.Error:
            # The server rolls back by itself once the connection is gone.
            connection.close()

    def _in_recovery(self) -> bool:
        try:
            return self._connection.execute(statements.IN_RECOVERY).fetchone() == (True,)
        except psycopg.Error:
            return False


def _waits_for_its_disk(connection: psycopg.Connection) -> bool:
    try:
        return connection.execute(statements.WAITS_FOR_ITS_DISK).fetchone() == (True,)
    except psycopg.Error:
        # Some services do not let anybody see their log.
        if connection.closed:
            raise
        return False


def _session(connection: psycopg.Connection) -> tuple[int, str | None]:
    """The server process of a connection and when it started."""
    row = connection.execute(statements.BACKEND).fetchone()
    return (connection.info.backend_pid, None) if row is None else (row[0], row[1])
