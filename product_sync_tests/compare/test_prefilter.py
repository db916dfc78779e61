"""Leaving equal pairs out changes no diff: the same as without it, in whatever order the rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.compare import diff as diffs
from product_sync.compare import prefilter, quarantine
from product_sync.compare.prefilter import Window, drop_identical_rows
from product_sync.compare.rule import partners
from product_sync.schema.records import Defect, IdType, Reason, Reject, SourceId, Stage
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.types import ColumnType, TypeName
from product_sync.state.files import row_count, table_writer
from product_sync_tests.row_schemas import row_schema_of
from product_sync_tests.tables import read_table, write_table

ROW_SCHEMA = row_schema_of(
    {"weight": ColumnType(TypeName.DOUBLE), "note": ColumnType(TypeName.TEXT)},
    {"weight": {"required": False}, "note": {"required": False, "update": False}},
)
SMALL = Window(rows=6, bytes=10_000, page_rows=2, trial_pages=1_000)

weights = st.sampled_from([None, 0.0, 1.5, float("nan")])
sides = st.dictionaries(st.integers(0, 30).map("{:02d}".format), weights, max_size=31).map(lambda d: list(d.items()))


def written(row_schema: RowSchema, folder: Path, source: list[tuple[str, Any]], target: list[tuple[str, Any]]) -> None:
    new = [{"source_id_type": "string", "id": row_id, "weight": w, "note": "new"} for row_id, w in source]
    old = [{"id": row_id, "weight": w, "note": "old"} for row_id, w in target]
    for name, schema, rows in (("source", row_schema.source_schema, new), ("target", row_schema.target_schema, old)):
        write_table(folder / name, schema, [pa.RecordBatch.from_pylist(rows, schema)], metadata={})
    write_table(folder / "rejects", quarantine.rejects_schema(row_schema), [], metadata={})


def differences(folder: Path, target_batches: Iterator[pa.RecordBatch] | None = None) -> list[dict[str, Any]]:
    paths = (folder / "source", folder / "rejects", folder / "target", None, folder / "diff")
    diffs.diff(ROW_SCHEMA, *paths, metadata={}, target_batches=target_batches)
    return [{name: repr(value) for name, value in row.items()} for row in read_table(folder / "diff").to_pylist()]


def while_read(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a file, in batches of so many; the file itself is there only when they end."""
    hidden = path.rename(path.with_name("hidden"))
    yield from read_table(hidden).to_batches(max_chunksize=rows)
    hidden.rename(path)


def ids(path: Path) -> list[str]:
    return [str(row_id) for row_id in read_table(path)["id"].to_pylist()]


@settings(deadline=None, max_examples=30)
@given(sides, st.data())
def test_the_diff_is_the_same_whatever_the_order(source: list[tuple[str, Any]], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(source or [("x", None)]), unique_by=lambda row: row[0]))
    others = data.draw(sides)
    target = data.draw(st.permutations(list(dict([*others, *kept]).items())))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        written(ROW_SCHEMA, folder, data.draw(st.permutations(source)), target)
        patch.setattr(diffs, "drop_identical_rows", lambda _, new, old, __, **___: (new, old))
        plainly = differences(folder)
        for window in (SMALL, replace(SMALL, page_bytes=40), replace(SMALL, trial_pages=2)):
            patch.setattr(diffs, "drop_identical_rows", partial(drop_identical_rows, window=window))
            assert differences(folder) == plainly
            assert differences(folder, while_read(folder / "target", data.draw(st.integers(1, 7)))) == plainly


def test_only_rows_that_differ_go_on(tmp_path: Path) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    target = [(row_id, weight + (row_id == "150")) for row_id, weight in rows if row_id != "100"]
    written(ROW_SCHEMA, tmp_path, rows, target)
    paths = drop_identical_rows(ROW_SCHEMA, tmp_path / "source", tmp_path / "target", tmp_path, SMALL)
    assert [sorted(ids(path)) for path in paths] == [["100", "150"], ["150"]]


