"""How large a batch is and how long the target rests after it.

The load asks before each batch and tells afterwards, so that another policy can look at what the last batch
cost. Sizes and pauses are checked here, once, for every way in which they can be configured.
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
    """``size`` in rows per batch, or `ConfigurationError` naming the setting, the value and the bounds."""
    if not MIN_BATCH_SIZE <= size <= MAX_BATCH_SIZE:
        raise ConfigurationError(
            f"{name} is {size}, but a batch has {MIN_BATCH_SIZE} to {MAX_BATCH_SIZE} rows.",
            hint=f"The default is {DEFAULT_BATCH_SIZE}.",
        )
    return size


def checked_pause_ms(pause_ms: int, *, name: str = "SYNC_BATCH_DELAY_MS") -> int:
    """``pause_ms`` in milliseconds between two batches, or `ConfigurationError` naming the setting and the value."""
    if not 0 <= pause_ms <= MAX_PAUSE_MS:
        raise ConfigurationError(
            f"{name} is {pause_ms}, but a pause has 0 to {MAX_PAUSE_MS} milliseconds.",
            hint=f"The default is {DEFAULT_PAUSE_MS}; 0 does not pause.",
        )
    return pause_ms


class Pacing(Protocol):
    """The policy that sizes batches and rests between them. Where it is not ``pausing``, the next batch is prepared
    while one is written."""

    @property
    def pausing(self) -> bool:
        """Whether the target may rest between batches; the same throughout a load."""

    def batch_size(self) -> int:
        """Rows that the next batch has at most."""

    def pause_s(self) -> float:
        """Seconds to rest before the next batch."""

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        """The target worked for ``seconds`` on the batch of ``rows`` rows, retries included, and rested for
        ``rested_s`` of the batch's time: while the source was asked, before a retry, until the batch was on the
        disk."""


@dataclass(frozen=True, slots=True)
class FixedPacing:
    """Always the same: the default (design section 5). ``pause_ms`` is in milliseconds."""

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
        """What a batch cost changes nothing."""
