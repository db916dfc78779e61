"""The progress of a stage as one immutable value.

The progress bar, the log and the run's heartbeat are made of it (design section 5). A stage that reports nothing for a
minute looks dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from product_sync.runtime.clock import Timing

#: A pause is reported every so many seconds.
_REPORT_PAUSE_EVERY_S: Final = 5.0
#: A shorter pause is not reported.
_REPORTED_FROM_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` rows, at ``rate`` rows per second. ``total`` is ``None`` if it is unknown; ``seconds_left``
    then too, and while there is no rate yet. ``note`` says what a stage waits for."""

    stage: str
    done: int
    total: int | None
    rate: float
    seconds_left: float | None
    note: str = ""

    @property
    def ended(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def percent(self) -> float | None:
        if self.total is None:
            return None
        return 100.0 * self.done / self.total if self.total else 100.0

    def __str__(self) -> str:
        if self.note and self.total is None and not self.done:
            return f"{self.stage}: {self.note}"
        share = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,} ({self.percent:.0f} %)"
        if self.note:
            return f"{self.stage}: {share}, {self.note}"
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"{self.stage}: {share}, {self.rate:,.0f} rows/s{left}"


OnProgress = Callable[[Progress], None]


def waiting(stage: str, note: str) -> Progress:
    """A stage that waits, and for what."""
    return Progress(stage, 0, None, 0.0, None, note)


def no_progress(_: Progress) -> None:
    """For callers that need no progress."""


class Meter:
    """Counts the rows of one stage and reports after each step. ``total`` may be an estimate. If more rows come, the
    total is unknown from then on, until `end`."""

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

    def advance(self, rows: int, note: str = "") -> None:
        """Report ``rows`` more rows (0 as a heartbeat), and what the stage waits for."""
        self.done += rows
        rate = self.rate
        if self._total is not None and self.done > self._total:
            self._total = None
        left = (self._total - self.done) / rate if self._total is not None and rate > 0 else None
        self._on_progress(Progress(self._stage, self.done, self._total, rate, left, note))

    def end(self) -> None:
        """All rows are done: the total is known."""
        if self._total != self.done:
            self._total = self.done
            self.advance(0)

    def pause(self, seconds: float, why: str) -> None:
        """Sleep for ``seconds``, and report every few seconds why and how many are left."""
        while seconds > 0:
            if seconds > _REPORTED_FROM_S:
                self.advance(0, f"{why}, {seconds:.0f} s left")
            step = min(seconds, _REPORT_PAUSE_EVERY_S)
            self._timing.sleep(step)
            seconds -= step
