"""The one connection that writes: set-based transactions with compare-and-swap, under the sync's lock.

Nothing is written over a newer value, and two syncs never write at once. A transaction wrote what the server returned;
if the answer to COMMIT is lost, the server is asked (`commit_outcome`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Final, Self

import psycopg
import pyarrow as pa
from psycopg import sql
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
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import WriteBatch, Written
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.targets.postgres import binary, commit_outcome, constraints, reader, row_sql, session_sql
from product_sync.targets.postgres.connection import application_name, connect, connected
from product_sync.targets.postgres.copy_rows import CANCEL_S, copy_rows
from product_sync.targets.postgres.errors import START_AGAIN, describe, write_error
from product_sync.targets.postgres.lock import already_running, holder_of, try_lock, wait_until
from product_sync.targets.postgres.requirements import changed, require_unchanged, require_writable
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, Watch, log_wait, watched

#: From this many inserts on COPY is so much faster that a failed attempt is worth it.
_COPY_ROWS: Final = 200


@dataclass
class PostgresWriter:
    """`product_sync.schema.ports.TargetWriter` on PostgreSQL. Closing it frees the lock.

    Needs SELECT, INSERT and UPDATE on the table, and DELETE for deletions. Opening it raises what `connect` and
    `require_writable` raise, and `SyncAlreadyRunning` if another sync holds the lock for longer than ``lock_wait_s``
    seconds; ``on_wait`` is called meanwhile. With ``shares_lock`` the other steps of the run may hold it too. With
    ``probing`` it takes no lock and does not open while a sync runs.

    With ``flush_within_s`` COMMIT does not wait for the disk, but `settle` does: other clients that commit at that
    moment do not wait for our flush, and the first of them flushes for both. If nobody has within that many seconds,
    `settle` has the log flushed. Nothing changes where COMMIT waits for a replica too.
    """

    address: TargetAddress
    row_schema: RowSchema
    _: KW_ONLY
    run_id: str
    flush_within_s: float | None = None
    lock_wait_s: float = 0.0
    on_wait: OnWait = log_wait
    patience: Patience = PATIENCE
    shares_lock: bool = False
    probing: bool = False
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._name = application_name(self.run_id)
        self._shared_by = self.run_id if self.shares_lock else None
        self._unknown: dict[str, Written] = {}
        self._unsettled: tuple[str, Written] | None = None
        self._insert = row_sql.insert(self.row_schema).as_bytes()
        self._update = row_sql.update(self.row_schema).as_bytes()
        self._delete = row_sql.delete(self.row_schema).as_bytes()
        self._copies = binary.can_be_copied(self.row_schema)
        table = self.row_schema.table
        with ExitStack() as on_failure:
            opened = connected(self.address, table.qualified_name, application_name=self._name)
            connection = on_failure.enter_context(opened)
            self._watch = on_failure.enter_context(self._watched(connection))
            self._session = _session(connection)
            require_writable(connection, self.address, table)
            if not self.probing:
                take = partial(try_lock, connection, table, shared_by=self._shared_by)
                wait_until(take, connection, table, self.lock_wait_s, self.on_wait, self.sleep)
            elif (holder := holder_of(connection, table)) is not None:
                raise already_running(holder, table)
            self._flushes_later = self._may_flush_later(connection)
            self._open = on_failure.pop_all()
        self._connection = connection

    def _watched(self, connection: psycopg.Connection) -> Watch:
        return watched(connection, self.address, on_wait=self.on_wait, patience=self.patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, which frees the lock. The server rolls back a transaction in progress."""
        self._connection.close()
        self._open.close()

    def write(self, batch: WriteBatch) -> Written:
        with self._unless_table_changed():
            return self._run(batch, self._begin_write, self._commit)

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        done = 0
        try:
            with self._unless_table_changed(), self._transaction():
                transaction = self._begin(self._begin_write)
                self._connection.execute(session_sql.DEFER_CONSTRAINTS)
                total = Written()
                for step in steps:
                    written = self._insert_update_and_delete(step)
                    if written.num_rows < step.num_rows:
                        return Written()
                    total = total.joined(written)
                    done += 1
                require_unchanged(self._connection, self.row_schema)
                self._commit(transaction, total)
                return total
        except RowsRefused as error:
            error.step = done if done < len(steps) else None
            raise

    def probe(self, batch: WriteBatch) -> Written:
        def check(_transaction: str, _written: Written) -> None:
            self._connection.execute(session_sql.CHECK_DEFERRED)

        return self._run(batch, session_sql.BEGIN_PROBE, check)

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        with self._transaction():
            self._connection.execute(session_sql.BEGIN_READ, prepare=False)
            return constraints.obstacles(self._connection, self.row_schema, batch)

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        with self._transaction():
            return reader.fetch(self._connection, self.row_schema, ids)

    def settle(self) -> None:
        if self._unsettled is None:
            return
        transaction, written = self._unsettled
        with self._transaction():
            try:
                commit_outcome.wait_for_flush(
                    self._connection, self.row_schema, written, self.flush_within_s or 0.0, self.sleep
                )
            except psycopg.Error as error:
                self._unknown[transaction] = written
                raise CommitOutcomeUnknown(
                    f"The connection was lost before a COMMIT was on the disk: {describe(error)}",
                    transaction=transaction,
                    written=written,
                ) from error
        self._unsettled = None

    def was_committed(self, transaction: str) -> bool:
        with self._transaction():
            return commit_outcome.was_committed(
                self._connection, self.row_schema, transaction, self._unknown.get(transaction), sleep=self.sleep
            )

    def reconnect(self) -> None:
        self.close()
        try:
            connection = connect(self.address, application_name=self._name)
        except (NotAttempted, ConfigurationError) as error:
            # The first connection worked, so the cause may go away (database notes, "Classes of errors").
            raise TransientError(error.message, connection_lost=True) from error
        self._connection = connection
        self._watch = self._open.enter_context(self._watched(connection))
        with self._transaction():
            session = _session(connection)
            if self._shared_by and connection.execute(session_sql.END_FORMER_SESSION, self._session).fetchall():
                connection.close()
                raise _former_session_ended()
            if not try_lock(connection, self.row_schema.table, shared_by=self._shared_by):
                self._end_former_session(connection)
            self._flushes_later = self._may_flush_later(connection)
            self._session = session

    def _may_flush_later(self, connection: psycopg.Connection) -> bool:
        return self.flush_within_s is not None and commit_outcome.can_flush_later(connection)

    def _end_former_session(self, connection: psycopg.Connection) -> None:
        """The lock is held by our own lost session, which the server has not noticed yet, or by another sync."""
        holder = holder_of(connection, self.row_schema.table)
        connection.execute(session_sql.END_FORMER_SESSION, self._session)
        connection.close()
        if holder is None or holder.backend == self._session[0]:
            raise _former_session_ended()
        raise already_running(holder, self.row_schema.table)

    def _run(self, batch: WriteBatch, begin: sql.SQL, end: Callable[[str, Written], None]) -> Written:
        """One transaction. Many inserts go by COPY, which has no ON CONFLICT and does not say which rows a trigger
        swallowed. If it fails because of the rows, or takes fewer of them, it is rolled back, and the batch falls back
        to INSERT … RETURNING."""
        if self._copies and batch.inserts.num_rows >= _COPY_ROWS:
            with suppress(RowsRefused), self._transaction():
                transaction = self._begin(begin)
                if copy_rows(self._connection, self.row_schema, batch.inserts) == batch.inserts.num_rows:
                    inserted = frozenset(batch.inserts[self.row_schema.key.name].to_pylist())
                    written = replace(self._update_and_delete(batch), inserted=inserted)
                    require_unchanged(self._connection, self.row_schema)
                    end(transaction, written)
                    return written
        with self._transaction():
            transaction = self._begin(begin)
            written = self._insert_update_and_delete(batch)
            require_unchanged(self._connection, self.row_schema)
            end(transaction, written)
        return written

    @property
    def _begin_write(self) -> sql.SQL:
        return session_sql.BEGIN_UNFLUSHED_WRITE if self._flushes_later else session_sql.BEGIN_WRITE

    def _begin(self, statement: sql.SQL) -> str:
        """Begins a transaction; returns its id, which the statement selects at its end."""
        cursor = self._connection.execute(statement, prepare=False)
        while cursor.nextset():
            pass
        [(transaction,)] = cursor.fetchall()
        return str(transaction)

    def _insert_update_and_delete(self, batch: WriteBatch) -> Written:
        inserted = self._execute(self._insert, (batch.inserts, self.row_schema.columns))
        return replace(self._update_and_delete(batch), inserted=inserted)

    def _update_and_delete(self, batch: WriteBatch) -> Written:
        key, compared = self.row_schema.key, self.row_schema.compared
        return Written(
            updated=self._execute(self._update, (batch.new, (key, *compared)), (batch.old, compared)),
            deleted=self._execute(self._delete, (batch.deletes, self.row_schema.columns)),
        )

    def _execute(self, statement: bytes, *parts: tuple[pa.Table, Sequence[RowColumn]]) -> frozenset[str]:
        """The ids that a statement wrote. ``parts`` are the tables and columns of its parameters, in order."""
        if not parts[0][0].num_rows:
            return frozenset()
        parameters = [binary.bound(table[column.name], column.type) for table, columns in parts for column in columns]
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
            self._unknown[transaction] = written
            raise CommitOutcomeUnknown(
                f"The answer to COMMIT was lost: {describe(error)}", transaction=transaction, written=written
            ) from error

    @contextmanager
    def _unless_table_changed(self) -> Iterator[None]:
        """A column whose type was changed may refuse every row. Then the rows are not to blame."""
        try:
            yield
        except (RowsRefused, EveryBatchWouldFail) as error:
            with self._transaction():
                changes = changed(self._connection, self.row_schema)
            if not changes or changes == error.message:
                raise
            raise EveryBatchWouldFail(
                f"{changes} The server says: {error.message}", sqlstate=error.sqlstate, hint=START_AGAIN
            ) from error.__cause__

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Afterwards no transaction is open, and errors are the port's."""
        try:
            try:
                yield
            finally:
                self._roll_back()
        except TableError as error:
            raise EveryBatchWouldFail(error.message, hint=error.hint) from error
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
                # A statement was interrupted. While the server waits for a row lock it does not notice that the
                # connection closes, and would keep our locks.
                connection.cancel_safe(timeout=CANCEL_S)
                connection.close()
            else:
                connection.rollback()
        except psycopg.Error:
            # The server rolls back by itself once the connection is closed.
            connection.close()

    def _in_recovery(self) -> bool:
        try:
            return self._connection.execute(session_sql.IN_RECOVERY).fetchone() == (True,)
        except psycopg.Error:
            return False


def _former_session_ended() -> TransientError:
    return TransientError("The lost session still held the sync's lock; it was ended.", connection_lost=True)


def _session(connection: psycopg.Connection) -> tuple[int, str]:
    """The server process of a connection, and when it started."""
    [(backend, started)] = connection.execute(session_sql.BACKEND).fetchall()
    return backend, started
