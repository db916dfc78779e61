"""Reads the settings of all notification channels, each by itself, and says what is wrong with each.

A mistake in one channel must not silence another: the alert about the mistake goes out through the others. A sync
refuses such a mistake before it reads anything, `doctor` shows it, and the daemon's sensors send an alert about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from product_sync.errors import ConfigurationError
from product_sync.notify import prometheus
from product_sync.notify.alerts import AlertState, Level, StatusUpdate
from product_sync.notify.apprise import AlertUrl, parse_alert_urls
from product_sync.runtime.bounded_calls import BoundedCalls
from product_sync.settings import ALERT_URLS, METRICS_FILE, NotificationSettings

#: Seconds to try the metrics file. A file system that hangs is no mistake in the variable.
_TRIAL_S = 3.0
_FORMS = "The forms are listed in Apprise's documentation: https://github.com/caronc/apprise/wiki"

_TRIALS = BoundedCalls[str]()


@dataclass(frozen=True, slots=True)
class Channels:
    """``settings`` has the usable values, and defaults for the others; ``mistakes`` say what is wrong, by variable.
    ``settings`` still holds the alert URLs that Apprise does not know; ``alert_urls`` are the others."""

    settings: NotificationSettings
    mistakes: Mapping[str, ConfigurationError]
    alert_urls: tuple[AlertUrl, ...]

    def updates(self, state: AlertState, now: float) -> Iterator[StatusUpdate]:
        """The mistakes that ``state`` does not know yet, and corrected ones. ``now`` is in seconds since 1970. Settings
        are read every few seconds, so a lasting mistake must not count as a new failure each time."""
        for name in (each.variable for each in NotificationSettings.each().values()):
            subject, mistake = f"setting/{name}", self.mistakes.get(name)
            known = state.subjects.get(subject)
            if (known is not None and known.level is Level.ERROR) != (mistake is not None):
                level = Level.ERROR if mistake else Level.OK
                yield StatusUpdate(subject, f"the setting {name}", level, now, str(mistake or ""))


def resolve_channels(env: Mapping[str, str], *, writes_metrics: bool | None = None) -> Channels:
    """Read the settings in ``env``. Imports Apprise if there are alert URLs; opens no connection. ``writes_metrics``
    says whether this process writes the metrics file, which is then tried. With DAGSTER_HOME the code location writes
    it, otherwise every command."""
    if writes_metrics is None:
        writes_metrics = not env.get("DAGSTER_HOME")
    settings, mistakes = NotificationSettings.with_mistakes(env)
    alert_urls, problems = parse_alert_urls(settings.alert_urls)
    if problems:
        mistakes[ALERT_URLS] = ConfigurationError(" ".join(problems), hint=_FORMS)
    if writes_metrics and (why := _why_not_writable(settings)):
        mistakes[METRICS_FILE] = ConfigurationError(
            f"{METRICS_FILE} is {str(settings.metrics_file)!r}, which cannot be written: {why}.",
            hint="Expected: a file in a folder that this user can write to.",
        )
        settings = settings.model_copy(update={"metrics_file": None})
    return Channels(settings, mistakes, alert_urls)


def require_channels(env: Mapping[str, str]) -> None:
    """Raises one `ConfigurationError` that names every mistake and holds no URL, before anything is read."""
    if mistakes := resolve_channels(env).mistakes:
        first, *others = mistakes.values()
        raise ConfigurationError(" ".join([first.message, *map(str, others)]), hint=first.hint)


def _why_not_writable(settings: NotificationSettings) -> str:
    path = settings.metrics_file
    if path is None:
        return ""
    trial, _ = _TRIALS.start(str(path), lambda: prometheus.why_not_writable(path))
    _TRIALS.wait([trial], _TRIAL_S)
    return "" if trial.is_running else trial.future.result()
