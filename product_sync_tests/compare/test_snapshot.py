"""Both sides are read once, page by page, and nothing of a reading that failed remains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from product_sync.compare.snapshot import READ_AHEAD_BYTES, snapshot_source, snapshot_target, target_while_read
from product_sync.errors import SourceReadError, Unreachable
from product_sync.runtime.progress import Progress, no_progress
from product_sync.schema.records import Reason
from product_sync.state.files import RUN_ID, TAKEN_AT, opened, read_metadata
from product_sync_tests.fakes import FakeSource, FakeTarget, FakeTime
from product_sync_tests.load.bench import document, make_bench, row
from product_sync_tests.source_contract import product_row_schema
from product_sync_tests.tables import read_table

ROW_SCHEMA = product_row_schema()
METADATA = {RUN_ID: "run-1"}


def test_every_document_is_a_row_or_a_reject(tmp_path: Path) -> None:
    documents = [document("a"), document("b", price=1.5, title=None), document("c"), document("d", title=7)]
    time, heard = FakeTime(), list[Progress]()
    source = FakeSource(ROW_SCHEMA, documents, page_rows=2)
    source.script.on("source.snapshot", lambda: time.pass_(1), lambda: time.pass_(1))
    snapshot = snapshot_source(
        source,
        ROW_SCHEMA,
        tmp_path / "rows",
        tmp_path / "rejects",
        metadata=METADATA,
        timing=time.timing,
        on_progress=heard.append,
    )
    assert (snapshot.documents, snapshot.rejected) == (4, 2)
    assert snapshot.rejects == {Reason.NOT_EXACT: 1, Reason.MISSING_FIELD: 1, Reason.WRONG_TYPE: 1}
    assert (snapshot.duration_s, snapshot.rows_per_second) == (2, 2)
    assert read_table(tmp_path / "rows")["id"].to_pylist() == ["a", "c"]
    assert read_table(tmp_path / "rejects")["id"].to_pylist() == ["b", "d"]
    assert [(progress.done, progress.total) for progress in heard] == [(2, 4), (4, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejects", "rows"]
    # Whole documents may have megabytes: they are not in memory beside the pages.
    assert source.script.log == ["source.snapshot", "source.snapshot", "source.sample"]


def test_a_snapshot_has_bounds_of_the_id_to_seek_by(tmp_path: Path) -> None:
    given: dict[str, Any] = {"metadata": METADATA, "timing": FakeTime().timing, "on_progress": no_progress}
    snapshot_source(
        FakeSource(ROW_SCHEMA, [document("a")]), ROW_SCHEMA, tmp_path / "rows", tmp_path / "rejects", **given
    )
    snapshot_target(FakeTarget(ROW_SCHEMA, [row("a")]), ROW_SCHEMA, tmp_path / "target", **given)
    for name in ("rows", "target"):
        with opened(tmp_path / name) as file:
            assert [dict(group.bounds) for group in file.groups] == [{"id": ("a", "a")}]


def test_a_snapshot_is_as_old_as_the_moment_when_reading_began(tmp_path: Path) -> None:
    time = FakeTime(dt.datetime(2026, 5, 6, 7, 8, 9, tzinfo=dt.UTC))
    source = FakeSource(ROW_SCHEMA, [document("a")])
    source.script.on("source.snapshot", lambda: time.pass_(3_600))
    target = FakeTarget(ROW_SCHEMA, [row("a")])
    target.script.on("target.snapshot", lambda: time.pass_(3_600))
    began = time.now()
    snapshot = snapshot_source(
        source,
        ROW_SCHEMA,
        tmp_path / "rows",
        tmp_path / "rejects",
        metadata=METADATA,
        timing=time.timing,
        on_progress=no_progress,
    )
    assert snapshot.taken_at == began
    for name in ("rows", "rejects"):
        assert read_metadata(tmp_path / name) == METADATA | {TAKEN_AT: "2026-05-06T07:08:09+00:00"}
    read = snapshot_target(
        target, ROW_SCHEMA, tmp_path / "target", metadata=METADATA, timing=time.timing, on_progress=no_progress
    )
    assert (read.rows, read.taken_at, read.duration_s) == (1, began + dt.timedelta(hours=1), 3_600)
    assert read_metadata(tmp_path / "target")[TAKEN_AT] == "2026-05-06T08:08:09+00:00"


def test_a_source_that_fails_in_mid_read_leaves_no_half_snapshot(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.source = FakeSource(ROW_SCHEMA, [document(name) for name in "abc"], page_rows=1)
    bench.source.script.on("source.snapshot", None, SourceReadError("no primary"))
    with pytest.raises(SourceReadError):
        bench.compare()
    assert list(tmp_path.iterdir()) == []


def test_rows_are_taken_while_they_are_read_and_the_file_is_there_when_they_end(tmp_path: Path) -> None:
    time, heard = FakeTime(), list[Progress]()
    target = FakeTarget(ROW_SCHEMA, [row(f"{number:04}") for number in range(2_500)])
    given: dict[str, Any] = {"metadata": METADATA, "timing": time.timing, "on_progress": heard.append}
    with target_while_read(target, ROW_SCHEMA, tmp_path / "target", **given) as batches:
        first = next(batches)
        assert [(progress.stage, progress.done, progress.total) for progress in heard] == [
            ("read target", 1_000, 2_500)
        ]
        assert not (tmp_path / "target").exists()
        taken = [first, *batches]
        assert read_table(tmp_path / "target").to_batches()[0].schema.metadata[TAKEN_AT.encode()]
    assert heard[-1].done == 2_500
    assert pa.Table.from_batches(taken).equals(read_table(tmp_path / "target"))
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def stop_at(_: object) -> None:
    raise KeyboardInterrupt


def test_a_reading_that_is_left_or_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    target = FakeTarget(ROW_SCHEMA, [row(f"{number:05}", title="x" * 5_000) for number in range(5_000)])
    assert 2 * READ_AHEAD_BYTES < 5_000 * 5_000
    given: dict[str, Any] = {"metadata": METADATA, "timing": FakeTime().timing, "on_progress": no_progress}
    with (
        pytest.raises(KeyboardInterrupt),
        target_while_read(target, ROW_SCHEMA, tmp_path / "target", **given) as batches,
    ):
        stop_at(next(batches))
    target.script.on("target.snapshot", Unreachable("gone"))
    with pytest.raises(Unreachable), target_while_read(target, ROW_SCHEMA, tmp_path / "target", **given) as batches:
        next(batches)
    assert list(tmp_path.iterdir()) == []
