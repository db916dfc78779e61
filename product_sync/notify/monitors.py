"""Calls the monitors after finished runs: the heartbeat, the metrics file and the push gateway.

Another monitor is a setting and a line in `_monitors`. (Another service for people needs no code: an Apprise URL.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from product_sync.notify import prometheus
from product_sync.notify.events import FinishedRun
from product_sync.notify.run_metrics import RunMetrics
from product_sync.runtime.bounded_calls import BoundedCalls, Call
from product_sync.settings import HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL, NotificationSettings

#: Seconds for all monitors together, at the same time as the alerts.
MONITOR_S = 10.0
#: Seconds for one socket operation of the heartbeat.
_TIMEOUT_S = 5.0
_CALLS = BoundedCalls[str]()


def _monitors(
    metrics: RunMetrics, runs: Sequence[FinishedRun], settings: NotificationSettings
) -> Iterator[tuple[str, Callable[[], str]]]:
    """The variable of each monitor, and its call, which returns what went wrong or an empty string."""
    heartbeat_url, path, push_url = settings.heartbeat_url, settings.metrics_file, settings.metrics_push_url
    if heartbeat_url and any(run.verified for run in runs):
        yield HEARTBEAT_URL, lambda: send_heartbeat(heartbeat_url)
    if path is not None:
        yield METRICS_FILE, lambda: prometheus.write_file(metrics, path)
    if push_url:
        yield METRICS_PUSH_URL, lambda: prometheus.push(metrics, push_url)


def send_heartbeat(url: str) -> str:
    """One GET to an outside monitor, which alarms when the calls stop. Returns what went wrong, without the URL, or an
    empty string."""
    request = Request(url, headers={"User-Agent": "product_sync"})  # noqa: S310 - http(s) only: `settings`
    try:
        with urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 - as above
            return ""
    except HTTPError as error:
        error.close()
        return f"{HEARTBEAT_URL} answered {error.code}."
    except (OSError, HTTPException, ValueError) as error:
        return f"{HEARTBEAT_URL} cannot be reached ({type(error).__name__})."


def call_monitors(
    metrics: RunMetrics, runs: Sequence[FinishedRun], settings: NotificationSettings, *, has_changed: bool = False
) -> dict[str, Call[str]]:
    """Start the calls in the background if there are runs, or if the metrics have changed without one. ``metrics`` must
    not change before the calls have ended."""
    due = _monitors(metrics, runs, settings) if runs or has_changed else ()
    return {name: _CALLS.start(name, call)[0] for name, call in due}


def problems(calls: Mapping[str, Call[str]], within_s: float) -> list[str]:
    """Wait at most ``within_s`` seconds and return what went wrong. A failed call is not repeated, because the next run
    has newer numbers."""
    BoundedCalls.wait(calls.values(), within_s)
    return [problem for name, call in calls.items() if (problem := _problem(name, call))]


def _problem(name: str, call: Call[str]) -> str:
    if call.is_running:
        return f"{name} has not answered after {call.seconds:.0f} seconds."
    error = call.future.exception()
    return call.future.result() if error is None else f"{name} failed: {type(error).__name__}."
