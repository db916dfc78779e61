"""Both sides read at once give the same files, and the same differences, as one after the other."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.compare import diff as diffs
from product_sync.compare.diff import DiffCounts
from product_sync.compare.prefilter import Window
from product_sync.compare.snapshot import (
    BothFiles,
    SourceSnapshot,
    TargetSnapshot,
    snapshot_both,
    snapshot_source,
    snapshot_target,
)
from product_sync.errors import SourceReadError, Unreachable
from product_sync.runtime.progress import Progress, no_progress
from product_sync.state.files import RUN_ID, read_metadata
from product_sync_tests.fakes import FakeSource
from product_sync_tests.load.bench import METADATA, Bench, document, make_bench, row
from product_sync_tests.tables import read_table

SMALL = Window(rows=6, bytes=10_000, page_rows=2, trial_pages=2)
#: Of few texts, and of ids of another type with the same text.
bson_ids = st.sampled_from([f"{number:024x}" for number in range(12)] + [ObjectId(f"{n:024x}") for n in range(4)])
prices = st.sampled_from([1, 2, -1, "none"])
documents = st.dictionaries(bson_ids, prices, max_size=14).map(
    lambda chosen: [document(bson_id, price=price) for bson_id, price in chosen.items()]
)
rows = st.dictionaries(st.sampled_from([f"{number:024x}" for number in range(14)]), st.integers(1, 2), max_size=14).map(
    lambda chosen: [row(row_id, price=price) for row_id, price in chosen.items()]
)


def files(folder: Path) -> BothFiles:
    source, rejects, target, first, second = (folder / f"both_{name}" for name in ("s", "r", "t", "us", "ut"))
    return BothFiles(source, rejects, target, (first, second))


def read(bench: Bench, **options: Any) -> tuple[SourceSnapshot, TargetSnapshot]:
    given: dict[str, Any] = {"metadata": METADATA, "timing": bench.time.timing, "on_progress": no_progress} | options
    return snapshot_both(bench.source, bench.target, bench.row_schema, files(bench.folder), **given)


def compared(bench: Bench, unmatched: tuple[Path, Path] | None) -> tuple[DiffCounts, list[dict[str, Any]]]:
    both, out = files(bench.folder), bench.folder / "both_diff"
    counts = diffs.diff(
        bench.row_schema, both.source_rows, both.rejects, both.target_rows, None, out, metadata={}, unmatched=unmatched
    )
    return counts, read_table(out).to_pylist()


@settings(deadline=None, max_examples=30)
@given(documents, rows, st.randoms(use_true_random=False))
def test_nothing_is_different_from_reading_and_comparing_one_after_the_other(
    source: list[dict[str, Any]], target: list[dict[str, Any]], chance: Any
) -> None:
    chance.shuffle(source)
    chance.shuffle(target)
    with TemporaryDirectory() as name:
        bench = make_bench(Path(name), source, target)
        bench.source = FakeSource(bench.row_schema, source, page_rows=3)
        counts = bench.compare()
        both = files(bench.folder)
        for window in (SMALL, replace(SMALL, trial_pages=1_000)):
            assert read(bench, window=window)[0].rejects == (bench.snapshot and bench.snapshot.rejects)
            for path, alone in ((both.source_rows, "source"), (both.rejects, "rejects"), (both.target_rows, "target")):
                assert read_table(path).equals(read_table(bench.path(alone)), check_metadata=True)
            assert compared(bench, both.found_unmatched()) == (counts, read_table(bench.path("diff")).to_pylist())


def test_only_what_differs_is_left_to_the_diff(tmp_path: Path) -> None:
    ids = [f"{number:03}" for number in range(100)]
    bench = make_bench(tmp_path, [document(name) for name in ids], [row(name) for name in ids[1:-1]] + [row("99x")])
    bench.target.rows["050"]["price"] = 77
    source, target = read(bench)
    assert (source.documents, target.rows) == (100, 99)
    unmatched = files(tmp_path).found_unmatched()
    assert unmatched is not None
    assert [read_table(path)["id"].to_pylist() for path in unmatched] == [["050", "000", "099"], ["050", "99x"]]
    counts, _ = compared(bench, unmatched)
    assert (counts.missing, counts.changed, counts.extra) == (2, 1, 1)


def test_what_was_left_belongs_to_these_very_readings(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a"), document("b")], [row("a")])
    read(bench)
    both = files(tmp_path)
    options: dict[str, Any] = {"timing": bench.time.timing, "on_progress": no_progress}
    assert both.found_unmatched() == both.unmatched

    snapshot_target(
        bench.target, bench.row_schema, both.target_rows, metadata=METADATA | {RUN_ID: "another"}, **options
    )
    assert both.found_unmatched() is None
    snapshot_target(bench.target, bench.row_schema, both.target_rows, metadata=METADATA, **options)
    assert both.found_unmatched() == both.unmatched, "at the very same moment, by the same run"

    bench.time.pass_(0.001)
    snapshot_source(bench.source, bench.row_schema, both.source_rows, both.rejects, metadata=METADATA, **options)
    assert both.found_unmatched() is None
    both.unmatched[1].unlink()
    assert both.found_unmatched() is None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ([], [row("a"), row("b")]),
        ([document("a"), document("b")], []),
        ([document(f"{n:02}") for n in range(60)], [row(f"{n:02}") for n in reversed(range(60))]),
    ],
    ids=["no source", "no target", "no order in common"],
)
def test_where_it_is_not_worth_it_both_sides_are_read_all_the_same(
    tmp_path: Path, source: list[dict[str, Any]], target: list[dict[str, Any]]
) -> None:
    bench = make_bench(tmp_path, source, target)
    snapshots = read(bench, window=SMALL)
    both = files(tmp_path)
    assert (snapshots[0].documents, snapshots[1].rows) == (len(source), len(target))
    assert both.found_unmatched() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both_r", "both_s", "both_t"]
    assert read_metadata(both.source_rows)[RUN_ID] == METADATA[RUN_ID]


@pytest.mark.parametrize("pages_before", [0, 2])
def test_a_source_that_fails_ends_both_and_leaves_nothing_of_it(tmp_path: Path, pages_before: int) -> None:
    bench = half_read(tmp_path)
    bench.source.script.on("source.snapshot", *[None] * pages_before, SourceReadError("no primary"))
    with pytest.raises(SourceReadError):
        read(bench)
    assert list(tmp_path.iterdir()) == []
    assert_nobody_reads()


def test_a_target_that_fails_ends_both_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    bench = half_read(tmp_path)
    bench.target.script.on("target.snapshot", Unreachable("gone"))
    with pytest.raises(Unreachable):
        read(bench)
    assert {path.name for path in tmp_path.iterdir()} <= {"both_s", "both_r"}, "whole, and told to nobody"
    assert_nobody_reads()


def half_read(folder: Path) -> Bench:
    ids = [f"{number:04}" for number in range(3_000)]
    bench = make_bench(folder, [], [row(name) for name in ids])
    bench.source = FakeSource(bench.row_schema, [document(name) for name in ids], page_rows=1_000)
    return bench


def assert_nobody_reads() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name == "product_sync prefetch"]


def test_progress_is_told_of_both(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a"), document("b")], [row("a")])
    heard: list[Progress] = []
    read(bench, on_progress=heard.append)
    assert {(progress.stage, progress.done, progress.total) for progress in heard} >= {
        ("read source", 2, 2),
        ("read target", 1, 1),
    }
