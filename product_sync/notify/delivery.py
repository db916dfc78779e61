"""Delivers alerts, heartbeat and metrics: every channel at the same time, each within its limit.

A channel that is slow, in whatever way, must delay neither the other channels nor the caller. So each has a thread of
its own (`bounded_calls`). A delivery that is still under way when the caller stops waiting is not given up: if it
succeeds later, in a process that lives on, the next round knows and does not send that message twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from product_sync.notify import heartbeat, prometheus
from product_sync.notify.alerts import AlertState, Message
from product_sync.notify.apprise import Address
from product_sync.notify.events import FinishedRun
from product_sync.notify.run_metrics import RunMetrics
from product_sync.runtime.bounded_calls import BoundedCalls, Call
from product_sync.settings import HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL, NotificationSettings

#: Seconds for the alerts of one round; Dagster ends a sensor's evaluation after a minute.
DELIVERY_S = 20.0
#: Seconds for the heartbeat, the metrics file and the push gateway, at the same time as the alerts.
MONITOR_S = 10.0

#: What tells one message from another.
_Identity = tuple[str, str, float]


@dataclass(slots=True)
class _Delivery:
    """The messages that one address is sent, in their order, by a thread of its own. ``taken`` grows as it goes."""

    address: Address
    messages: Sequence[Message]
    taken: list[_Identity] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> str:
        """Returns why the address took no further message, or an empty string."""
        for message in self.messages:
            if self.stop.is_set():
                break
            if why := self.address.send(message):
                return why
            self.taken.append(_identity(message))
        return ""


_DELIVERIES = BoundedCalls[str]()
#: The delivery behind the last call to each address.
_last: dict[str, _Delivery] = {}
_MONITORS = BoundedCalls[str]()


def deliver(book: AlertState, usable: Sequence[Address], within_s: float = DELIVERY_S) -> list[str]:
    """Send every message of the outbox to the addresses that have not taken it; returns what went wrong.

    The oldest first. An address that fails, or has not answered after ``within_s`` seconds, is left alone until the
    next round.
    """
    by_key = {address.key: address for address in usable}
    for message in book.outbox:
        _address(message, by_key.keys())
    for key, earlier in _last.items():
        _take_note(book, key, earlier)
    calls: dict[str, Call[str]] = {}
    for key, address in by_key.items():
        delivery = _Delivery(address, [message for message in book.outbox if key in (message.pending or ())])
        if not delivery.messages:
            continue
        calls[key], is_new = _DELIVERIES.start(key, delivery.run)
        if is_new:
            _last[key] = delivery
    _DELIVERIES.wait(calls.values(), within_s)
    problems = []
    for key, call in calls.items():
        delivery = _last[key]
        delivery.stop.set()
        _take_note(book, key, delivery)
        if why := _why(call):
            problems.append(f"{by_key[key].name} did not take an alert: {why}. It is tried again.")
    book.outbox = [message for message in book.outbox if message.pending or not message.delivered]
    return problems


def _take_note(book: AlertState, key: str, delivery: _Delivery) -> None:
    """Note on the messages of the book what the delivery has achieved so far."""
    taken = set(delivery.taken)
    for message in book.outbox:
        if key in (message.pending or ()) and _identity(message) in taken:
            message.delivered = True
            message.pending = [other for other in message.pending or () if other != key]


def _why(call: Call[str]) -> str:
    """Why the address behind ``call`` did not take everything."""
    if call.is_running:
        return f"no answer after {call.seconds:.0f} seconds"
    error = call.future.exception()
    return call.future.result() if error is None else f"{type(error).__name__} in Apprise"


def _identity(message: Message) -> _Identity:
    return message.title, message.body, message.at


def _address(message: Message, keys: Collection[str]) -> None:
    """Who still has to get the message, of the addresses there are now: all, until one of them has taken it."""
    pending = set(message.pending or ())
    still = [key for key in keys if key in pending]
    message.pending = still if still or message.delivered else list(keys)


@dataclass(frozen=True, slots=True)
class Monitors:
    """Calls to monitors that are under way, by the variable of each; the busy ones have not answered the last call."""

    calls: dict[str, Call[str]]
    busy: dict[str, Call[str]]

    def problems(self, within_s: float) -> list[str]:
        """Wait, at most ``within_s`` seconds, and say what went wrong. Nothing is tried again: what it would say is
        older by then than what the next run says."""
        BoundedCalls.wait(self.calls.values(), within_s)
        said = [_problem(name, call) for name, call in [*self.calls.items(), *self.busy.items()]]
        return [problem for problem in said if problem]


def begin_monitors(figures: RunMetrics, runs: Sequence[FinishedRun], settings: NotificationSettings) -> Monitors:
    """Call the heartbeat and hand over the metrics, in the background. ``figures`` must not change meanwhile."""
    monitors = Monitors({}, {})
    if not runs:
        return monitors
    for run in runs:
        figures.take(run)
    for name, call in _monitors(figures, runs, settings):
        begun, is_new = _MONITORS.start(name, call)
        (monitors.calls if is_new else monitors.busy)[name] = begun
    return monitors


def _monitors(
    figures: RunMetrics, runs: Sequence[FinishedRun], settings: NotificationSettings
) -> Iterable[tuple[str, Callable[[], str]]]:
    heartbeat_url, path, push_url = settings.heartbeat_url, settings.metrics_file, settings.metrics_push_url
    if heartbeat_url and any(run.verified for run in runs):
        yield HEARTBEAT_URL, lambda: heartbeat.beat(heartbeat_url)
    if path is not None:
        yield METRICS_FILE, lambda: prometheus.write_file(figures, path)
    if push_url:
        yield METRICS_PUSH_URL, lambda: prometheus.push(figures, push_url)


def _problem(name: str, call: Call[str]) -> str:
    if call.is_running:
        return f"{name} has not answered after {call.seconds:.0f} seconds."
    error = call.future.exception()
    return call.future.result() if error is None else f"{name} failed: {type(error).__name__}."
