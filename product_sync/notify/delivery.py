"""Delivers the messages of the outbox to all alert URLs at the same time, each within a time limit.

A slow alert URL must delay neither the other URLs nor the caller, so each has a thread of its own (`bounded_calls`). A
delivery that is open when the caller stops waiting goes on. If it succeeds later, the next round in this process knows
it and does not send the message twice.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from product_sync.notify.alerts import AlertState, Message
from product_sync.notify.apprise import AlertUrl
from product_sync.runtime.bounded_calls import BoundedCalls, Call

#: Seconds for the alerts of one round; Dagster ends a sensor's evaluation after a minute.
DELIVERY_S = 20.0

#: Identifies a message.
_Identity = tuple[str, str, float]


@dataclass(slots=True)
class _Delivery:
    """The messages for one alert URL, in their order. ``accepted`` grows while the thread runs."""

    url: AlertUrl
    messages: Sequence[Message]
    accepted: list[_Identity] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> str:
        """Returns why a message was not accepted, which ends the delivery, or an empty string."""
        for message in self.messages:
            if self.stop.is_set():
                break
            if why := self.url.send(message):
                return why
            self.accepted.append(_identity(message))
        return ""


_CALLS = BoundedCalls[str]()
#: The delivery of the last call to each alert URL, by its key.
_last: dict[str, _Delivery] = {}


def deliver(state: AlertState, urls: Sequence[AlertUrl], within_s: float = DELIVERY_S) -> list[str]:
    """Send every message of the outbox, the oldest first, to the alert URLs that have not accepted it. Returns what
    went wrong. A URL that fails, or does not answer within ``within_s`` seconds, is tried again in the next round."""
    by_key = {url.key: url for url in urls}
    for message in state.outbox:
        waiting = [key for key in by_key if key in (message.pending or ())]
        # Until one URL has accepted the message, it is for all the URLs that are set now.
        message.pending = waiting if waiting or message.delivered else list(by_key)
    for key in _last:
        _record_accepted(state, key)
    calls: dict[str, Call[str]] = {}
    for key, url in by_key.items():
        delivery = _Delivery(url, [message for message in state.outbox if key in (message.pending or ())])
        if delivery.messages:
            calls[key], is_new = _CALLS.start(key, delivery.run)
            if is_new:
                _last[key] = delivery
    _CALLS.wait(calls.values(), within_s)
    problems = []
    for key, call in calls.items():
        _last[key].stop.set()
        _record_accepted(state, key)
        if why := _why_not_accepted(call):
            problems.append(f"{by_key[key].name} did not accept an alert: {why}. The alert is sent again later.")
    state.outbox = [message for message in state.outbox if message.pending or not message.delivered]
    return problems


def _record_accepted(state: AlertState, key: str) -> None:
    accepted = set(_last[key].accepted)
    for message in state.outbox:
        if key in (message.pending or ()) and _identity(message) in accepted:
            message.delivered = True
            message.pending = [other for other in message.pending or () if other != key]


def _why_not_accepted(call: Call[str]) -> str:
    if call.is_running:
        return f"no answer after {call.seconds:.0f} seconds"
    error = call.future.exception()
    return call.future.result() if error is None else f"{type(error).__name__} in Apprise"


def _identity(message: Message) -> _Identity:
    return message.title, message.body, message.at
