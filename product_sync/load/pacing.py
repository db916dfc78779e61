"""Decides how large a batch is, and how long the target rests after it.

The load asks before each batch and reports its cost afterwards, so that a policy can adapt. `FixedPacing` is as slow on
an idle server as on a busy one. With `AdaptivePacing` a batch has as many rows as take ``target_s``, and the pauses
limit the load to the share ``max_duty`` of the time. After a batch the pressure on the target is measured: each
measurement with pressure halves the share, each one without doubles it again. The load never stops (design section 5).
"""

import logging
from dataclasses import dataclass
from typing import Final

from product_sync.runtime.clock import Timing
from product_sync.schema.ports import PressureProbe, Signals

_LOGGER = logging.getLogger(__name__)

#: The defaults of the options of a run, which have the bounds (`product_sync.settings`).
DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 100, 100_000
DEFAULT_PAUSE_MS = 100
#: Measured (docs/decisions/0030): with batches of 0.25 s and a share of half the time, the slowest per cent of point
#: reads took eight times as long. The length of a batch decides how long a reader waits, so batches are short; the
#: share decides how many readers wait, so it is small.
DEFAULT_TARGET_S = 0.006
DEFAULT_MAX_DUTY = 0.03

#: The weight of the last batch against all earlier ones: one unusual batch does not decide, three do.
_WEIGHT: Final = 0.5
#: A batch is at most this many times as large as the one before. Sizes fall at once.
_GROWTH: Final = 4
#: Smaller batches would cost more for commits than they save in locks.
_SMALLEST: Final = 10
#: The longest pause in seconds: after a longer one the end of the pressure would be noticed too late.
_LONGEST_REST_S: Final = 10.0
#: Seconds between two measurements: while batches are small, measuring would cost more than writing.
_MEASURE_EVERY_S: Final = 0.2
#: How often the share is halved at most: 3 % become 0.2 %.
_DEEPEST: Final = 4

#: A round trip is slow if it takes this many times as long as the calm one, and this many seconds more.
_SLOW_TIMES: Final = 3.0
_SLOW_MORE_S: Final = 0.005
#: The target is crowded with twice as many active sessions as in the calmest measurement, and this many more.
_MORE_SESSIONS: Final = 8
#: Seconds that a replica may lag behind.
_LAG_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class FixedPacing:
    """The default: the same size and pause for all batches (design section 5). ``pause_ms`` is in milliseconds."""

    rows: int = DEFAULT_BATCH_SIZE
    pause_ms: int = DEFAULT_PAUSE_MS

    @property
    def pausing(self) -> bool:
        """Whether the target may rest between batches; if not, the next batch is prepared while one is written. It does
        not change during a load."""
        return self.pause_ms > 0

    def batch_size(self) -> int:
        """The most rows that the next batch may have."""
        return self.rows

    def pause_s(self) -> float:
        """Seconds to rest before the next batch."""
        return self.pause_ms / 1000

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        """Is told of a batch of ``rows`` rows. The target worked on it for ``seconds``, retries included, and rested
        for ``rested_s``: while the source was asked, before a retry, and until the batch was on the disk."""


@dataclass(frozen=True, slots=True)
class AdaptiveSettings:
    """``target_s``: seconds that the target should work on a batch. ``max_duty``: the largest share of the time that it
    works for the load. ``first_rows``: rows of the first batch, whose cost is not known."""

    target_s: float = DEFAULT_TARGET_S
    max_duty: float = DEFAULT_MAX_DUTY
    first_rows: int = DEFAULT_BATCH_SIZE

    @property
    def rest_s(self) -> float:
        """The pause after a batch of ``target_s`` on a calm target, in seconds."""
        return _rest_s(self.target_s, self.max_duty)


