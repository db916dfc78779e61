"""How signals end a command, and Ctrl-C and SIGTERM at two bad moments: during a COMMIT, and in a callback of the
garbage collector.

After COMMIT was sent, the transaction cannot be rolled back. An interrupt there would leave rows in the target that the
run does not report, so it waits until they are counted. An exception that a signal handler raises in a callback of the
garbage collector is printed and lost, so the signal is sent again.
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
from typing import Any, Final, NoReturn

#: Seconds that an interrupt waits for a COMMIT.
DEFER_AT_MOST_S: Final = 5.0
_SEND_AGAIN_S: Final = 0.02
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _DeferredInterrupts:
    """Signal handlers in front of those that were installed before."""

    def __init__(self, at_most_s: float) -> None:
        self._at_most_s = at_most_s
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._deferred: int | None = None
        self._timer: threading.Timer | None = None
        self.is_committing = False

    def install(self) -> None:
        for number in _SIGNALS:
            # A signal that is ignored, or that ends the process at once, keeps its behaviour.
            if callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def remove(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def release(self) -> None:
        """No COMMIT is under way any more: pass on the deferred signal."""
        self.is_committing = False
        number = self._deferred
        self._forget()
        if number is not None:
            self._handlers[number](number, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_committing and self._deferred is None:
            self._deferred = number
            # The timer sends the signal once more. The second one is not deferred.
            main = threading.main_thread().ident
            self._timer = threading.Timer(self._at_most_s, signal.pthread_kill, [main, number])
            self._timer.daemon = True
            self._timer.start()
        else:
            self._forget()
            self._handlers[number](number, frame)

    def _forget(self) -> None:
        self._deferred = None
        if self._timer is not None:
            self._timer.cancel()


_current: _DeferredInterrupts | None = None


@contextmanager
def defer_interrupts(*, at_most_s: float = DEFER_AT_MOST_S) -> Iterator[Callable[[], None]]:
    """Within the block, an interrupt after `commit_begins` waits until the caller calls the yielded function, which
    says that the committed rows are counted. A second interrupt does not wait, nor does the first one after
    ``at_most_s`` seconds. In other threads than the main thread nothing changes: signals do not interrupt them."""
    global _current  # noqa: PLW0603 - signal handlers belong to the process
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    outer, inner = _current, _DeferredInterrupts(at_most_s)
    inner.install()
    _current = inner
    try:
        yield inner.release
    finally:
        _current = outer
        inner.remove()
        inner.release()


def commit_begins() -> None:
    """COMMIT is about to be sent: defer interrupts."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.is_committing = True


def commit_failed() -> None:
    """The transaction was rolled back: interrupts need not wait."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.release()


_interrupts: set[str] = set()


def resend_lost_interrupts(*names: str) -> None:
    """From now on, send an interrupt again if Python could only print it (`sys.unraisablehook`), for example in a
    callback of the garbage collector. ``names`` are exceptions that count as interrupts beside KeyboardInterrupt."""
    is_first = not _interrupts
    _interrupts.update(("KeyboardInterrupt", *names))
    if not is_first:
        return
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type.__name__ in _interrupts:
            # The interrupted code may hold any lock, so nothing here waits for one. threading.Thread would.
            _thread.start_new_thread(_send_again, ())
        else:
            before(unraisable)

    sys.unraisablehook = hook


def _send_again() -> None:
    time.sleep(_SEND_AGAIN_S)
    interrupt_main_thread()


def interrupt_main_thread() -> None:
    """Send this process the signal that ends a command or a step."""
    number = signal.SIGTERM if callable(signal.getsignal(signal.SIGTERM)) else signal.SIGINT
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _interrupt_unless_ctrl_c(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGINT:
        _interrupt(number, frame)


def handle_signals() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does. A signal that the caller ignores, as nohup does, stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    # The background jobs of a script ignore Ctrl-C. Dagster gives SIGTERM the handler of SIGINT, several times, so that
    # SIGTERM would be ignored too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt_unless_ctrl_c)
    resend_lost_interrupts()
