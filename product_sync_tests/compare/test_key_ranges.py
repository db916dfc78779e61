"""Rows come together by key, each once, and never more of them than fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product_sync.compare.key_ranges import FileInput, Limits, by_key
from product_sync.state.files import table_writer
from product_sync.state.spill import Spill, row_bytes

SCHEMA = pa.schema({"key": pa.string(), "text": pa.string(), "number": pa.int64()})
KEYS = st.one_of(st.text(max_size=3), st.integers(0, 400).map(lambda number: f"7{number:023x}"))


def written(path: Path, rows: list[tuple[str, str, int]], group_rows: int = 7) -> FileInput:
    with table_writer(path, SCHEMA, metadata={}) as sink:
        for start in range(0, len(rows), group_rows):
            names = ("key", "text", "number")
            page = [dict(zip(names, row, strict=True)) for row in rows[start : start + group_rows]]
            sink.write(pa.RecordBatch.from_pylist(page, SCHEMA))
            sink.flush()
    return FileInput(path, SCHEMA, "key")


def tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


ROWS = st.lists(st.tuples(KEYS, st.text(max_size=40), st.integers(0, 9)), max_size=60)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ROWS, st.booleans(), st.integers(50, 3_000))
def test_every_row_comes_once_and_all_of_a_key_together(
    tmp_path: Path, left: list[Any], right: list[Any], is_sorted: bool, range_bytes: int
) -> None:
    if is_sorted:
        left.sort()
    inputs = [written(tmp_path / "left", left), written(tmp_path / "right", right)]
    ranges = list(by_key(inputs, tmp_path, Limits(range_bytes, waiting_bytes=range_bytes // 4)))
    for side, rows in enumerate((left, right)):
        assert sorted(row for parts in ranges for row in tuples(parts[side])) == sorted(rows)
    last = None
    for parts in ranges:
        keys = {row[0] for part in parts for row in tuples(part)}
        assert last is None or not keys or min(keys) > last
        last = max(keys, default=last)
        size = sum(row_bytes(batch).sum() for part in parts for batch in part.to_batches())
        largest = max((size_of(parts, key) for key in keys), default=0)
        assert size <= range_bytes + largest
    assert {path.name for path in tmp_path.iterdir()} == {"left", "right"}


def test_an_input_whose_keys_rise_is_not_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"{number:04d}", "x" * 100, number) for number in range(1_000)]
    inputs = [written(tmp_path / "left", rows), written(tmp_path / "right", rows[::3])]
    monkeypatch.delattr(Spill, "add")
    ranges = list(by_key(inputs, tmp_path, Limits(10_000, 5_000)))
    assert len(ranges) > 10
    assert [row for left, _ in ranges for row in tuples(left)] == rows
    assert [row for _, right in ranges for row in tuples(right)] == rows[::3]


def size_of(parts: tuple[pa.Table, ...], key: str) -> int:
    return sum(
        int(row_bytes(batch)[np.array(batch["key"].to_pylist(), object) == key].sum())
        for part in parts
        for batch in part.to_batches()
    )


@pytest.mark.parametrize("order", [1, -1])
def test_wide_rows_beside_each_other_do_not_come_at_once(tmp_path: Path, order: int) -> None:
    """A hundred rows of one row group have all the bytes of it."""
    rows = [(f"{number:04d}", "x" * (100_000 if 500 <= number < 600 else 1), number) for number in range(1_000)]
    one = written(tmp_path / "rows", rows[::order], group_rows=1_000)
    ranges = list(by_key([one], tmp_path, Limits(range_bytes=1_000_000, waiting_bytes=500_000)))
    assert sum(part.num_rows for (part,) in ranges) == 1_000
    assert max(part.nbytes for (part,) in ranges) < 1_200_000


def test_a_key_that_has_more_than_fits_comes_whole(tmp_path: Path) -> None:
    rows = [("a", "x" * 5_000, 1), ("b", "x" * 5_000, 2), ("b", "x" * 5_000, 3), ("c", "", 4)]
    ranges = [tuples(part) for (part,) in by_key([written(tmp_path / "rows", rows)], tmp_path, Limits(3_000, 1_000))]
    assert [[number for _, _, number in part] for part in ranges if part] == [[1], [2, 3], [4]]


def test_rows_are_put_aside_once_and_not_for_each_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a file are read twice: their keys for the borders, and then once to be put aside."""
    one = written(tmp_path / "rows", [(f"{number:04d}", "x" * 100, number) for number in reversed(range(1_000))])
    read = 0
    batches = FileInput.batches

    def counted(self: FileInput) -> Any:
        nonlocal read
        for batch in batches(self):
            read += batch.num_rows
            yield batch

    monkeypatch.setattr(FileInput, "batches", counted)
    assert len(list(by_key([one], tmp_path, Limits(10_000, 5_000)))) > 10
    assert read == 1_000