class AdaptivePacing:
    """Adapts to the cost of batches, and to the pressure that ``probe`` measures. Without a probe (in the estimate of a
    dry run) it adapts to the cost of batches only. The methods are those of `FixedPacing`."""

    def __init__(self, settings: AdaptiveSettings, probe: PressureProbe | None, timing: Timing) -> None:
        self._settings = settings
        self._probe = probe
        self._timing = timing
        self._rows = settings.first_rows
        self._cost = _Mean()
        self._rest_s = 0.0
        self._throttled = 0
        self._judge = _PressureJudge()
        self._measured_at: float | None = None
        self._reported: tuple[str, ...] | None = None
        self._unseen: tuple[str, ...] | None = None
        self._measure()

    @property
    def duty(self) -> float:
        """The share of the time that the load takes now."""
        return float(self._settings.max_duty * 0.5**self._throttled)

    @property
    def pausing(self) -> bool:
        return True

    def batch_size(self) -> int:
        return self._rows

    def pause_s(self) -> float:
        return self._rest_s

    def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
        self._cost.add(rows, seconds)
        self._measure()
        self._rest_s = max(min(_rest_s(seconds, self.duty), _LONGEST_REST_S) - rested_s, 0.0)
        self._rows = self._sized(rows)

    def _sized(self, last_rows: int) -> int:
        """Rows of the next batch. Under pressure batches are shorter, down to an eighth, so that locks are shorter."""
        target_s = self._settings.target_s * 0.5 ** min(self._throttled, 3)
        # The last batch of a file, or of rows that were refused before, has fewer rows than it may have.
        ceiling = max(last_rows, self._rows) * _GROWTH
        return min(max(self._cost.rows_in(target_s), _SMALLEST), ceiling)

    def _measure(self) -> None:
        now = self._timing.monotonic()
        if self._probe is None or (self._measured_at is not None and now - self._measured_at < _MEASURE_EVERY_S):
            return
        self._measured_at = now
        signals = self._probe.measure()
        if signals.unseen and signals.unseen != self._unseen:
            _LOGGER.info("Adaptive pacing cannot see: %s.", "; ".join(signals.unseen))
        self._unseen = signals.unseen
        reasons = self._judge.pressure(signals)
        before = self._throttled
        self._throttled = min(before + 1, _DEEPEST) if reasons else max(before - 1, 0)
        self._log(reasons, before)

    def _log(self, reasons: dict[str, str], before: int) -> None:
        """Logs why it throttles, when it begins to or when the reason changes, and when it ends."""
        kinds = tuple(reasons)
        if reasons and kinds != self._reported:
            _LOGGER.warning(
                "The load gives way to the target's users, down to %.3g %% of the time: %s.",
                100 * self.duty,
                "; ".join(reasons.values()),
            )
            self._reported = kinds
        elif not reasons and before and not self._throttled:
            _LOGGER.warning("The target is calm again: the load takes %.3g %% of the time.", 100 * self.duty)
            self._reported = None


Pacing = FixedPacing | AdaptivePacing


def _rest_s(worked_s: float, duty: float) -> float:
    """The pause after ``worked_s`` seconds of work, so that the work takes the share ``duty`` of the time."""
    return worked_s * (1 - duty) / duty


@dataclass
class _Mean:
    """Seconds per row over the last few batches, each weighted by its rows and by its age: a batch of a few rows costs
    more per row and says little."""

    _rows: float = 0.0
    _seconds: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self._rows = self._rows * _WEIGHT + rows
        self._seconds = self._seconds * _WEIGHT + seconds

    def rows_in(self, seconds: float) -> int:
        """How many rows take ``seconds``, at most `MAX_BATCH_SIZE`."""
        return int(min(seconds * self._rows / self._seconds, MAX_BATCH_SIZE)) if self._seconds else MAX_BATCH_SIZE


@dataclass
class _PressureJudge:
    """Decides what is pressure, compared with the calmest measurement since the load began."""

    _calm_latency_s: float | None = None
    _calm_sessions: int | None = None
    _latency_s: float | None = None
    _waited: bool = False

    def pressure(self, signals: Signals) -> dict[str, str]:
        """The reasons to throttle, by signal; empty on a calm target."""
        found = {
            "latency": self._slow(signals.latency_s),
            "lock waits": self._waits(signals.lock_waits),
            "sessions": self._crowded(signals.active_sessions),
        }
        if (lag_s := signals.replica_lag_s) is not None and lag_s > _LAG_S:
            found["replica lag"] = f"a replica lags {lag_s:.0f} s behind"
        return {name: reason for name, reason in found.items() if reason}

    def _slow(self, seen_s: float | None) -> str:
        if seen_s is None:
            return ""
        before_s = seen_s if self._latency_s is None else self._latency_s
        latency_s = self._latency_s = before_s + (seen_s - before_s) * _WEIGHT
        calm_s = self._calm_latency_s = min(latency_s, self._calm_latency_s or latency_s)
        if latency_s < max(_SLOW_TIMES * calm_s, calm_s + _SLOW_MORE_S):
            return ""
        return f"a round trip takes {1000 * latency_s:.1f} ms, {1000 * calm_s:.1f} ms when it is calm"

    def _waits(self, waiting: int | None) -> str:
        """Short waits are normal on a busy database: only a wait in two measurements in a row counts."""
        if waiting is None:
            return ""
        waited, self._waited = self._waited, waiting > 0
        if not (waited and self._waited):
            return ""
        return f"{waiting} {'session waits' if waiting == 1 else 'sessions wait'} for a lock"

    def _crowded(self, active: int | None) -> str:
        if active is None:
            return ""
        calm = self._calm_sessions = active if self._calm_sessions is None else min(active, self._calm_sessions)
        if active < max(2 * calm, calm + _MORE_SESSIONS):
            return ""
        return f"{active} sessions are active, {calm} when it is calm"
