"""Decides how large a batch is, and how long the target rests after it.

The load asks before each batch and reports its cost afterwards, so that a policy can adapt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

#: The defaults of the options of a run, which have the bounds (`product_sync.settings`).
DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 100, 100_000
DEFAULT_PAUSE_MS = 100
#: Measured (docs/decisions/0030): with batches of 0.25 s and a share of half the time, the slowest per cent of point
#: reads took eight times as long. The length of a batch decides how long a reader waits, so batches are short; the
#: share decides how many readers wait, so it is small.
DEFAULT_TARGET_S = 0.006
DEFAULT_MAX_DUTY = 0.03


class Pacing(Protocol):
    """The policy for the size of batches and the pauses between them. If it is not ``pausing``, the next batch is
    prepared while one is written."""

    @property
    def pausing(self) -> bool:
        """Whether the target may rest between batches. It does not change during a load."""

    def batch_size(self) -> int:
        """The most rows that the next batch may have."""

    def pause_s(self) -> float:
        """Seconds to rest before the next batch."""

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        """Reports a batch of ``rows`` rows. The target worked on it for ``seconds``, retries included, and rested for
        ``rested_s``: while the source was asked, before a retry, and until the batch was on the disk."""


@dataclass(frozen=True, slots=True)
class FixedPacing:
    """The default: the same size and pause for all batches (design section 5). ``pause_ms`` is in milliseconds."""

    rows: int = DEFAULT_BATCH_SIZE
    pause_ms: int = DEFAULT_PAUSE_MS

    @property
    def pausing(self) -> bool:
        return self.pause_ms > 0

    def batch_size(self) -> int:
        return self.rows

    def pause_s(self) -> float:
        return self.pause_ms / 1000

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        """Changes nothing."""
