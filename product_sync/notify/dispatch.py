"""Sends alerts, heartbeat and metrics for finished runs: alerts to people, the other two to monitors.

The daemon's sensor and the command line call the same function with a state of the same kind, so each run is notified
once. A channel that fails or hangs never fails the run, which has already ended. Knows no orchestrator.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from product_sync.notify import monitors
from product_sync.notify.alerts import AlertState, Level, QuietTimes, StatusUpdate, read_state
from product_sync.notify.apprise import parse_alert_urls
from product_sync.notify.delivery import DELIVERY_S, deliver
from product_sync.notify.events import FinishedRun, status_updates
from product_sync.notify.run_metrics import RunMetrics
from product_sync.settings import ALERT_URLS, NotificationSettings

#: Ids of runs that are kept, to recognise a run whose record came late.
SEEN_RUNS = 500
_HOW_TO_SET = f"Set {ALERT_URLS} to have alerts sent: docs/alerts.md."
_LOG_LEVELS = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(slots=True)
class NotificationState:
    """``notified_until`` is the end of the newest notified run, in seconds since 1970; ``seen`` has the ids of the
    runs that were notified last."""

    notified_until: float
    seen: list[str] = field(default_factory=list)
    alerts: AlertState = field(default_factory=AlertState)
    metrics: RunMetrics = field(default_factory=RunMetrics)

    @classmethod
    def read(cls, text: str | None, now: float) -> NotificationState:
        """A missing text, or one of another version, gives a new state that starts at ``now``, so that nobody is
        notified of old failures."""
        state = read_state(cls(now), text)
        # A time in the future comes from a clock that was ahead. Without this, no run would be new until then.
        state.notified_until = min(state.notified_until, now)
        return state

    def count(self, runs: Iterable[FinishedRun]) -> None:
        """Note these runs as notified, the oldest first."""
        for run in runs:
            self.metrics.add(run)
            if run.run_id is not None:
                self.seen = [*self.seen, run.run_id][-SEEN_RUNS:]
                self.notified_until = max(self.notified_until, run.ended_at)

    def repeat(
        self,
        notified: NotificationState,
        runs: Sequence[FinishedRun],
        updates: Sequence[StatusUpdate],
        settings: NotificationSettings,
    ) -> None:
        """Add the result of `notify_of_runs` with another state, ``notified``: what it has sent is not sent again."""
        self.count(runs)
        sent = self.alerts.add(_updates(runs, updates, settings), time.time(), _quiet_times(settings))
        known = [(message.title, message.at) for message in self.alerts.outbox]
        waiting = [each for each in notified.alerts.outbox if (each.title, each.at) not in known]
        self.alerts.outbox = [each for each in self.alerts.outbox if each not in sent] + waiting


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """``alerts`` counts the messages of this round, ``waiting`` those that not every alert URL has accepted yet."""

    alerts: int
    waiting: int
    problems: Sequence[str]
    has_alert_urls: bool

    def __str__(self) -> str:
        if not self.has_alert_urls:
            return f"{_count(self.alerts)} in the log. {_HOW_TO_SET}"
        return " ".join([f"{_count(self.alerts)}, {self.waiting} waiting to be delivered.", *self.problems])


def notify_of_runs(
    state: NotificationState,
    runs: Sequence[FinishedRun],
    settings: NotificationSettings,
    log: logging.Logger,
    *,
    updates: Sequence[StatusUpdate] = (),
    has_followed: bool = False,
    within_s: float = DELIVERY_S,
) -> DispatchResult:
    """Notify people and monitors of ``runs``, the oldest first, and of ``updates``; deliver what is still waiting.
    ``has_followed`` says that the metrics have changed without a run. Returns after ``within_s`` seconds at the
    latest."""
    end = time.monotonic() + within_s
    state.count(runs)
    calls = monitors.call_monitors(state.metrics, runs, settings, has_changed=has_followed)
    result = send_updates(state.alerts, _updates(runs, updates, settings), settings, log, within_s)
    for problem in monitors.problems(calls, min(monitors.MONITOR_S, end - time.monotonic())):
        log.warning("%s", problem)
    return result


def send_updates(
    state: AlertState,
    updates: Iterable[StatusUpdate],
    settings: NotificationSettings,
    log: logging.Logger,
    within_s: float = DELIVERY_S,
) -> DispatchResult:
    """Put the messages that are due into the log and the outbox, and deliver the outbox."""
    messages = state.add(updates, time.time(), _quiet_times(settings))
    for message in messages:
        log.log(_LOG_LEVELS[message.level], "%s\n%s", message.title, message.body)
    problems: list[str] = []
    if not settings.alert_urls:
        if messages:
            log.warning(_HOW_TO_SET)
        state.outbox.clear()
    else:
        urls, mistakes = parse_alert_urls(settings.alert_urls)
        problems += mistakes
        if state.outbox:
            problems += deliver(state, urls, within_s)
            if state.dropped:
                problems.append(f"{_count(state.dropped)} could not be delivered for too long and were dropped.")
                state.dropped = 0
            for problem in problems:
                log.error("%s", problem)
    return DispatchResult(len(messages), len(state.outbox), problems, bool(settings.alert_urls))


def _updates(
    runs: Iterable[FinishedRun], updates: Iterable[StatusUpdate], settings: NotificationSettings
) -> list[StatusUpdate]:
    return [*updates, *(update for run in runs for update in status_updates(run, settings.ui_url))]


def _quiet_times(settings: NotificationSettings) -> QuietTimes:
    return QuietTimes(60 * settings.quiet_minutes, 60 * settings.warn_quiet_minutes)


def _count(number: int) -> str:
    return f"{number} {'alert' if number == 1 else 'alerts'}"
