"""The progress of a long run: enough to follow it and to see that it is alive, too little to slow it down.

A step without progress for a while still reports, so that its run does not count as dead.
"""

from __future__ import annotations

import time

import dagster as dg
import pytest

from product_sync.orchestration import progress_events
from product_sync.orchestration.dead_runs import SILENCE_S
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.progress_events import LINE_EVERY_S, SILENT_FOR_S, Heartbeat
from product_sync.pipeline.sync_run import SyncRun
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


@pytest.mark.parametrize(
    ("stage", "asset"),
    [
        ("read source", PRODUCT.source_snapshot),
        ("read target", PRODUCT.target_snapshot),
        ("load", PRODUCT.load),
        ("confirm differences", PRODUCT.load),
    ],
)
def test_a_stage_that_goes_on_is_observed_three_times_a_minute_on_the_page_of_its_asset(stage: str, asset: str) -> None:
    recorder = Recorder()
    recorder.advance("something before", 90)
    recorder.advance(stage, 20)
    assert recorder.observed == [], "it could have been over"
    recorder.advance(stage, 3_600)
    assert 170 <= len(recorder.observed) <= 180
    assert {item.asset_key.to_user_string() for item in recorder.observed} == {asset}
    last = recorder.observed[-1].metadata
    assert (last["progress_rows"].value, last["progress_percent"].value) == (3_581, 99.5)


def test_a_run_counts_as_dead_only_after_several_missing_lines_and_beats() -> None:
    assert 5 * max(LINE_EVERY_S, SILENT_FOR_S) <= SILENCE_S


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


def test_it_reports_only_after_half_a_minute_without_a_report() -> None:
    seconds, heard = [0.0], list[Progress]()
    heartbeat = Heartbeat(clock=lambda: seconds[0])
    report = heartbeat.of_step("product_diff", heard.append)
    for second in range(1, 101):
        seconds[0] = float(second)
        heartbeat.beat()
        if second == 50:
            report(Progress("load", 1, 4, 1.0, 3.0))
    assert [str(progress) for progress in heard] == [
        "product_diff: still running, 30 s without progress",
        "load: 1/4 (25 %), 1 rows/s, 3 s left",
        "load: 1/4 (25 %), still running, 30 s without progress",
    ]


def test_a_long_comparison_reports_to_the_runs_log(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_events, "_CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(progress_events, "NOTE_EVERY_S", 0.0)
    monkeypatch.setattr("product_sync.orchestration.resources.Heartbeat", lambda: Heartbeat(silent_for_s=0.1))
    compare = SyncRun.diff

    def slowly(sync_run: SyncRun) -> object:
        time.sleep(0.5)
        return compare(sync_run)

    monkeypatch.setattr(SyncRun, "diff", slowly)
    shop.put(product("a"))
    outcome = shop.run()
    assert outcome.success
    assert "product_diff: still running" in outcome.log


def test_a_long_wait_for_the_second_reading_is_reported_and_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_events, "NOTE_EVERY_S", 0.0)
    shop.sql("INSERT INTO product VALUES ('only here', 't', 1, 'i', 's', 1)")
    shop.put(product("a"))
    heard: list[Progress] = []
    outcome = shop.run(on_progress=heard.append, settle_seconds=1.1)
    assert outcome.success
    assert "confirm differences: 0/1 (0 %), second reading, 1 s left" in outcome.log
    assert any(progress.note == "second reading, 1 s left" for progress in heard)
