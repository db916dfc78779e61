"""Runs a driver's blocking calls in a thread, so that the caller can be interrupted while it waits.

ADBC waits inside C, and Python runs a signal handler only when the call returns: behind a table lock, when the lock is
freed. Here the caller waits in Python. If it is interrupted, the statement is cancelled at the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from typing import Final, TypeVar

from product_sync.runtime import prefetch

_T = TypeVar("_T")
#: Seconds between two checks whether the caller must stop waiting.
_CHECK_EVERY_S: Final = 0.2
#: Seconds that a server has to end a cancelled statement.
_CANCEL_S: Final = 3.0


class Left(Exception):
    """The stream that the call belongs to was closed, so nobody needs its result."""


class BrokenOff(Exception):
    """The server has not answered for too long."""


class InterruptibleCalls:
    """Runs calls one after the other. ``cancel`` ends the running one, from another thread.

    ``is_stuck`` says that a call did not end: then the objects that it uses must not be closed.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._broken_off = threading.Event()
        self.is_busy = False
        self.is_stuck = False

    def break_off(self) -> None:
        """Makes the running call raise `BrokenOff`."""
        self._broken_off.set()

    def __call__(self, call: Callable[[], _T]) -> _T:
        self.is_busy = True
        running = prefetch.run_in_thread(call)
        try:
            while not wait([running], _CHECK_EVERY_S).done:
                self._require_patience()
        except BaseException:
            # A cancel request opens a connection, and may wait for a silent server too.
            cancelled = prefetch.run_in_thread(self._cancel)
            wait([cancelled], _CANCEL_S)
            self.is_stuck = bool(wait([running], _CANCEL_S).not_done)
            raise
        finally:
            self.is_busy = False
        return running.result()

    def _require_patience(self) -> None:
        if prefetch.is_abandoned():
            raise Left
        if self._broken_off.is_set():
            raise BrokenOff


#: The objects that stuck calls use, kept from the garbage collector, which would close them during the call.
_stuck: list[object] = []


def keep_from_closing(*used: object) -> None:
    """Keeps the objects that a stuck call uses until the process ends."""
    _stuck.extend(used)


def close(*used: object) -> None:
    """Closes in this order and ignores errors: the result of the read is known."""
    for each in used:
        with suppress(Exception):
            each.close()  # type: ignore[attr-defined] # a cursor or a connection
