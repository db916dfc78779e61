"""Watches a session from outside while it waits for a lock of another session, or for a server that does not answer.

A statement that waits for a lock reports nothing and never ends by itself: a forgotten `BEGIN` in a terminal would hold
a sync for days. Time-outs of our own would change what triggers of the table's owner rely on (decision 0018), and could
not say which session is in the way. So a second connection asks every few seconds (docs/decisions/0091).
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

import psycopg
from psycopg.pq import TransactionStatus

from product_sync.errors import ProductSyncError
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect, cut

_LOGGER = logging.getLogger(__name__)
#: Called with a sentence that says what is waited for.
OnWait = Callable[[str], None]


def log_wait(note: str) -> None:
    """Reports a wait for callers that have no progress to report it with."""
    _LOGGER.warning("Waiting %s.", note)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how often the session is checked, how often a wait is reported, and after how long it is ended."""

    check_every_s: float = 5.0
    report_every_s: float = 30.0
    wait_s: float = 120.0
    #: A check that takes longer to connect counts as no answer.
    answer_within_s: float = 5.0


PATIENCE: Final = Patience()


@dataclass
class Watch:
    """Watches the session of the server process ``backend`` from a thread while its block runs. ``ended`` says why the
    session's wait was ended, and is empty until then. ``is_busy`` says whether the session is in a statement;
    ``break_off`` ends that statement without the server."""

    address: TargetAddress
    backend: int
    is_busy: Callable[[], bool]
    break_off: Callable[[], None]
    on_wait: OnWait
    patience: Patience
    ended: str = ""
    _stopped: threading.Event = field(default_factory=threading.Event)
    _since: tuple[str, float] | None = None
    _reported_at: float = 0.0

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="product_sync watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self.patience.check_every_s):
            with suppress(psycopg.Error):
                self._check()

    def _check(self) -> None:
        if not self.is_busy():
            self._since = None
            return
        try:
            connection = connect(self.address, connect_within_s=self.patience.answer_within_s)
        except ProductSyncError as error:
            # A server that refuses another connection does answer.
            if "timeout" in error.message and self._waits("", "an answer of the server"):
                self.break_off()
            return
        with closing(connection):
            rows = connection.execute(session_sql.BLOCKED_BY, [self.backend]).fetchall()
            if not rows:
                self._since = None
                return
            blockers = ", ".join(_blocker(*row[1:]) for row in rows)
            if self._waits(rows[0][0] or "", f"a lock that is held by {blockers}"):
                connection.execute(session_sql.CANCEL, [self.backend])

    def _waits(self, statement: str, what: str) -> bool:
        """Notes that ``statement`` (the time when it began) waits for ``what``; true if it has waited too long."""
        now = time.monotonic()
        if self._since is None or self._since[0] != statement:
            # It may have begun right after the last check.
            began = now - self.patience.check_every_s
            self._since, self._reported_at = (statement, began), began
        waited = now - self._since[1]
        if waited >= self.patience.wait_s:
            self.ended = f"It waited {waited:.0f} s for {what}."
            return True
        if now - self._reported_at >= self.patience.report_every_s:
            self._reported_at = now
            self.on_wait(f"for {what}, {waited:.0f} s so far; giving up after {self.patience.wait_s:.0f} s")
        return False


def watched(
    connection: psycopg.Connection, address: TargetAddress, *, on_wait: OnWait = log_wait, patience: Patience = PATIENCE
) -> Watch:
    """The `Watch` of a connection of psycopg."""

    def is_busy() -> bool:
        return not connection.closed and connection.info.transaction_status is TransactionStatus.ACTIVE

    return Watch(address, connection.info.backend_pid, is_busy, partial(cut, connection), on_wait, patience)


def _blocker(pid: int, name: str | None, state: str | None, seconds: float | None) -> str:
    """A session by its process, its name, its state and the age of its transaction, as far as our role may see them.
    Never its statement, which may hold anything."""
    if not pid:
        return "a prepared transaction"
    facts = [name or "an unnamed session", *([state] if state else [])]
    if seconds is not None:
        facts.append(f"its transaction {seconds:.0f} s old")
    return f"pid {pid} ({', '.join(facts)})"
