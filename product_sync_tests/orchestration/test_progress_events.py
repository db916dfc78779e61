"""The progress of a long run: enough to follow it and to see that it is alive, too little to slow it down."""

from __future__ import annotations

import time

import dagster as dg
import pytest

from product_sync.orchestration import progress_events
from product_sync.orchestration.dead_runs import SILENCE_S
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.progress_events import LINE_EVERY_S
from product_sync.runtime.progress import Progress
from product_sync_tests.shop import Shop, ids, product


class Recorder:
    """What the listener, the log and the UI get from a stage that advances by a row each second."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.listened: list[Progress] = []
        self.lines: list[str] = []
        self.observed: list[dg.AssetObservation] = []
        self.report = progress_events.record_progress(
            self.listened.append, self.lines.append, self.observed.append, lambda: self.seconds
        )

    def advance(self, stage: str, seconds: int) -> None:
        for number in range(1, seconds + 1):
            self.seconds += 1.0
            self.report(Progress(stage, number, seconds, 1.0, float(seconds - number)))


def test_the_listener_hears_everything_and_the_event_log_a_line_each_twenty_seconds() -> None:
    recorder = Recorder()
    recorder.advance("read source", 60)
    assert len(recorder.listened) == 60
    assert [line.split(",")[0] for line in recorder.lines] == [
        "read source: 20/60 (33 %)",
        "read source: 40/60 (67 %)",
        "read source: 60/60 (100 %)",
    ]


def test_a_long_stage_is_observed_three_times_a_minute_on_the_page_of_its_asset() -> None:
    recorder = Recorder()
    recorder.advance("load", 3_600)
    assert 170 <= len(recorder.observed) <= 180
    assert {item.asset_key.to_user_string() for item in recorder.observed} == {PRODUCT.load}
    last = recorder.observed[-1].metadata
    assert (last["progress_rows"].value, last["progress_percent"].value) == (3_581, 99.5)


@pytest.mark.parametrize("stage", ["read source", "read target", "load", "confirm differences"])
def test_a_stage_that_is_over_within_twenty_seconds_is_not_observed(stage: str) -> None:
    recorder = Recorder()
    recorder.advance("something before", 90)
    recorder.advance(stage, 20)
    assert recorder.observed == []


def test_a_run_counts_as_dead_only_after_several_missing_lines() -> None:
    assert SILENCE_S >= 5 * LINE_EVERY_S


def test_the_ui_follows_a_load_that_takes_long_and_its_result_is_unchanged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_events, "OBSERVATION_EVERY_S", 0.05)
    shop.put(*(product(name) for name in ids(4)))
    outcome = shop.run(batch_size=1, on_progress=lambda _: time.sleep(0.06))
    assert outcome.success
    seen = outcome.observed[PRODUCT.load]
    assert 0 < seen["progress_rows"] <= 4
    assert outcome.materialized[PRODUCT.load]["inserted"] == 4
