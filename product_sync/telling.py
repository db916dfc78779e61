"""Tells the world what runs came to: people by alerts, monitors by a heartbeat and metrics.

The daemon's sensor and the command line call the same function with the same ledger, each run is told once, and a
failure to tell never reaches the run: it is over when it is told. Knows no orchestrator.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from product_sync.adapters import heartbeat, metrics, notifier
from product_sync.adapters.notifier import Address
from product_sync.core.alerts import Book, Level, Message, News, QuietTimes
from product_sync.core.figures import Figures
from product_sync.core.outcomes import FinishedRun, news_of
from product_sync.core.timing import SYSTEM_TIMING, Timing
from product_sync.settings import ALERT_URLS, TellingSettings

#: Ids kept to tell a run that was told from one whose record came late.
SEEN_RUNS = 500
#: Seconds for deliveries of one round; Dagster ends a sensor's evaluation after a minute.
DELIVERY_S = 20.0
HOW_TO_SET = f"Set {ALERT_URLS} to have alerts sent: docs/alerts.md."


@dataclass(slots=True)
class Ledger:
    """What was told. ``told_until`` is when the newest run that was told ended, in seconds since 1970; ``seen`` are the
    ids of the runs told last."""

    told_until: float
    seen: list[str] = field(default_factory=list)
    book: Book = field(default_factory=Book)
    figures: Figures = field(default_factory=Figures)

    @classmethod
    def read(cls, text: str | None, now: float) -> Ledger:
        """From ``text``, which `write` gave; where there is none, or one that this version cannot read, a new one that
        begins at ``now``: what failed long before is no news."""
        try:
            content: dict[str, Any] = json.loads(text or "")
            book, figures = Book.from_json(content["book"]), Figures.from_json(content["figures"])
            return cls(content["told_until"], content["seen"], book, figures)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(now)

    def write(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Told:
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


def tell_runs(
    ledger: Ledger,
    runs: Sequence[FinishedRun],
    settings: TellingSettings,
    log: logging.Logger,
    *,
    timing: Timing = SYSTEM_TIMING,
) -> Told:
    """Tell of ``runs``, the oldest first, and of what was held back or could not be delivered before."""
    for run in runs:
        if run.run_id is not None:
            ledger.seen = [*ledger.seen, run.run_id][-SEEN_RUNS:]
            ledger.told_until = max(ledger.told_until, run.ended_at)
    for problem in _tell_monitors(ledger.figures, runs, settings):
        log.warning("%s", problem)
    news = [item for run in runs for item in news_of(run, settings.ui_url)]
    return tell_news(ledger.book, news, settings, log, timing=timing)


def _tell_monitors(figures: Figures, runs: Sequence[FinishedRun], settings: TellingSettings) -> list[str]:
    """Call the heartbeat and hand over the metrics; returns what went wrong. Neither is tried again: what it would tell
    is older then than what the next run tells."""
    if not runs:
        return []
    for run in runs:
        figures.take(run)
    return [
        problem
        for problem in (
            settings.heartbeat_url and any(run.verified for run in runs) and heartbeat.beat(settings.heartbeat_url),
            settings.metrics_file and metrics.write_file(figures, settings.metrics_file),
            settings.metrics_push_url and metrics.push(figures, settings.metrics_push_url),
        )
        if problem
    ]


def tell_news(
    book: Book, news: Iterable[News], settings: TellingSettings, log: logging.Logger, *, timing: Timing = SYSTEM_TIMING
) -> Told:
    """Put what is due into the log and the outbox, and deliver the outbox as far as it goes."""
    written = book.take(news, timing.now().timestamp(), QuietTimes(settings.quiet_s, settings.warn_quiet_s))
    for message in written:
        log.log(_LOG_LEVELS[message.level], "%s\n%s", message.title, message.body)
    problems: list[str] = []
    if not settings.alert_urls:
        if written:
            log.warning(HOW_TO_SET)
        book.outbox.clear()
    elif book.outbox:
        found = notifier.addresses(settings.alert_urls)
        problems = [*found.problems, *_deliver(book, found.usable, timing)]
        if book.dropped:
            problems.append(f"{_count(book.dropped)} could not be delivered for too long and were given up.")
            book.dropped = 0
        for problem in problems:
            log.error("%s", problem)
    else:
        problems = list(notifier.addresses(settings.alert_urls).problems)
    return Told(len(written), len(book.outbox), problems, bool(settings.alert_urls))


_LOG_LEVELS = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}


def _deliver(book: Book, usable: Sequence[Address], timing: Timing) -> list[str]:
    """Send every message of the outbox to the addresses that have not taken it; returns what went wrong.

    The oldest first. An address that fails is left alone until the next round.
    """
    by_key = {address.key: address for address in usable}
    failed: dict[str, str] = {}
    end = timing.monotonic() + DELIVERY_S
    for message in book.outbox:
        _address(message, by_key.keys())
        for key in message.pending or ():
            if key in failed or timing.monotonic() >= end:
                continue
            if why := by_key[key].send(message):
                failed[key] = f"{by_key[key].name} did not take an alert: {why}. It is tried again."
            else:
                message.delivered = True
                message.pending = [other for other in message.pending or () if other != key]
    book.outbox = [message for message in book.outbox if message.pending or not message.delivered]
    return list(failed.values())


def _address(message: Message, keys: Iterable[str]) -> None:
    """Who still has to get the message, of the addresses there are now: all, until one of them has taken it."""
    pending = set(message.pending or ())
    still = [key for key in keys if key in pending]
    message.pending = still if still or message.delivered else list(keys)


def _count(number: int) -> str:
    return f"{number} {'alert' if number == 1 else 'alerts'}"
