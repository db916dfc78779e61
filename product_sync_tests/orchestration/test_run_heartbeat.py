"""A step without progress for a while still reports, so that its run does not count as dead."""

from __future__ import annotations

import time

import pytest

from product_sync.orchestration import progress_events
from product_sync.orchestration import run_heartbeat as heartbeats
from product_sync.orchestration.dead_runs import SILENCE_S
from product_sync.orchestration.run_heartbeat import SILENT_FOR_S, Heartbeat
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync_tests.shop import Shop, product


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_it_reports_only_after_half_a_minute_without_a_report() -> None:
    clock, heard = Clock(), list[Progress]()
    heartbeat = Heartbeat(clock=clock)
    report = heartbeat.of_step("product_diff", heard.append)
    for second in range(1, 101):
        clock.seconds = float(second)
        heartbeat.beat()
        if second == 50:
            report(Progress("load", 1, 4, 1.0, 3.0))
    assert [str(progress) for progress in heard] == [
        "product_diff: still running, 30 s without progress",
        "load: 1/4 (25 %), 1 rows/s, 3 s left",
        "load: 1/4 (25 %), still running, 30 s without progress",
    ]


def test_a_run_counts_as_dead_only_after_many_missing_beats() -> None:
    assert 5 * SILENT_FOR_S <= SILENCE_S


def test_a_long_comparison_reports_to_the_runs_log(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_CHECK_EVERY_S", 0.02)
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
