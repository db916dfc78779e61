"""Sizes batches by the time that they take, rests as long as it works, and gives way to the target's users.

`FixedPacing` is as slow on an idle server as on a busy one. This policy goes by what it sees: a batch has as many rows
as take ``target_s``, and the target rests for as long as keeps the load at ``max_duty`` of the time. After each batch
it looks at the target; while that shows pressure, every look halves the share of the time that the load takes, and
every look without pressure doubles it again. It never stops: a load always comes to its end (design section 5).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from product_sync.errors import ConfigurationError
from product_sync.load.pacing import DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE, checked_batch_size
from product_sync.runtime.clock import Timing
from product_sync.schema.ports import PressureProbe, Signals

_LOGGER = logging.getLogger(__name__)

#: Measured (docs/decisions/0030): with batches of 0.25 s at half of the time the worst per cent of point reads took
#: eight times as long. What a shopper feels is the length of a batch, so they are short, and how many shoppers feel it
#: is the share, so it is small.
DEFAULT_TARGET_S: Final = 0.006
DEFAULT_MAX_DUTY: Final = 0.03

#: What the last batch counts against all earlier ones together: one odd batch does not decide, three do.
_WEIGHT: Final = 0.5
#: A batch is at most this much larger than the one before. Sizes fall at once.
_GROWTH: Final = 4
#: Fewer rows would cost more in commits than they save in locks.
_SMALLEST: Final = 10
#: Seconds. No rest is longer: the end of the pressure would be noticed too late.
_LONGEST_REST_S: Final = 10.0
#: Seconds between two looks: while batches are still small the looks would be the load.
_LOOK_EVERY_S: Final = 0.2
#: How often the share of the time is halved at most: 3 % become 0.2 %.
_DEEPEST: Final = 4

#: A round trip counts as slow from this multiple of the calm one on, and from that many seconds more on.
_SLOW_TIMES: Final = 3.0
_SLOW_MORE_S: Final = 0.005
#: So many statements at once more than at the calmest look, and twice as many, are a rush.
_MORE_SESSIONS: Final = 8
#: Seconds that a replica may lag behind.
_LAG_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class AdaptiveSettings:
    """``target_s`` seconds that the target should work on a batch; ``max_duty``, the share of the time that it works
    for the load at most; ``first_rows`` of the first batch, whose cost nobody knows."""

    target_s: float = DEFAULT_TARGET_S
    max_duty: float = DEFAULT_MAX_DUTY
    first_rows: int = DEFAULT_BATCH_SIZE

    def __post_init__(self) -> None:
        checked_batch_size(self.first_rows)
        if not 0 < self.target_s <= 60:
            raise ConfigurationError(f"target_batch_s is {self.target_s}, but a batch takes more than 0 to 60 seconds.")
        if not 0 < self.max_duty <= 1:
            raise ConfigurationError(f"max_duty is {self.max_duty}, but it is a share: more than 0, at most 1.")

    @property
    def rest_s(self) -> float:
        """Seconds that a calm target rests after a batch of ``target_s``."""
        return _rest_s(self.target_s, self.max_duty)


class AdaptivePacing:
    """`core.pacing.Pacing` that learns from what batches cost, and from ``probe`` what else the target has to bear.

    Without a probe (a dry run's estimate) it goes by the cost of the batches alone.
    """

    def __init__(
        self,
        settings: AdaptiveSettings,
        probe: PressureProbe | None,
        timing: Timing,
        *,
        logger: logging.Logger = _LOGGER,
    ) -> None:
        self._settings = settings
        self._probe = probe
        self._timing = timing
        self._logger = logger
        self._rows = settings.first_rows
        self._cost = _Mean()
        self._rest_s = 0.0
        self._throttled = 0
        self._judge = _Judge()
        self._looked_at: float | None = None
        self._told: tuple[str, ...] | None = None
        self._unseen: tuple[str, ...] | None = None
        self._look()

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
        self._look()
        self._rest_s = max(min(_rest_s(seconds, self.duty), _LONGEST_REST_S) - rested_s, 0.0)
        self._rows = self._sized(rows)

    def _sized(self, last_rows: int) -> int:
        """Rows of the next batch. Under pressure batches are shorter too, down to an eighth: their locks are."""
        target_s = self._settings.target_s * 0.5 ** min(self._throttled, 3)
        # The last batch of a file, or of rows that were refused before, has fewer rows than were asked for.
        ceiling = max(last_rows, self._rows) * _GROWTH
        return min(max(self._cost.rows_in(target_s), _SMALLEST), ceiling)

    def _look(self) -> None:
        now = self._timing.monotonic()
        if self._probe is None or (self._looked_at is not None and now - self._looked_at < _LOOK_EVERY_S):
            return
        self._looked_at = now
        signals = self._probe.measure()
        self._tell_unseen(signals.unseen)
        reasons = self._judge.pressure(signals)
        before = self._throttled
        self._throttled = min(before + 1, _DEEPEST) if reasons else max(before - 1, 0)
        self._tell(reasons, before)

    def _tell(self, reasons: dict[str, str], before: int) -> None:
        """Say why it throttles when it begins to or the reason becomes another one, and when it is over."""
        kinds = tuple(reasons)
        if reasons and kinds != self._told:
            self._logger.warning(
                "The load gives way to the target's users, down to %.3g %% of the time: %s.",
                100 * self.duty,
                "; ".join(reasons.values()),
            )
            self._told = kinds
        elif not reasons and before and not self._throttled:
            self._logger.warning("The target is calm again: the load takes %.3g %% of the time.", 100 * self.duty)
            self._told = None

    def _tell_unseen(self, unseen: tuple[str, ...]) -> None:
        if unseen and unseen != self._unseen:
            self._logger.info("Adaptive pacing cannot see: %s.", "; ".join(unseen))
        self._unseen = unseen


def _rest_s(worked_s: float, duty: float) -> float:
    """How long to rest after ``worked_s`` seconds, so that the work takes the share ``duty`` of the time."""
    return worked_s * (1 - duty) / duty


class _Mean:
    """Seconds per row over the last few batches, each weighted by its rows as well as by its age: a batch of a few
    rows is dear by the row and says little."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self._rows = self._rows * _WEIGHT + rows
        self._seconds = self._seconds * _WEIGHT + seconds

    def rows_in(self, seconds: float) -> int:
        """How many rows take ``seconds``, at most as many as a batch may have."""
        return int(min(seconds * self._rows / self._seconds, MAX_BATCH_SIZE)) if self._seconds else MAX_BATCH_SIZE


class _Judge:
    """What is pressure, measured against the calmest that this target has been since the load began."""

    def __init__(self) -> None:
        self._calm_latency_s: float | None = None
        self._calm_sessions: int | None = None
        self._latency_s: float | None = None
        self._waited = False

    def pressure(self, signals: Signals) -> dict[str, str]:
        """Why to throttle, by the signal that says so; empty on a calm target."""
        found = {
            "latency": self._slow(signals.latency_s),
            "lock waits": self._waits(signals.lock_waits),
            "sessions": self._rush(signals.active_sessions),
            "replica lag": _lags(signals.replica_lag_s),
        }
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
        """A wait at one look may be gone at the next: short ones belong to a busy database."""
        if waiting is None:
            return ""
        waited, self._waited = self._waited, waiting > 0
        if not (waited and self._waited):
            return ""
        return f"{waiting} {'session waits' if waiting == 1 else 'sessions wait'} for a lock"

    def _rush(self, active: int | None) -> str:
        if active is None:
            return ""
        calm = self._calm_sessions = active if self._calm_sessions is None else min(active, self._calm_sessions)
        if active < max(2 * calm, calm + _MORE_SESSIONS):
            return ""
        return f"{active} sessions are active, {calm} when it is calm"


def _lags(lag_s: float | None) -> str:
    return f"a replica lags {lag_s:.0f} s behind" if lag_s is not None and lag_s > _LAG_S else ""
