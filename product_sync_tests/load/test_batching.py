"""Batches are cut by rows, by bytes, and before rows that were refused before."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from product_sync.load.batching import count_rows, read_batches
from product_sync.schema.records import Op
from product_sync.state.files import opened, table_writer
from product_sync_tests.source_contract import product_row_schema

WRITES = (Op.INSERT, Op.UPDATE)


def plan(path: Path, ops: list[Op], *, refused_from: int | None = None, title: str = "t", group: int = 7) -> None:
    schema = product_row_schema().diff_schema
    rows = [
        {
            "op": op,
            "id": f"{number:05}",
            "source_id_type": "string",
            "refused_before": refused_from is not None and number >= refused_from,
            "new_title": title,
        }
        for number, op in enumerate(ops)
    ]
    with table_writer(path, schema, metadata={}) as sink:
        for batch in pa.Table.from_pylist(rows, schema=schema).to_batches(max_chunksize=group):
            sink.write(batch)
            sink.flush()


def ids(batch: pa.Table) -> list[str]:
    return [str(row_id) for row_id in batch["id"].to_pylist()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(list(Op)), max_size=60),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(0, 70),
    st.integers(1, 4_000),
)
@example(ops=[Op.INSERT] * 3, size=1, group=2, refused_from=0, max_bytes=1)
def test_batching_loses_and_repeats_nothing(
    ops: list[Op], size: int, group: int, refused_from: int, max_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.arrow"
        plan(path, ops, refused_from=refused_from, group=group)
        batches = list(read_batches(path, WRITES, lambda: size, max_bytes=max_bytes))
        assert count_rows(path, WRITES) == sum(batch.num_rows for batch in batches)
    wanted = [f"{number:05}" for number, op in enumerate(ops) if op is not Op.EXTRA]
    assert [row_id for batch in batches for row_id in ids(batch)] == wanted
    assert all(1 <= batch.num_rows <= size for batch in batches)
    assert all(batch.num_rows == 1 or batch.nbytes <= max_bytes for batch in batches)


def test_batches_reach_over_row_groups(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [Op.INSERT] * 20, group=3)
    batches = read_batches(tmp_path / "plan", WRITES, lambda: 8)
    assert [batch.num_rows for batch in batches] == [8, 8, 4]


def test_a_batch_ends_before_it_has_too_many_bytes(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [Op.INSERT] * 9, title="x" * 1_000)
    batches = list(read_batches(tmp_path / "plan", WRITES, lambda: 100, max_bytes=4_400))
    assert [batch.num_rows for batch in batches] == [4, 4, 1]


def test_a_row_that_is_larger_than_a_batch_travels_alone(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [Op.INSERT] * 2, title="x" * 1_000)
    assert [batch.num_rows for batch in read_batches(tmp_path / "plan", WRITES, lambda: 9, max_bytes=10)] == [1, 1]


def test_rows_that_were_refused_before_share_no_batch_with_others(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [Op.INSERT] * 10, refused_from=7)
    assert [batch.num_rows for batch in read_batches(tmp_path / "plan", WRITES, lambda: 5)] == [5, 2, 3]


def test_the_size_is_asked_for_before_each_batch(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [Op.INSERT] * 10)
    sizes = itertools.count(1)
    assert [batch.num_rows for batch in read_batches(tmp_path / "plan", WRITES, lambda: next(sizes))] == [1, 2, 3, 4]


def test_a_plan_without_differences_has_no_batch(tmp_path: Path) -> None:
    plan(tmp_path / "plan", [])
    assert list(read_batches(tmp_path / "plan", WRITES, lambda: 5)) == []
    assert count_rows(tmp_path / "plan", tuple(Op)) == 0


def test_what_has_been_read_of_a_file_is_not_kept(tmp_path: Path) -> None:
    groups, rows = 20, 5_000
    schema = product_row_schema().diff_schema
    with table_writer(tmp_path / "diff", schema, metadata={}) as sink:
        for group in range(groups):
            given = {
                "op": ["insert"] * rows,
                "id": [f"{group:05}-{number}" for number in range(rows)],
                "refused_before": [False] * rows,
                "new_title": [f"{number:200}" for number in range(rows)],
            }
            columns = [pa.array(given.get(field.name, [None] * rows), field.type) for field in schema]
            sink.write(pa.RecordBatch.from_arrays(columns, schema=schema))
            sink.flush()
    with opened(tmp_path / "diff") as file:
        size = sum(group.bytes_of() for group in file.groups)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_batches(tmp_path / "diff", WRITES, lambda: rows)]
    assert len(held) == groups
    assert max(held) < size / 2
