"""How far a stage has come: one immutable value, handed to whoever listens.

The progress bar, the log and the sign of life that keeps a run from being reaped (design section 5) all
hang on these values; a stage that tells nothing for a minute looks dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from product_sync.runtime.clock import Timing

#: A longer pause is reported every so many seconds.
_REPORT_PAUSE_EVERY_S: Final = 5.0
#: A shorter pause is not worth a word.
_WORTH_REPORTING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` rows; ``rate`` in rows per second. ``total`` is ``None`` where nobody knows it,
    ``seconds_left`` also while there is no rate yet. ``note`` says what is waited for, where no row is being done."""

    stage: str
    done: int
    total: int | None
    rate: float
    seconds_left: float | None
    note: str = ""

    @property
    def ended(self) -> bool:
        """Whether all of the stage is done."""
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
    """A stage that does no rows: ``note`` says what it waits for."""
    return Progress(stage, 0, None, 0.0, None, note)


def no_progress(_: Progress) -> None:
    """For callers that do not listen."""


class Meter:
    """Counts the rows of one stage and reports after each step.

    ``total`` may be an estimate: when more rows come than were promised, it is unknown from then on. `end` says how
    many there were.
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

    def advance(self, rows: int, note: str = "") -> None:
        """``rows`` more are done. 0 is a sign of life; ``note`` says what is waited for."""
        self.done += rows
        rate = self.rate
        if self._total is not None and self.done > self._total:
            self._total = None
        left = (self._total - self.done) / rate if self._total is not None and rate > 0 else None
        self._on_progress(Progress(self._stage, self.done, self._total, rate, left, note))

    def end(self) -> None:
        """All rows have passed, however many were promised."""
        if self._total != self.done:
            self._total = self.done
            self.advance(0)

    def pause(self, seconds: float, why: str) -> None:
        """Sleep for ``seconds``, and report every few seconds why and for how long still."""
        while seconds > 0:
            if seconds > _WORTH_REPORTING_S:
                self.advance(0, f"{why}, {seconds:.0f} s left")
            step = min(seconds, _REPORT_PAUSE_EVERY_S)
            self._timing.sleep(step)
            seconds -= step
