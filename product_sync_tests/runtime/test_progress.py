"""A stage reports its progress, its speed and the time that is left."""

from __future__ import annotations

import pytest

from product_sync.runtime.progress import Meter, Progress
from product_sync_tests.fakes import FakeTime


def test_rate_and_time_left_follow_from_what_is_done() -> None:
    time, heard = FakeTime(), list[Progress]()
    meter = Meter("load", 400, heard.append, time.timing)
    time.pass_(2)
    meter.advance(100)
    assert heard == [Progress("load", done=100, total=400, rate=50, seconds_left=6)]
    assert heard[0].percent == 25


def test_nothing_is_promised_before_anything_is_done() -> None:
    time, heard = FakeTime(), list[Progress]()
    Meter("load", 400, heard.append, time.timing).advance(0)
    assert heard == [Progress("load", done=0, total=400, rate=0, seconds_left=None)]


def test_an_unknown_total_stays_unknown() -> None:
    time, heard = FakeTime(), list[Progress]()
    meter = Meter("read", None, heard.append, time.timing)
    time.pass_(1)
    meter.advance(5)
    assert (heard[0].total, heard[0].percent, heard[0].seconds_left) == (None, None, None)


@pytest.mark.parametrize("estimate", [5, 20, None])
def test_an_estimate_never_says_that_all_is_done_and_the_end_does(estimate: int | None) -> None:
    time, heard = FakeTime(), list[Progress]()
    meter = Meter("read", estimate, heard.append, time.timing)
    time.pass_(1)
    for _ in range(3):
        meter.advance(3)
    assert not heard[-1].ended
    meter.end()
    assert heard[-1] == Progress("read", done=9, total=9, rate=9, seconds_left=0)
    assert heard[-1].ended


def test_nothing_to_do_is_all_done() -> None:
    assert Progress("load", done=0, total=0, rate=0, seconds_left=None).percent == 100


def test_a_long_pause_says_every_few_seconds_how_long_it_still_takes() -> None:
    time, heard = FakeTime(), list[Progress]()
    Meter("confirm differences", 2, heard.append, time.timing).pause(12, "second reading")
    assert time.sleeps == [5, 5, 2]
    assert [progress.note for progress in heard] == [
        "second reading, 12 s left",
        "second reading, 7 s left",
        "second reading, 2 s left",
    ]
    assert str(heard[0]) == "confirm differences: 0/2 (0 %), second reading, 12 s left"


def test_a_short_pause_is_not_worth_a_word() -> None:
    time, heard = FakeTime(), list[Progress]()
    Meter("load", 2, heard.append, time.timing).pause(0.1, "pause between batches")
    assert (time.sleeps, heard) == ([0.1], [])
