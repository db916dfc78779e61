"""How long a batch waits before it tries again: exponential back-off with full jitter (design section 5.2).

After a fixed wait all clients would come back in the same moment and overload the server again.
"""

from __future__ import annotations

from dataclasses import dataclass

from product_sync.runtime.clock import Timing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds. The n-th wait is random, from 0 to ``first_s * 2**n`` and at most ``longest_s``. The waits and the
    failed attempts of a batch take at most ``total_s`` together."""

    first_s: float = 0.1
    longest_s: float = 10.0
    total_s: float = 60.0


class Backoff:
    """The waits of one batch. The time of successful attempts does not count."""

    def __init__(self, policy: RetryPolicy, timing: Timing) -> None:
        self._policy = policy
        self._timing = timing
        self._left_s = policy.total_s
        self._failures = 0
        self._attempt_started = timing.monotonic()

    def attempt(self) -> None:
        self._attempt_started = self._timing.monotonic()

    def succeeded(self) -> None:
        """Start again with the shortest wait."""
        self._failures = 0

    def wait(self) -> bool:
        """Wait after a failed attempt. Returns ``False`` at once if the time is used up."""
        self._left_s -= self._timing.monotonic() - self._attempt_started
        if self._left_s <= 0:
            return False
        ceiling = min(self._policy.longest_s, self._policy.first_s * 2.0**self._failures)
        delay = min(ceiling * self._timing.random(), self._left_s)
        self._failures = min(self._failures + 1, 64)
        self._left_s -= delay
        self._timing.sleep(delay)
        return True
