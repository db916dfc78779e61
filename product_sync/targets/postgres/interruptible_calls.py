"""Makes a driver's blocking calls in a thread, so that whoever waits for one can be interrupted.

ADBC waits inside C: a signal handler of Python's runs only when the call returns, which behind a table lock is when
the lock is freed. Here the caller waits in Python, and when it has to leave, the statement is cancelled at the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from typing import Final, TypeVar

from product_sync.runtime import prefetch

_T = TypeVar("_T")
#: Seconds between two looks whether the caller is to leave.
_LOOK_EVERY_S: Final = 0.2
#: Seconds that a server has to end a cancelled statement.
_CANCEL_S: Final = 3.0


class Left(Exception):
    """Nobody waits for what the call would return: the stream that it belongs to was left."""


class BrokenOff(Exception):
    """The server has been silent for too long."""


class InterruptibleCalls:
    """Calls one after the other. ``cancel`` ends the one under way, from another thread.

    ``is_stuck`` says that a call did not end even so: what it uses must not be closed then.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._broken_off = threading.Event()
        self.is_busy = False
        self.is_stuck = False

    def break_off(self) -> None:
        """Have the call under way raise `BrokenOff`."""
        self._broken_off.set()

    def __call__(self, call: Callable[[], _T]) -> _T:
        self.is_busy = True
        running = prefetch.run_in_thread(call)
        try:
            while not wait([running], _LOOK_EVERY_S).done:
                self._require_patience()
        except BaseException:
            # A cancel request is a connection of its own, and may wait for a silent server too.
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


#: What stuck calls use. Closing it, as the garbage collector would, pulls it away from under them.
_stuck: list[object] = []


def keep_from_closing(*used: object) -> None:
    """Keep what a stuck call uses for as long as the process lives."""
    _stuck.extend(used)


def close(*used: object) -> None:
    """Close in this order, whatever it raises: the reading has its own result."""
    for each in used:
        with suppress(Exception):
            each.close()  # type: ignore[attr-defined] # a cursor or a connection
