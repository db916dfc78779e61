"""Sends alerts, heartbeat and metrics for finished runs: alerts to people, the other two to monitors.

The daemon's sensor and the command line call the same function with the same ledger, so each run is announced once. A
channel that fails or hangs never fails the run, which has ended before, and delays nobody longer than its limit
(`delivery`). Knows no orchestrator.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from product_sync.notify import apprise
from product_sync.notify.alerts import AlertState, Level, QuietTimes, StatusUpdate
from product_sync.notify.channels import Channels
from product_sync.notify.delivery import DELIVERY_S, MONITOR_S, begin_monitors, deliver
from product_sync.notify.events import FinishedRun, status_updates
from product_sync.notify.run_metrics import RunMetrics
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.settings import ALERT_URLS, NotificationSettings

#: Ids kept to tell a run that was told from one whose record came late.
SEEN_RUNS = 500
HOW_TO_SET = f"Set {ALERT_URLS} to have alerts sent: docs/alerts.md."


@dataclass(slots=True)
class NotificationState:
    """What was told. ``told_until`` is when the newest run that was told ended, in seconds since 1970; ``seen`` are the
    ids of the runs told last."""

    told_until: float
    seen: list[str] = field(default_factory=list)
    book: AlertState = field(default_factory=AlertState)
    figures: RunMetrics = field(default_factory=RunMetrics)

    @classmethod
    def read(cls, text: str | None, now: float) -> NotificationState:
        """From ``text``, which `write` gave; where there is none, or one that this version cannot read, a new one that
        begins at ``now``: what failed long before is no news."""
        try:
            content: dict[str, Any] = json.loads(text or "")
            book, figures = AlertState.from_json(content["book"]), RunMetrics.from_json(content["figures"])
            # A run of a clock that was ahead ended in the future: no later run would be new until then.
            return cls(min(content["told_until"], now), content["seen"], book, figures)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(now)

    def write(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """``alerts`` were written in this round, ``waiting`` are not delivered to every address yet; ``problems`` say what
    keeps them."""

    alerts: int
    waiting: int
    problems: Sequence[str]
    has_addresses: bool

    def __str__(self) -> str:
        if not self.has_addresses:
            return f"{_count(self.alerts)} in the log. {HOW_TO_SET}"
        said = f"{_count(self.alerts)}, {self.waiting} waiting to be delivered."
        return " ".join([said, *self.problems])


def notify_of_runs(
    ledger: NotificationState,
    runs: Sequence[FinishedRun],
    channels: Channels | NotificationSettings,
    log: logging.Logger,
    *,
    news: Sequence[StatusUpdate] = (),
    timing: Timing = SYSTEM_TIMING,
    within_s: float = DELIVERY_S,
) -> DispatchResult:
    """Notify about ``runs``, the oldest first, about ``news``, and about what was held back or not delivered before.

    Returns after ``within_s`` seconds at the latest, whatever a channel hangs in.
    """
    settings = _settings(channels)
    for run in runs:
        if run.run_id is not None:
            ledger.seen = [*ledger.seen, run.run_id][-SEEN_RUNS:]
            ledger.told_until = max(ledger.told_until, run.ended_at)
    end = timing.monotonic() + within_s
    monitors = begin_monitors(ledger.figures, runs, settings)
    of_runs = [item for run in runs for item in status_updates(run, settings.ui_url)]
    told = send_updates(ledger.book, [*news, *of_runs], channels, log, timing=timing, within_s=within_s)
    for problem in monitors.problems(min(MONITOR_S, end - timing.monotonic())):
        log.warning("%s", problem)
    return told


def send_updates(
    book: AlertState,
    news: Iterable[StatusUpdate],
    channels: Channels | NotificationSettings,
    log: logging.Logger,
    *,
    timing: Timing = SYSTEM_TIMING,
    within_s: float = DELIVERY_S,
) -> DispatchResult:
    """Put what is due into the log and the outbox, and deliver the outbox as far as it goes."""
    settings = _settings(channels)
    written = book.take(news, timing.now().timestamp(), QuietTimes(settings.quiet_s, settings.warn_quiet_s))
    for message in written:
        log.log(_LOG_LEVELS[message.level], "%s\n%s", message.title, message.body)
    problems: list[str] = []
    if not settings.alert_urls:
        if written:
            log.warning(HOW_TO_SET)
        book.outbox.clear()
    elif book.outbox:
        found = apprise.addresses(settings.alert_urls)
        problems = [*found.problems, *deliver(book, found.usable, within_s)]
        if book.dropped:
            problems.append(f"{_count(book.dropped)} could not be delivered for too long and were given up.")
            book.dropped = 0
        for problem in problems:
            log.error("%s", problem)
    else:
        problems = list(apprise.addresses(settings.alert_urls).problems)
    return DispatchResult(len(written), len(book.outbox), problems, bool(settings.alert_urls))


_LOG_LEVELS = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


def _settings(channels: Channels | NotificationSettings) -> NotificationSettings:
    return channels.settings if isinstance(channels, Channels) else channels


def _count(number: int) -> str:
    return f"{number} {'alert' if number == 1 else 'alerts'}"
