"""Watches a session from outside while it waits: for a lock that others hold, or for a server that is silent.

A statement that waits for a lock says nothing and has no end of its own: a forgotten `BEGIN` in somebody's terminal
would hold a sync for days. Time-outs of our own would change what triggers of the table's owner rely on (decision
0018), and could not say who is in the way. So a second connection looks every few seconds (docs/decisions/0091).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from product_sync.errors import ProductSyncError
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect

_LOGGER = logging.getLogger(__name__)
#: Hears, in words, what is waited for.
OnWait = Callable[[str], None]


def log_wait(note: str) -> None:
    """For callers that have no progress to report it with."""
    _LOGGER.warning("Waiting %s.", note)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. A look every ``look_every_s``; a wait is reported every ``tell_every_s``, and ended after ``wait_s``."""

    look_every_s: float = 5.0
    tell_every_s: float = 30.0
    wait_s: float = 120.0
    #: A look that takes longer to connect was not answered.
    answer_within_s: float = 5.0


PATIENCE: Final = Patience()


class Watch:
    """One session under watch. ``ended`` says why its wait was ended, and is empty until then.

    ``is_busy`` tells whether it is in a statement; ``break_off`` has that statement end without the server.
    """

    def __init__(
        self,
        url: str,
        backend: int,
        *,
        on_wait: OnWait,
        is_busy: Callable[[], bool],
        break_off: Callable[[], None],
        patience: Patience,
    ) -> None:
        self._url = url
        self._backend = backend
        self._on_wait = on_wait
        self._is_busy = is_busy
        self._break_off = break_off
        self._patience = patience
        self._stopped = threading.Event()
        self._since: tuple[str, float] | None = None
        self._told_at = 0.0
        self.ended = ""

    def run(self) -> None:
        while not self._stopped.wait(self._patience.look_every_s):
            with suppress(psycopg.Error):
                self._look()

    def stop(self) -> None:
        self._stopped.set()

    def _look(self) -> None:
        if not self._is_busy():
            self._since = None
            return
        try:
            connection = connect(self._url, connect_within_s=self._patience.answer_within_s)
        except ProductSyncError as error:
            # A server that refuses another connection is not silent.
            if "timeout" in error.message and self._waits("", "an answer of the server"):
                self._break_off()
            return
        with closing(connection):
            rows = connection.execute(session_sql.BLOCKED_BY, [self._backend]).fetchall()
            if not rows:
                self._since = None
                return
            blockers = ", ".join(_blocker(*row[1:]) for row in rows)
            if self._waits(rows[0][0] or "", f"a lock that is held by {blockers}"):
                connection.execute(session_sql.CANCEL, [self._backend])

    def _waits(self, statement: str, what: str) -> bool:
        """Note that ``statement`` (when it began) waits for ``what``. True if it has done so for too long."""
        now = time.monotonic()
        if self._since is None or self._since[0] != statement:
            # It may have begun right after the last look.
            began = now - self._patience.look_every_s
            self._since, self._told_at = (statement, began), began
        waited = now - self._since[1]
        if waited >= self._patience.wait_s:
            self.ended = f"It waited {waited:.0f} s for {what}."
            return True
        if now - self._told_at >= self._patience.tell_every_s:
            self._told_at = now
            self._on_wait(f"for {what}, {waited:.0f} s so far; giving up after {self._patience.wait_s:.0f} s")
        return False


@contextmanager
def watching(
    url: str,
    backend: int,
    *,
    on_wait: OnWait,
    is_busy: Callable[[], bool],
    break_off: Callable[[], None],
    patience: Patience = PATIENCE,
) -> Iterator[Watch]:
    """Watch the session of the server process ``backend`` from a thread of its own while the block runs."""
    watch = Watch(url, backend, on_wait=on_wait, is_busy=is_busy, break_off=break_off, patience=patience)
    threading.Thread(target=watch.run, name="product_sync watch", daemon=True).start()
    try:
        yield watch
    finally:
        watch.stop()


@contextmanager
def watched(
    connection: psycopg.Connection, url: str, *, on_wait: OnWait = log_wait, patience: Patience = PATIENCE
) -> Iterator[Watch]:
    """`watching` for a session of psycopg's."""

    def is_busy() -> bool:
        return not connection.closed and connection.info.transaction_status is TransactionStatus.ACTIVE

    def break_off() -> None:
        # The driver, waiting in another thread, finds the connection closed.
        with suppress(OSError, psycopg.Error), socket.socket(fileno=connection.fileno()) as ours:
            try:
                ours.shutdown(socket.SHUT_RDWR)
            finally:
                ours.detach()

    with watching(
        url,
        connection.info.backend_pid,
        on_wait=on_wait,
        is_busy=is_busy,
        break_off=break_off,
        patience=patience,
    ) as watch:
        yield watch


def _blocker(pid: int, name: str | None, state: str | None, seconds: float | None) -> str:
    """A session by its process, the name that it goes by, and for how long it has been in its transaction; what our
    role may not see is left out. Never its statement: that may hold anything."""
    if not pid:
        return "a prepared transaction"
    told = [name or "an unnamed session", *([state] if state else [])]
    if seconds is not None:
        told.append(f"its transaction {seconds:.0f} s old")
    return f"pid {pid} ({', '.join(told)})"
