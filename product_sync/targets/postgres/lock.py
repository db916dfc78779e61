"""One sync at a time per target table: a session advisory lock on the connection that writes.

Two syncs at once would each undo the other's reading of the table. The lock lives in the target, where every sync
must pass, whatever machine it runs on, and it goes with its connection: a killed run frees it. A transaction pooler
voids it (each transaction may run in another session), so one in between is found out and refused.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from product_sync.errors import SyncAlreadyRunning
from product_sync.schema.records import TargetTable
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect, too_few_connections
from product_sync.targets.postgres.errors import pools_statements, read_error
from product_sync.targets.postgres.waits import OnWait

#: Seconds between two tries to take a lock that somebody else holds.
_TRY_EVERY_S: Final = 0.25
#: How often a second look is taken whether the session stays the same.
_POOLING_ROUNDS: Final = 3
#: Seconds for which a pool may let the second connection wait for a session.
_SECOND_SESSION_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A session by its server process. ``since`` is ``None`` where our role may not see it."""

    backend: int
    name: str | None
    since: str | None

    def __str__(self) -> str:
        since = f", connected since {self.since}" if self.since else ""
        return f"{self.name or 'an unnamed session'} (backend {self.backend}{since})"


def try_lock(connection: psycopg.Connection, table: TargetTable) -> bool:
    """Take the table's lock for this session, or say that another session has it."""
    connection.execute(session_sql.KEEP_ALIVE, prepare=False)
    connection.execute(session_sql.CHECK_CLIENT_IN_SESSION)
    row = connection.execute(session_sql.TRY_LOCK, [_key(table)]).fetchone()
    return row == (True,)


def wait_for_lock(
    connection: psycopg.Connection,
    table: TargetTable,
    *,
    wait_s: float,
    on_wait: OnWait,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Take the table's lock for this session, trying for ``wait_s`` seconds while another session has it. Raises
    `SyncAlreadyRunning` then. Not queued for in the server: a wait there could not be reported."""
    _wait(lambda: try_lock(connection, table), connection, table, wait_s, on_wait, sleep, clock)


def wait_until_free(
    url: str,
    table: TargetTable,
    *,
    wait_s: float,
    on_wait: OnWait,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait for ``wait_s`` seconds until no session holds the table's lock, without taking it. Errors as
    `lock_holder` and `wait_for_lock`."""
    with closing(connect(url)) as connection:
        try:
            _wait(lambda: holder_of(connection, table) is None, connection, table, wait_s, on_wait, sleep, clock)
        except psycopg.Error as error:
            raise read_error(error, table=table.qualified_name, broken=connection.closed) from error


def _wait(
    is_free: Callable[[], bool],
    connection: psycopg.Connection,
    table: TargetTable,
    wait_s: float,
    on_wait: OnWait,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    began = clock()
    while not is_free():
        holder = holder_of(connection, table)
        left = wait_s - (clock() - began)
        if left <= 0:
            raise already_running(holder, table, waited_s=wait_s)
        on_wait(f"another sync holds the lock: {holder or 'one that has just ended'}; giving up in {left:.0f} s")
        sleep(min(_TRY_EVERY_S, left))


def already_running(holder: Holder | None, table: TargetTable, *, waited_s: float = 0.0) -> SyncAlreadyRunning:
    """The error for a taken lock; ``holder`` as `holder_of` gave it, ``None`` if it was freed in between."""
    named = str(holder or "a sync that has just ended")
    waited = f" Waited {waited_s:g} s." if waited_s else ""
    return SyncAlreadyRunning(
        f"{table.qualified_name} is being synced by {named}.{waited}",
        holder=named,
        hint="Let it end, or end that process: the lock goes with it. lock_wait_s makes a sync wait longer.",
    )


def lock_holder(url: str, table: TargetTable, *, within_s: float | None = None) -> str | None:
    """Who holds the table's lock now, or ``None``. Reads only; errors as `connect`, and `read_error` after it.

    ``within_s`` are the seconds that it may take to connect."""
    with closing(connect(url, connect_within_s=within_s)) as connection:
        try:
            holder = holder_of(connection, table)
        except psycopg.Error as error:
            raise read_error(error, table=table.qualified_name, broken=connection.closed) from error
    return None if holder is None else str(holder)


def holder_of(connection: psycopg.Connection, table: TargetTable) -> Holder | None:
    """The session that holds the table's lock."""
    row = connection.execute(session_sql.LOCK_HOLDER, [_key(table)]).fetchone()
    return None if row is None else Holder(*row)


def transaction_pooling(url: str) -> bool:
    """Whether a transaction pooler stands between. Opens two connections; errors as `connect`."""
    with closing(connect(url)) as connection:
        return pools_transactions(connection, url)


def pools_transactions(connection: psycopg.Connection, url: str) -> bool:
    """Whether ``connection`` is served by changing sessions, tried with a second connection to the same ``url``.

    While the second one is in a transaction it has a session for itself. If that is the first one's, or the first
    one is then served by another, sessions are lent by the transaction. A pool that lends them by the statement
    refuses the transaction. Raises `TooFewConnections` if there is no second session to be had.
    """
    mine = _backend_pid(connection)
    with closing(connect(url)) as other, _served_within(other, _SECOND_SESSION_S):
        try:
            for _ in range(_POOLING_ROUNDS):
                with other.transaction():
                    # Asked before the first connection is: a pool of one session would make that wait for ever.
                    if _backend_pid(other) == mine or _backend_pid(connection) != mine:
                        return True
        except psycopg.Error as error:
            if pools_statements(str(error)):
                return True
            raise
    return False


@contextmanager
def _served_within(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Cut the connection after so many seconds: a pool that has no free session lets it wait without a word."""
    is_cut = threading.Event()

    def cut() -> None:
        is_cut.set()
        with socket.socket(fileno=os.dup(connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if not is_cut.is_set():
            raise
        raise too_few_connections(
            connection.info.user, f"a second session was not to be had within {seconds:g} s"
        ) from error
    finally:
        timer.cancel()


def _backend_pid(connection: psycopg.Connection) -> int:
    row = connection.execute(session_sql.BACKEND_PID).fetchone()
    return -1 if row is None else int(row[0])


def _key(table: TargetTable) -> str:
    return f"product_sync:{table.qualified_name}"
