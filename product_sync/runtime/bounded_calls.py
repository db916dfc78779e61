"""Calls to the outside world that nobody waits for longer than a limit, whatever they hang in.

A library's own timeout covers one operation of a socket. A name server that does not answer, a body that arrives byte
by byte, a file system that hangs: none of these has a timeout. So each call runs in a thread of its own, the caller
stops waiting at its limit, and the thread is left behind. The next call under the same name starts only when the last
one has ended, so a hanging channel holds one thread and not one more at each attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from product_sync.runtime import prefetch

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Call(Generic[_T]):
    """One call. ``future`` has its result; ``began_at`` is monotonic."""

    began_at: float
    future: Future[_T]

    @property
    def is_open(self) -> bool:
        return not self.future.done()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began_at


@dataclass(slots=True)
class BoundedCalls(Generic[_T]):
    """The last call under each name, open or ended."""

    _calls: dict[str, Call[_T]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str, call: Callable[[], _T]) -> tuple[Call[_T], bool]:
        """Start ``call``, unless the last one under this name is still open. Returns the call that is under way, and
        whether it is this one."""
        with self._lock:
            last = self._calls.get(name)
            if last is not None and last.is_open:
                return last, False
            begun = Call(time.monotonic(), prefetch.begin(call))
            self._calls[name] = begun
            return begun, True

    @staticmethod
    def wait(calls: Iterable[Call[_T]], within_s: float) -> None:
        """Return when all have ended, at the latest after ``within_s`` seconds."""
        wait([call.future for call in calls], timeout=max(within_s, 0.0))
