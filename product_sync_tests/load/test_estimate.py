"""The estimate is measured, or it says why it is not; and it writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_sync.errors import EveryBatchWouldFail, TransientError
from product_sync.load.estimate import Estimate, estimate, not_probed
from product_sync.load.pacing import AdaptivePacing, AdaptiveSettings, FixedPacing, Pacing
from product_sync_tests.load.bench import Bench, document, make_bench, row


def with_missing(folder: Path, count: int) -> Bench:
    bench = make_bench(folder, [document(f"{number:03}") for number in range(count)])
    bench.compare()
    return bench


def estimated(bench: Bench, *, batch_size: int = 10, pause_ms: int = 500, pacing: Pacing | None = None) -> Estimate:
    assert bench.snapshot is not None
    return estimate(
        bench.path("diff"),
        bench.row_schema,
        bench.source,
        bench.target,
        source_taken_at=bench.snapshot.taken_at,
        pacing=pacing or FixedPacing(batch_size, pause_ms),
        timing=bench.time.timing,
    )


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    estimated(bench)
    assert (bench.target.rows, bench.target.committed) == ({}, [])
    assert bench.target.script.calls["target.write"] == 0


def test_the_first_batch_is_measured_and_multiplied_and_pauses_are_added(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    bench.target.script.on("target.probe", lambda: bench.time.pass_(2))
    assert estimated(bench) == Estimate(seconds=3 * 2 + 2 * 0.5, batches=3)


def test_the_time_to_read_the_source_again_is_part_of_it(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.script.on("source.fetch", lambda: bench.time.pass_(3))
    bench.target.script.on("target.probe", lambda: bench.time.pass_(2))
    assert estimated(bench) == Estimate(seconds=5, batches=1)


def test_nothing_to_do_takes_no_time(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 0)
    assert estimated(bench) == Estimate(seconds=0, batches=0)
    assert not_probed(bench.path("diff"), FixedPacing(), "the table has triggers") == Estimate(seconds=0, batches=0)


def test_a_refused_row_does_not_spoil_the_measure(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 8)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "001" else None
    bench.target.script.on("target.probe", None, None, None, lambda: bench.time.pass_(1))
    assert estimated(bench, batch_size=8) == Estimate(seconds=8, batches=1)


@pytest.mark.parametrize(
    "fault",
    [
        TransientError("canceling statement due to lock timeout", sqlstate="55P03"),
        EveryBatchWouldFail("permission denied for table product", sqlstate="42501"),
    ],
)
def test_where_it_could_not_be_measured_it_says_why_instead_of_a_number(
    tmp_path: Path, fault: TransientError | EveryBatchWouldFail
) -> None:
    bench = with_missing(tmp_path, 25)
    bench.target.script.on("target.probe", fault)
    found = estimated(bench)
    assert (found.seconds, found.batches) == (None, 3)
    assert found.because is not None
    assert fault.message in found.because


def test_rows_that_wait_for_others_do_not_spoil_the_measure(tmp_path: Path) -> None:
    documents = [document(f"{number}", title=f"t{(number + 1) % 3}" if number < 3 else "new") for number in range(4)]
    bench = make_bench(tmp_path, documents, [row(f"{number}", title=f"t{number}") for number in range(4)])
    bench.target.unique = ("title",)
    bench.compare()
    bench.target.script.on("target.probe", None, lambda: bench.time.pass_(1))
    assert estimated(bench, batch_size=4) == Estimate(seconds=4, batches=1)
    first_waits = estimated(bench, batch_size=2)
    assert (first_waits.seconds, first_waits.batches) == (None, 2)
    assert first_waits.because == (
        "The rows of the first batch wait for other rows, and are written after all batches:"
        " duplicate key value violates unique_title"
    )


def test_a_first_batch_that_is_refused_whole_is_no_measure(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 3)
    bench.target.refuses = lambda _: "price_is_fair"
    found = estimated(bench)
    assert found.seconds is None
    assert found.because is not None
    assert "price_is_fair" in found.because


def test_a_probe_that_is_not_wanted_leaves_the_number_out(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    assert not_probed(bench.path("diff"), FixedPacing(10, 0), "probe: false") == Estimate(None, 3, "probe: false")


def test_an_adaptive_load_is_estimated_at_the_size_and_the_rest_it_comes_to(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 500)
    assert bench.snapshot is not None
    pacing = AdaptivePacing(AdaptiveSettings(target_s=1, max_duty=0.5, first_rows=10), None, bench.time.timing)
    # 10 rows in 0.1 s ask for 40, those in 0.4 s for 100, those in 1 s for no more.
    bench.target.script.on("target.probe", *(lambda s=s: bench.time.pass_(s) for s in (0.1, 0.4, 1.0)))
    found = estimated(bench, pacing=pacing)
    assert found.seconds == pytest.approx(5 * 1 + 4 * 1, rel=0.01)
    assert found.batches == 5
    assert bench.target.script.calls["target.probe"] == 3


@pytest.mark.parametrize("seconds", [3_600, -3_600], ids=["old", "a clock that was set back"])
def test_while_the_source_is_read_again_the_target_rests(tmp_path: Path, seconds: float) -> None:
    bench = with_missing(tmp_path, 20)
    assert bench.snapshot is not None
    bench.time.pass_(seconds)
    bench.source.script.on("source.fetch", lambda: bench.time.pass_(0.7))
    bench.target.script.on("target.probe", lambda: bench.time.pass_(1.0))
    pacing = AdaptivePacing(AdaptiveSettings(target_s=1, max_duty=0.5, first_rows=10), None, bench.time.timing)
    found = estimated(bench, pacing=pacing)
    assert found.seconds == pytest.approx(2 * 1.7 + 0.3)
