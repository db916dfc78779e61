"""One sync at a time per target table: a session advisory lock on the connection that writes.

Each of two syncs at once would undo what the other relies on. The lock is in the target, so it holds on whatever
machine a sync runs, and it is freed with its connection: also by a killed run. A transaction pooler breaks it, because
each transaction may get another session; so a pooler is detected and refused.

The steps of a run with shards share the lock: each has it as a shared lock, and marks its session with the run. While
a step of one run has it, no step of another run and no sync without shards gets it (docs/decisions/0196).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from product_sync.errors import SyncAlreadyRunning
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect, connected, cut, too_few_connections
from product_sync.targets.postgres.errors import pools_statements
from product_sync.targets.postgres.waits import OnWait

#: Seconds between two tries to take a lock that another session holds.
_TRY_EVERY_S: Final = 0.25
#: How often two sessions are compared to detect a pooler.
_POOLING_ROUNDS: Final = 3
#: Seconds that a pool may take to give the second connection a session.
_SECOND_SESSION_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A session by its server process. ``since`` is ``None`` where our role may not see it. ``others`` are the other
    sessions that share the lock."""

    backend: int
    name: str | None
    since: str | None
    others: int = 0

    def __str__(self) -> str:
        since = f", connected since {self.since}" if self.since else ""
        others = f" and {self.others} more of its steps" if self.others else ""
        return f"{self.name or 'an unnamed session'} (backend {self.backend}{since}){others}"


def try_lock(connection: psycopg.Connection, table: TargetTable, *, shared_by: str | None = None) -> bool:
    """Takes the table's lock for this session; false if another session holds it. ``shared_by`` is a run whose steps
    share the lock: then false if a session that is no step of this run holds it."""
    connection.execute(session_sql.KEEP_ALIVE, prepare=False)
    connection.execute(session_sql.CHECK_CLIENT_IN_SESSION)
    if shared_by is None:
        cursor = connection.execute(session_sql.TRY_LOCK, [_key(table)])
    else:
        statements = session_sql.try_shared_lock(_key(table), f"product_sync run {shared_by}")
        cursor = connection.execute(statements, prepare=False)
        while cursor.nextset():
            pass
    return cursor.fetchone() == (True,)


def wait_until_free(address: TargetAddress, table: TargetTable, *, wait_s: float, on_wait: OnWait) -> None:
    """Waits for ``wait_s`` seconds until no session holds the table's lock, without taking it. Errors as of
    `lock_holder` and `wait_until`."""
    with connected(address, table.qualified_name) as connection:
        wait_until(lambda: holder_of(connection, table) is None, connection, table, wait_s, on_wait)


def wait_until(
    is_free: Callable[[], bool],
    connection: psycopg.Connection,
    table: TargetTable,
    wait_s: float,
    on_wait: OnWait,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Asks ``is_free`` for ``wait_s`` seconds while another session holds the table's lock, then raises
    `SyncAlreadyRunning`. The server does not queue it: a wait in the server could not be reported."""
    began = time.monotonic()
    while not is_free():
        holder = holder_of(connection, table)
        left = wait_s - (time.monotonic() - began)
        if left <= 0:
            raise already_running(holder, table, waited_s=wait_s)
        on_wait(f"another sync holds the lock: {holder or 'one that has just ended'}; giving up in {left:.0f} s")
        sleep(min(_TRY_EVERY_S, left))


def already_running(holder: Holder | None, table: TargetTable, *, waited_s: float = 0.0) -> SyncAlreadyRunning:
    """The error for a lock that is held. ``holder`` is ``None`` if it was freed in between."""
    named = str(holder or "a sync that has just ended")
    waited = f" Waited {waited_s:g} s." if waited_s else ""
    return SyncAlreadyRunning(
        f"{table.qualified_name} is being synced by {named}.{waited}",
        holder=named,
        hint="Wait until it ends, or end that process, which frees the lock. lock_wait_s makes a sync wait longer.",
    )


def lock_holder(address: TargetAddress, table: TargetTable, *, within_s: float | None = None) -> str | None:
    """The sessions that hold the table's lock, or ``None``. Only reads. Errors as of `connected`; ``within_s`` are the
    seconds that it may take to connect."""
    with connected(address, table.qualified_name, connect_within_s=within_s) as connection:
        holder = holder_of(connection, table)
    return None if holder is None else str(holder)


def holder_of(connection: psycopg.Connection, table: TargetTable) -> Holder | None:
    """The session that holds the table's lock, asked on an open connection; the oldest one of several steps."""
    rows = connection.execute(session_sql.LOCK_HOLDERS, [_key(table)]).fetchall()
    return replace(Holder(*rows[0]), others=len(rows) - 1) if rows else None


def pools_transactions(connection: psycopg.Connection, address: TargetAddress) -> bool:
    """Whether a transaction pooler gives ``connection`` changing sessions; tried with a second connection to it.

    A transaction keeps its session. If the second connection has the first one's session in a transaction, or the
    first one then has another session, the pool lends sessions by the transaction. A pool that lends them by the
    statement refuses the transaction. Raises `TooFewConnections` if there is no second session.
    """
    mine = _backend_pid(connection)
    with closing(connect(address)) as other, _served_within(other, _SECOND_SESSION_S):
        try:
            for _ in range(_POOLING_ROUNDS):
                with other.transaction():
                    # In this order: with a pool of one session the first connection would wait for ever.
                    if _backend_pid(other) == mine or _backend_pid(connection) != mine:
                        return True
        except psycopg.Error as error:
            if pools_statements(str(error)):
                return True
            raise
    return False


@contextmanager
def _served_within(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Cuts the connection after so many seconds: a pool without a free session lets it wait for ever."""
    is_cut = threading.Event()

    def end() -> None:
        is_cut.set()
        cut(connection)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if not is_cut.is_set():
            raise
        raise too_few_connections(
            connection.info.user, f"a second session was not available within {seconds:g} s"
        ) from error
    finally:
        timer.cancel()


def _backend_pid(connection: psycopg.Connection) -> int:
    row = connection.execute(session_sql.BACKEND_PID).fetchone()
    return -1 if row is None else int(row[0])


def _key(table: TargetTable) -> str:
    return f"product_sync:{table.qualified_name}"
