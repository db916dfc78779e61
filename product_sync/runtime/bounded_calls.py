"""Calls that may hang: the caller waits for each of them for a limited time.

The timeout of a library covers one socket operation. A silent name server, a reply that arrives byte by byte and a
hanging file system have none. So each call runs in its own thread, and the caller stops waiting at its limit. A name
has one call at a time: a hanging channel holds one thread, not one more per attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from product_sync.runtime.prefetch import run_in_thread

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Call(Generic[_T]):
    """``future`` holds the result. ``started_at`` is monotonic, in seconds."""

    started_at: float
    future: Future[_T]

    @property
    def is_running(self) -> bool:
        return not self.future.done()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at


@dataclass(slots=True)
class BoundedCalls(Generic[_T]):
    """The last call of each name, running or ended."""

    _calls: dict[str, Call[_T]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, call: Callable[[], _T]) -> tuple[Call[_T], bool]:
        """Start ``call`` unless the last call of this name still runs. Returns the running one, and whether it is
        new."""
        with self._lock:
            last = self._calls.get(name)
            if last is not None and last.is_running:
                return last, False
            started = self._calls[name] = Call(time.monotonic(), run_in_thread(call))
            return started, True

    @staticmethod
    def wait(calls: Iterable[Call[_T]], within_s: float) -> None:
        wait([call.future for call in calls], timeout=max(within_s, 0.0))
