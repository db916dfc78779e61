"""Decides how large a batch is, and how long the target rests after it.

The load asks before each batch and reports its cost afterwards, so that a policy can adapt. Sizes and pauses are
checked here, for all ways to configure them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from product_sync.errors import ConfigurationError

MIN_BATCH_SIZE, MAX_BATCH_SIZE = 1, 100_000
DEFAULT_BATCH_SIZE = 100
DEFAULT_PAUSE_MS = 100
#: An hour. A longer pause is a mistake in the unit.
MAX_PAUSE_MS = 3_600_000


def checked_batch_size(size: int, *, name: str = "SYNC_BATCH_SIZE") -> int:
    """``size`` in rows per batch, or `ConfigurationError` with the setting, the value and the bounds."""
    if not MIN_BATCH_SIZE <= size <= MAX_BATCH_SIZE:
        raise ConfigurationError(
            f"{name} is {size}, but a batch has {MIN_BATCH_SIZE} to {MAX_BATCH_SIZE} rows.",
            hint=f"The default is {DEFAULT_BATCH_SIZE}.",
        )
    return size


def checked_pause_ms(pause_ms: int, *, name: str = "SYNC_BATCH_DELAY_MS") -> int:
    """``pause_ms`` in milliseconds between two batches, or `ConfigurationError` with the setting and the value."""
    if not 0 <= pause_ms <= MAX_PAUSE_MS:
        raise ConfigurationError(
            f"{name} is {pause_ms}, but a pause has 0 to {MAX_PAUSE_MS} milliseconds.",
            hint=f"The default is {DEFAULT_PAUSE_MS}; 0 does not pause.",
        )
    return pause_ms


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

    def __post_init__(self) -> None:
        checked_batch_size(self.rows)
        checked_pause_ms(self.pause_ms)

    @property
    def pausing(self) -> bool:
        return self.pause_ms > 0

    def batch_size(self) -> int:
        return self.rows

    def pause_s(self) -> float:
        return self.pause_ms / 1000

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        """Changes nothing."""
