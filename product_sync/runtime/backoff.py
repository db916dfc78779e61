"""How long a batch waits for a database that will be back: exponential back-off with full jitter.

A fixed wait would let every client come back in the same moment and knock the server over again; no limit
would hang the run on one batch. Design section 5.2: at most 60 s for a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from product_sync.runtime.clock import Timing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds. The n-th wait is drawn from 0 to ``first_s * 2**n``, at most ``longest_s``; the waits and the
    attempts that failed together last at most ``total_s``."""

    first_s: float = 0.1
    longest_s: float = 10.0
    total_s: float = 60.0


class Backoff:
    """The waits of one batch. Time spent in work that succeeded does not count against it."""

    def __init__(self, policy: RetryPolicy, timing: Timing) -> None:
        self._policy = policy
        self._timing = timing
        self._left_s = policy.total_s
        self._failures = 0
        self._attempt_started = timing.monotonic()

    def attempt(self) -> None:
        """An attempt starts now."""
        self._attempt_started = self._timing.monotonic()

    def succeeded(self) -> None:
        """The next failure starts again with the shortest wait."""
        self._failures = 0

    def wait(self) -> bool:
        """The attempt failed: wait before the next one. ``False``, at once, if the time is used up."""
        self._left_s -= self._timing.monotonic() - self._attempt_started
        ceiling = min(self._policy.longest_s, self._policy.first_s * 2.0**self._failures)
        delay = min(ceiling * self._timing.random(), self._left_s)
        if self._left_s <= 0:
            return False
        self._failures = min(self._failures + 1, 64)
        self._left_s -= delay
        self._timing.sleep(delay)
        return True
