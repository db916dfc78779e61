"""Waits grow, are drawn at random, and end."""

from __future__ import annotations

from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync_tests.fakes import FakeTime


def waits(time: FakeTime, policy: RetryPolicy, *, attempt_s: float = 0.0) -> list[float]:
    backoff = Backoff(policy, time.timing)
    backoff.attempt()
    time.pass_(attempt_s)
    while backoff.wait():
        backoff.attempt()
        time.pass_(attempt_s)
    return time.sleeps


def test_waits_double_up_to_the_longest_and_end_with_the_total() -> None:
    policy = RetryPolicy(first_s=1, longest_s=8, total_s=30)
    assert waits(FakeTime(), policy) == [1, 2, 4, 8, 8, 7]


def test_each_wait_is_drawn_between_nothing_and_its_ceiling() -> None:
    time = FakeTime()
    time.chance = 0.25
    assert waits(time, RetryPolicy(first_s=1, longest_s=4, total_s=3))[:4] == [0.25, 0.5, 1.0, 1.0]


def test_by_default_a_batch_is_given_up_after_sixty_seconds() -> None:
    assert sum(waits(FakeTime(), RetryPolicy())) == 60


def test_attempts_that_fail_slowly_count_too() -> None:
    assert waits(FakeTime(), RetryPolicy(first_s=1, longest_s=1, total_s=60), attempt_s=29) == [1, 1]


def test_work_that_succeeds_costs_nothing_and_starts_the_waits_anew() -> None:
    time = FakeTime()
    backoff = Backoff(RetryPolicy(first_s=1, longest_s=8, total_s=10), time.timing)
    for _ in range(3):
        backoff.attempt()
        backoff.wait()
    backoff.attempt()
    time.pass_(1_000)
    backoff.succeeded()
    backoff.attempt()
    assert backoff.wait()
    assert time.sleeps == [1, 2, 4, 1]
