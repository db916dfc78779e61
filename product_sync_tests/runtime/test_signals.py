"""An interrupt waits for a COMMIT to be counted, and for nothing else."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from product_sync.runtime.signals import (
    _interrupts,
    commit_begins,
    commit_failed,
    defer_interrupts,
    resend_lost_interrupts,
)


class Interrupted(Exception):
    """What the handler of the test raises."""


@pytest.fixture(autouse=True, params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    def handler(number: int, _frame: object) -> None:
        raise Interrupted(number)

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    yield request.param
    assert signal.getsignal(request.param) is handler, "it was put back"
    for each, former in before.items():
        signal.signal(each, former)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # a moment in which Python looks for signals


def test_it_is_raised_at_once_where_no_commit_is_under_way(number: signal.Signals) -> None:
    with defer_interrupts() as counted:
        with pytest.raises(Interrupted):
            send(number)
        commit_begins()
        counted()
        with pytest.raises(Interrupted):
            send(number)
        commit_begins()
        commit_failed()
        with pytest.raises(Interrupted):
            send(number)


def test_it_waits_until_what_was_committed_is_counted(number: signal.Signals) -> None:
    with defer_interrupts() as counted:
        commit_begins()
        send(number)
        with pytest.raises(Interrupted):
            counted()
        counted()


def test_it_waits_no_longer_than_the_commit_is_tried(number: signal.Signals) -> None:
    with defer_interrupts():
        commit_begins()
        send(number)
        with pytest.raises(Interrupted):
            commit_failed()


def test_a_second_one_does_not_wait(number: signal.Signals) -> None:
    with defer_interrupts() as counted:
        commit_begins()
        send(number)
        with pytest.raises(Interrupted):
            send(number)
        counted()


def test_it_does_not_wait_for_ever(number: signal.Signals) -> None:
    def endless_commit() -> None:
        with defer_interrupts(at_most_s=0.01):
            commit_begins()
            send(number)
            threading.Event().wait(120)

    with pytest.raises(Interrupted):
        endless_commit()


def test_it_is_not_lost_where_nothing_is_counted_after_all(number: signal.Signals) -> None:
    def interrupted_commit() -> None:
        with defer_interrupts():
            commit_begins()
            send(number)

    with pytest.raises(Interrupted):
        interrupted_commit()


def test_a_count_within_a_count_raises_what_has_waited_for_it(number: signal.Signals) -> None:
    with defer_interrupts() as counted:
        commit_begins()
        counted()
        with defer_interrupts() as inner:
            commit_begins()
            send(number)
            with pytest.raises(Interrupted):
                inner()
        with pytest.raises(Interrupted):
            send(number)


def test_a_thread_that_no_signal_reaches_changes_no_handler(number: signal.Signals) -> None:
    handlers = []

    def work() -> None:
        with defer_interrupts() as counted:
            commit_begins()
            handlers.append(signal.getsignal(number))
            counted()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(number)]


def test_what_is_raised_in_a_callback_of_the_garbage_collector_is_sent_again(number: signal.Signals) -> None:
    """Python prints such an exception, and goes on."""

    def collected() -> None:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: send(number))
        del thing
        assert reference() is None
        threading.Event().wait(120)

    before = sys.unraisablehook
    resend_lost_interrupts("Interrupted")
    try:
        with pytest.raises(Interrupted):
            collected()
    finally:
        sys.unraisablehook = before
        _interrupts.clear()


class Thing:
    """May be referred to weakly."""
