"""Adaptive pacing sizes batches by their time, rests in proportion to their work, and puts the target's users first.

The target of these tests is a model with a cost per batch and per row, on a clock that nobody waits for.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_sync.load.pacing import MAX_BATCH_SIZE, AdaptivePacing, AdaptiveSettings
from product_sync.schema.ports import Signals
from product_sync_tests.fakes import FakeTime

CALM = Signals(latency_s=0.001, lock_waits=0, active_sessions=1, replica_lag_s=0.0)
SETTINGS = AdaptiveSettings(target_s=0.25, max_duty=0.5)


@dataclass
class Target:
    """The cost of a batch, and the signals of the target."""

    batch_s: float = 0.002
    row_s: float = 0.00002
    signals: Signals = CALM
    looks: int = 0
    time: FakeTime = field(default_factory=FakeTime)

    def measure(self) -> Signals:
        self.looks += 1
        return self.signals

    def pacing(self, settings: AdaptiveSettings | None = None) -> AdaptivePacing:
        return AdaptivePacing(settings or SETTINGS, self, self.time.timing)

    def cost_s(self, rows: int) -> float:
        return self.batch_s + rows * self.row_s

    def run(self, pacing: AdaptivePacing, batches: int) -> tuple[int, float]:
        """Load; returns the rows and the seconds they took, rests included."""
        began, rows = self.time.timing.monotonic(), 0
        for _ in range(batches):
            size = pacing.batch_size()
            self.time.pass_(self.cost_s(size))
            pacing.batch_done(size, self.cost_s(size))
            rows += size
            self.time.timing.sleep(pacing.pause_s())
        return rows, self.time.timing.monotonic() - began


@pytest.mark.parametrize("row_s", [0.000_005, 0.000_02, 0.001, 0.01])
def test_batches_come_to_take_the_time_that_they_should(row_s: float) -> None:
    target = Target(row_s=row_s)
    pacing = target.pacing(AdaptiveSettings(target_s=0.25))
    target.run(pacing, 20)
    assert target.cost_s(pacing.batch_size()) == pytest.approx(0.25, rel=0.1)


def test_it_begins_with_the_configured_size_and_grows_by_at_most_four() -> None:
    target = Target(row_s=0.000_001)
    pacing = target.pacing(AdaptiveSettings(target_s=0.25, first_rows=50))
    assert pacing.batch_size() == 50
    target.run(pacing, 1)
    assert pacing.batch_size() == 200


def test_a_batch_that_is_slow_all_at_once_makes_the_next_one_smaller_at_once() -> None:
    target = Target()
    pacing = target.pacing()
    target.run(pacing, 20)
    calm = pacing.batch_size()
    target.row_s *= 10
    target.run(pacing, 1)
    assert pacing.batch_size() < calm / 4


def test_a_short_last_batch_does_not_spoil_the_measure() -> None:
    target = Target()
    pacing = target.pacing()
    target.run(pacing, 20)
    before = pacing.batch_size()
    pacing.batch_done(1, target.cost_s(1))
    assert pacing.batch_size() == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("max_duty", [0.1, 0.5, 1.0])
def test_the_load_takes_its_share_of_the_time_and_no_more(max_duty: float) -> None:
    target = Target()
    pacing = target.pacing(AdaptiveSettings(max_duty=max_duty))
    target.run(pacing, 20)
    rested = sum(target.time.sleeps)
    assert 1 - rested / target.time.timing.monotonic() == pytest.approx(max_duty, rel=0.01)


def test_a_batch_is_done_with_before_the_next_one_is_prepared() -> None:
    assert Target().pacing(AdaptiveSettings(max_duty=1.0)).pausing


def test_where_the_target_rested_within_the_batch_the_rest_is_shorter_by_that() -> None:
    target = Target()
    pacing = target.pacing(AdaptiveSettings(max_duty=0.1))
    pacing.batch_done(100, 0.1, 0.3)
    assert pacing.pause_s() == pytest.approx(0.9 - 0.3)
    pacing.batch_done(100, 0.1, 2.0)
    assert pacing.pause_s() == 0


@pytest.mark.parametrize(
    ("pressed", "reason"),
    [
        (replace(CALM, latency_s=0.1), r"a round trip takes \d+\.\d ms, 1\.0 ms when it is calm"),
        (replace(CALM, lock_waits=3), "3 sessions wait for a lock"),
        (replace(CALM, active_sessions=40), "40 sessions are active, 1 when it is calm"),
        (replace(CALM, replica_lag_s=60.0), "a replica lags 60 s behind"),
    ],
)
def test_under_pressure_it_slows_down_says_why_and_recovers(
    pressed: Signals, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    target = Target()
    pacing = target.pacing()
    target.run(pacing, 10)
    calm_rows, calm_s = target.run(pacing, 10)
    assert caplog.messages == []

    target.signals = pressed
    target.run(pacing, 8)
    pressed_rows, pressed_s = target.run(pacing, 3)
    assert pressed_rows / pressed_s < 0.1 * calm_rows / calm_s
    assert target.cost_s(pacing.batch_size()) < 0.05
    [message] = caplog.messages
    assert message.startswith("The load gives way to the target's users")
    assert re.search(reason, message)

    target.signals = CALM
    target.run(pacing, 20)
    rows, seconds = target.run(pacing, 10)
    assert rows / seconds == pytest.approx(calm_rows / calm_s, rel=0.1)
    assert caplog.messages[1:] == ["The target is calm again: the load takes 50 % of the time."]


def test_one_wait_for_a_lock_at_a_single_look_is_no_pressure() -> None:
    target = Target()
    pacing = target.pacing()
    for waits in (1, 0, 2, 0, 1):
        target.signals = replace(CALM, lock_waits=waits)
        target.run(pacing, 5 if waits == 0 else 1)
        assert pacing.duty == 0.5


def test_a_target_that_was_slow_from_the_start_is_measured_against_itself() -> None:
    target = Target(signals=replace(CALM, latency_s=0.08, active_sessions=50))
    pacing = target.pacing()
    target.run(pacing, 20)
    assert pacing.duty == 0.5


def test_even_under_endless_pressure_the_load_goes_on() -> None:
    target = Target(signals=replace(CALM, lock_waits=1))
    pacing = target.pacing()
    rows, seconds = target.run(pacing, 100)
    assert rows >= 100 * 10
    assert max(target.time.sleeps) <= 10
    assert seconds < 100 * 11


def test_it_does_not_look_more_often_than_five_times_a_second() -> None:
    target = Target(batch_s=0.001, row_s=0)
    pacing = target.pacing(AdaptiveSettings(max_duty=1.0))
    _, seconds = target.run(pacing, 2_000)
    assert target.looks <= 1 + seconds / 0.2


def test_what_it_cannot_see_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    target = Target(signals=Signals(0.001, 0, unseen=("active sessions and replica lag (they need a right)",)))
    pacing = target.pacing()
    target.run(pacing, 20)
    assert caplog.messages == ["Adaptive pacing cannot see: active sessions and replica lag (they need a right)."]
    assert pacing.duty == 0.5


def test_blind_it_goes_by_the_cost_of_its_batches() -> None:
    target = Target(signals=Signals(unseen=("anything",)))
    pacing = target.pacing()
    target.run(pacing, 20)
    assert target.cost_s(pacing.batch_size()) == pytest.approx(0.25, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 1_000)), max_size=50))
def test_whatever_batches_cost_sizes_and_rests_stay_within_their_bounds(batches: list[tuple[int, float]]) -> None:
    pacing = AdaptivePacing(SETTINGS, None, FakeTime().timing)
    for rows, seconds in batches:
        pacing.batch_done(min(rows, pacing.batch_size()), seconds)
        assert 10 <= pacing.batch_size() <= MAX_BATCH_SIZE
        assert 0 <= pacing.pause_s() <= 10
