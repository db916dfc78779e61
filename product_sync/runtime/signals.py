"""Ctrl-C and SIGTERM at bad moments: while a COMMIT is under way, and where what a handler raises does not arrive.

A transaction whose COMMIT has been sent cannot be rolled back any more. An interrupt that is raised there leaves rows
in the target that the run says it has not written; so it waits until they are counted. And what a signal handler raises
while the garbage collector calls back is printed and dropped; so it is sent again.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

#: How long an interrupt waits for a COMMIT that does not come to its end.
PATIENCE_S: Final = 5.0
_SEND_AGAIN_S: Final = 0.02
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Counting:
    """Stands before the signal handlers that were there."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: int | None = None
        self._timer: threading.Timer | None = None
        self.is_committing = False

    def install(self) -> None:
        for number in _SIGNALS:
            # What is ignored, or ends the process at once, does so here too.
            if callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def remove(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def settle(self) -> None:
        """Nothing is under way any more: what has waited is raised."""
        self.is_committing = False
        number = self._waiting
        self._forget()
        if number is not None:
            self._handlers[number](number, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_committing and self._waiting is None:
            self._waiting = number
            # The same signal again, to the thread that waits for the server: the second one is not put off.
            main = threading.main_thread().ident
            self._timer = threading.Timer(self._patience_s, signal.pthread_kill, [main, number])
            self._timer.daemon = True
            self._timer.start()
        else:
            self._forget()
            self._handlers[number](number, frame)

    def _forget(self) -> None:
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()


_current: _Counting | None = None


@contextmanager
def defer_interrupts(*, patience_s: float = PATIENCE_S) -> Iterator[Callable[[], None]]:
    """Within, an interrupt after `commit_begins` waits for the call of what this yields, which says that what was
    committed is counted; a second interrupt, or the first after ``patience_s`` seconds, does not wait. In other threads
    than the main one, which no signal interrupts, nothing happens."""
    global _current  # noqa: PLW0603 - signal handlers are the process's
    if threading.current_thread() is not threading.main_thread():
        yield _nothing
        return
    before, mine = _current, _Counting(patience_s)
    mine.install()
    _current = mine
    try:
        yield mine.settle
    finally:
        _current = before
        mine.remove()
        mine.settle()


def commit_begins() -> None:
    """From here on an interrupt would not undo anything."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.is_committing = True


def commit_failed() -> None:
    """The transaction was rolled back: an interrupt need not wait."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.settle()


def _nothing() -> None:
    """Nobody waits."""


_kept: set[str] = set()


def keep(*names: str) -> None:
    """From now on an interrupt that is raised where Python can only print it (`sys.unraisablehook`: in a callback of
    the garbage collector, say) is sent to this process again. ``names`` are those of exceptions that are interrupts
    beside KeyboardInterrupt."""
    is_first = not _kept
    _kept.update(("KeyboardInterrupt", *names))
    if not is_first:
        return
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type.__name__ in _kept:
            # No lock may be waited for here: whoever was interrupted may hold it. Hence no threading.Thread.
            _thread.start_new_thread(_send_again, ())
        else:
            before(unraisable)

    sys.unraisablehook = hook


def _handled() -> signal.Signals:
    return signal.SIGTERM if callable(signal.getsignal(signal.SIGTERM)) else signal.SIGINT


def _send_again() -> None:
    time.sleep(_SEND_AGAIN_S)
    number = _handled()
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)