@pytest.mark.parametrize("order", [1, -1])
def test_rows_that_were_moved_far_meet_in_the_join(tmp_path: Path, order: int) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    written(ROW_SCHEMA, tmp_path, *[rows, [*rows[10:], *rows[:10]]][::order])
    source, target = drop_identical_rows(ROW_SCHEMA, tmp_path / "source", tmp_path / "target", tmp_path, SMALL)
    assert 0 < row_count(source) == row_count(target) <= 10
    assert differences(tmp_path) == []


@pytest.mark.parametrize("source_lacks", [True, False])
def test_many_rows_that_one_side_lacks_do_not_keep_the_others_from_meeting(tmp_path: Path, source_lacks: bool) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    fewer = [*rows[50:100], *rows[100:200:3], *rows[260:]]
    written(ROW_SCHEMA, tmp_path, *([fewer, rows] if source_lacks else [rows, fewer]))
    paths = drop_identical_rows(ROW_SCHEMA, tmp_path / "source", tmp_path / "target", tmp_path, SMALL)
    lacking = sorted({row_id for row_id, _ in rows} - {row_id for row_id, _ in fewer})
    assert [sorted(ids(path)) for path in paths] == ([[], lacking] if source_lacks else [lacking, []])


def watched(folder: Path, window: Window) -> list[tuple[prefilter._Side, prefilter._Side]]:
    """What waits on both sides after each step: copies, for they go on."""
    seen: list[tuple[prefilter._Side, prefilter._Side]] = []
    leave_out = prefilter._match

    def watching(source: prefilter._Side, target: prefilter._Side, row_schema: RowSchema) -> int:
        seen.append((copy(source), copy(target)))
        return leave_out(source, target, row_schema)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefilter, "_match", watching)
        drop_identical_rows(ROW_SCHEMA, folder / "source", folder / "target", folder, window)
    return seen


def test_rows_that_never_meet_a_partner_do_not_fill_the_window(tmp_path: Path) -> None:
    rows = [(f"{number:06d}", 0.0) for number in range(200_000)]
    written(ROW_SCHEMA, tmp_path, rows, [row for row in rows if int(row[0]) % 100])
    window = Window(rows=5_000, page_rows=500)
    waiting = max(source.waiting.num_rows for source, _ in watched(tmp_path, window))
    # Those of the last 5,000 rows, the page just read, and one that is ahead; 2,000 never meet one.
    assert waiting < 50 + 2 * window.page_rows + 50


def test_where_one_side_has_ended_the_rest_of_the_other_does_not_wait(tmp_path: Path) -> None:
    rows = [(f"{number:05d}", 0.0) for number in range(50_000)]
    written(ROW_SCHEMA, tmp_path, rows, rows[:1_000])
    window = Window(rows=5_000, page_rows=500)
    assert max(source.waiting.num_rows for source, _ in watched(tmp_path, window)) <= 2 * window.page_rows


def test_a_few_rows_that_leave_hold_no_more_memory_than_their_own(tmp_path: Path) -> None:
    rows = [(f"{number:05d}", 0.0) for number in range(10_000)]
    written(ROW_SCHEMA, tmp_path, rows, rows)
    pages = prefilter._pages(prefilter._batches(tmp_path / "target", Window()), Window())
    with table_writer(tmp_path / "left", ROW_SCHEMA.target_schema, metadata={}) as sink:
        side = prefilter._Side(pages, ROW_SCHEMA.target_schema, sink)
        side.read(side)
        side._pass_on_oldest(10)
        (left,) = sink._pending
        assert left.num_rows == 10
        assert sum(buffer.size for column in left.columns for buffer in column.buffers() if buffer) < 1_000


@given(*[st.lists(st.integers(0, 20), unique=True)] * 2, st.integers(0, 10))
def test_each_id_is_found_where_it_lies(new: list[int], old: list[int], alike: int) -> None:
    head = [100 + number for number in range(alike)]
    new, old = head + new, head + old
    new_ids, old_ids = (pa.chunked_array([pa.array(map(str, ids), pa.string())]) for ids in (new, old))
    places = partners(new_ids, old_ids).tolist()
    assert places == [old.index(row_id) if row_id in old else -1 for row_id in new]


