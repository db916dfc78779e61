"""How far a stage has come: one immutable value, handed to whoever listens.

The progress bar, the log and the sign of life that keeps a run from being reaped (design section 5) all
hang on these values; a stage that tells nothing for a minute looks dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from product_sync.core.timing import Timing


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` rows; ``rate`` in rows per second. ``total`` is ``None`` where nobody knows it,
    ``seconds_left`` also while there is no rate yet."""

    stage: str
    done: int
    total: int | None
    rate: float
    seconds_left: float | None

    @property
    def percent(self) -> float | None:
        if self.total is None:
            return None
        return 100.0 * self.done / self.total if self.total else 100.0

    def __str__(self) -> str:
        share = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,} ({self.percent:.0f} %)"
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"{self.stage}: {share}, {self.rate:,.0f} rows/s{left}"


OnProgress = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """For callers that do not listen."""


class Meter:
    """Counts the rows of one stage and reports after each step.

    ``total`` may be an estimate: when more rows come than were promised, the total grows with them.
    """

    def __init__(self, stage: str, total: int | None, on_progress: OnProgress, timing: Timing) -> None:
        self._stage = stage
        self._total = total
        self._on_progress = on_progress
        self._timing = timing
        self._started = timing.monotonic()
        self.done = 0

    @property
    def elapsed_s(self) -> float:
        return self._timing.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Rows per second so far; 0 while no time has passed."""
        elapsed = self.elapsed_s
        return self.done / elapsed if elapsed > 0 else 0.0

    def advance(self, rows: int) -> None:
        """``rows`` more are done. 0 is a sign of life."""
        self.done += rows
        rate = self.rate
        total = None if self._total is None else max(self._total, self.done)
        left = (total - self.done) / rate if total is not None and rate > 0 else None
        self._on_progress(Progress(self._stage, self.done, total, rate, left))
