"""Resolves the channels by which people and monitors are notified, each by itself, and says what is wrong with each.

A mistake in one channel must not silence another: the alert about the mistake goes out through those that are right.
A sync refuses such a mistake before it reads anything, `doctor` shows it, the daemon's sensors send an alert about it:
all of them ask here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from product_sync.errors import ConfigurationError
from product_sync.notify import apprise, prometheus
from product_sync.notify.alerts import AlertState, Level, StatusUpdate
from product_sync.notify.apprise import Address
from product_sync.runtime.bounded_calls import BoundedCalls
from product_sync.settings import (
    ALERT_QUIET,
    ALERT_URLS,
    ALERT_WARN_QUIET,
    HEARTBEAT_URL,
    METRICS_FILE,
    METRICS_PUSH_URL,
    REPORTS_URL,
    UI_URL,
    NotificationSettings,
    ReportSettings,
)

#: Every variable of a channel, and those of the links that it sends.
VARIABLES = (
    ALERT_URLS, ALERT_QUIET, ALERT_WARN_QUIET, UI_URL, REPORTS_URL, HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL
)  # fmt: skip
#: Seconds for a trial of the metrics file. A file system that hangs is no mistake in the variable.
_TRIAL_S = 3.0
_FORMS = "The forms are listed in Apprise's documentation: https://github.com/caronc/apprise/wiki"

_TRIALS = BoundedCalls[str]()


@dataclass(frozen=True, slots=True)
class Channels:
    """``settings`` has what can be used, defaults for the rest; ``mistakes`` say what is wrong, by variable.

    Of the alert URLs ``settings`` keeps those too that Apprise does not accept; ``usable`` are the others.
    """

    settings: NotificationSettings
    mistakes: Mapping[str, ConfigurationError] = field(default_factory=dict)
    usable: tuple[Address, ...] = ()

    def require(self) -> None:
        """Raises one `ConfigurationError` that names every mistake; it holds no URL."""
        if self.mistakes:
            first, *others = self.mistakes.values()
            raise ConfigurationError(" ".join([first.message, *map(str, others)]), hint=first.hint)

    def news(self, book: AlertState, now: float) -> Iterator[StatusUpdate]:
        """The mistakes that ``book`` does not know yet, and those that are mended. ``now`` is in seconds since 1970.

        Settings are looked at every few seconds, so a mistake that stays is no news, however short the quiet time."""
        for name in VARIABLES:
            subject, mistake = f"setting/{name}", self.mistakes.get(name)
            known = book.subjects.get(subject)
            if (known is not None and known.level is Level.ERROR) != (mistake is not None):
                level = Level.ERROR if mistake else Level.OK
                yield StatusUpdate(subject, f"the setting {name}", level, now, str(mistake or ""))


def resolve_channels(env: Mapping[str, str], *, writes_metrics: bool | None = None) -> Channels:
    """What ``env`` says. Imports Apprise if there are alert URLs; opens no connection.

    ``writes_metrics`` says whether this process writes the metrics file, which is then tried. With DAGSTER_HOME the
    code location writes it, else every command.
    """
    if writes_metrics is None:
        writes_metrics = not env.get("DAGSTER_HOME")
    settings, mistakes = NotificationSettings.each_by_itself(env)
    try:
        ReportSettings.from_environment({REPORTS_URL: env.get(REPORTS_URL, "")})
    except ConfigurationError as error:
        mistakes[REPORTS_URL] = error
    found = apprise.addresses(settings.alert_urls)
    if found.problems:
        mistakes[ALERT_URLS] = ConfigurationError(" ".join(found.problems), hint=_FORMS)
    if writes_metrics and (why := _why_not_writable(settings)):
        mistakes[METRICS_FILE] = ConfigurationError(
            f"{METRICS_FILE} is {str(settings.metrics_file)!r}, which cannot be written: {why}.",
            hint="Expected: a file in a folder that this user can write to.",
        )
        settings = replace(settings, metrics_file=None)
    return Channels(settings, mistakes, found.usable)


def require_channels(env: Mapping[str, str]) -> None:
    """Refuse a mistake in any channel, before anything is read. Raises `ConfigurationError`."""
    resolve_channels(env).require()


def _why_not_writable(settings: NotificationSettings) -> str:
    path = settings.metrics_file
    if path is None:
        return ""
    trial, _ = _TRIALS.start(str(path), lambda: prometheus.why_not_writable(path))
    _TRIALS.wait([trial], _TRIAL_S)
    return "" if trial.is_running else trial.future.result()