def test_orders_that_have_nothing_in_common_are_joined_as_they_are(tmp_path: Path) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    written(ROW_SCHEMA, tmp_path, rows, rows[::-1])
    given_paths = tmp_path / "source", tmp_path / "target"
    window = Window(rows=6, bytes=10_000, page_rows=2, trial_pages=4)
    assert drop_identical_rows(ROW_SCHEMA, *given_paths, tmp_path, window) == given_paths


@pytest.mark.parametrize(("source", "target"), [(300, 300), (0, 300), (300, 0)])
def test_where_the_window_is_of_no_use_all_rows_are_awaited_and_joined(
    tmp_path: Path, source: int, target: int
) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    written(ROW_SCHEMA, tmp_path, rows[:source], rows[::-1][:target])
    given_paths = tmp_path / "source", tmp_path / "target"
    batches = while_read(tmp_path / "target", 7)
    window = Window(rows=6, bytes=10_000, page_rows=2, trial_pages=4)
    assert drop_identical_rows(ROW_SCHEMA, *given_paths, tmp_path, window, target_batches=batches) == given_paths
    assert [row_count(path) for path in given_paths] == [source, target]
    assert next(batches, None) is None


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 9), st.sampled_from([1_000_000, 100]))
def test_pages_of_both_sides_end_at_the_same_row_however_the_rows_come(
    sizes: list[int], page_rows: int, page_bytes: int
) -> None:
    numbers = iter(range(1_000))
    batches = [pa.record_batch({"n": [next(numbers) for _ in range(size)]}) for size in sizes]
    window = Window(page_rows=page_rows, page_bytes=page_bytes)
    pages = [page["n"].to_pylist() for page in prefilter._pages(iter(batches), window)]
    assert [number for page in pages for number in page] == list(range(sum(sizes)))
    if page_bytes > 1_000:
        assert [len(page) for page in pages[:-1]] == [page_rows] * (len(pages) - 1)
    assert all(0 < len(page) <= page_rows for page in pages)


def test_pages_of_wide_rows_are_bounded_in_bytes(tmp_path: Path) -> None:
    batches = [pa.record_batch({"text": ["x" * 1_000] * 10}) for _ in range(10)]
    pages = list(prefilter._pages(iter(batches), Window(page_bytes=20_000)))
    assert [page.num_rows for page in pages] == [20] * 5


@pytest.mark.parametrize("order", [1, -1])
def test_an_empty_target_lacks_all_but_the_rejected(tmp_path: Path, order: int) -> None:
    rows = [(f"{number:05d}", float(number)) for number in range(20_000)]
    written(ROW_SCHEMA, tmp_path, rows[::order], [])
    reject = Reject('"00007"', SourceId(IdType.STRING, "00007"), (Defect("weight", Reason.NOT_FINITE, "NaN"),))
    rejects = quarantine.rejects_batch(ROW_SCHEMA, [reject], Stage.CONVERT)
    write_table(tmp_path / "rejects", rejects.schema, [rejects], metadata={})
    differences(tmp_path)
    diff = read_table(tmp_path / "diff")
    assert diff["id"].to_pylist() == [row_id for row_id, _ in rows if row_id != "00007"]
    assert diff["new_weight"].to_pylist() == [weight for row_id, weight in rows if row_id != "00007"]
    assert pc.unique(diff["op"]).to_pylist() == ["insert"]


def test_a_window_of_few_bytes_holds_few_rows(tmp_path: Path) -> None:
    rows = [(f"{number:03d}", float(number)) for number in range(300)]
    written(ROW_SCHEMA, tmp_path, rows, [*rows[10:], *rows[:10]])
    window = Window(rows=1_000, bytes=100, page_rows=2, trial_pages=1_000)
    source, target = drop_identical_rows(ROW_SCHEMA, tmp_path / "source", tmp_path / "target", tmp_path, window)
    assert 0 < row_count(source) == row_count(target) <= 10
