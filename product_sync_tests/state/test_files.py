"""A file appears whole or not at all, and says where it comes from."""

from __future__ import annotations

import random
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from product_sync.errors import LocalStorageError
from product_sync.state import files
from product_sync.state.files import read_schema
from product_sync.state.table_file import Group, index_of
from product_sync_tests.tables import group_rows, read_table, write_table

SCHEMA = pa.schema([pa.field("id", pa.string())])


def batch(*ids: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(ids)], schema=SCHEMA)


def test_batches_become_one_file_with_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.arrow"
    rows = write_table(path, SCHEMA, [batch("a", "b"), batch(), batch("c")], metadata={"run_id": "é7"})
    assert rows == 3 == files.row_count(path)
    assert read_table(path)["id"].to_pylist() == ["a", "b", "c"]
    assert files.read_metadata(path) == {"run_id": "é7"}


def test_a_file_without_rows_has_its_schema(tmp_path: Path) -> None:
    assert write_table(tmp_path / "rows", SCHEMA, [], metadata={}) == 0
    assert read_schema(tmp_path / "rows") == SCHEMA


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    write_table(tmp_path / "rows", SCHEMA, [batch("old")], metadata={})

    def breaking() -> Iterator[pa.RecordBatch]:
        yield batch("new")
        raise error

    with pytest.raises(type(error)):
        write_table(tmp_path / "rows", SCHEMA, breaking(), metadata={})
    assert read_table(tmp_path / "rows")["id"].to_pylist() == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_small_batches_share_row_groups_and_large_ones_are_cut(tmp_path: Path) -> None:
    small = write_table(tmp_path / "small", SCHEMA, (batch(str(n)) for n in range(100)), metadata={})
    assert group_rows(tmp_path / "small") == [100]
    large = batch(*("x" for _ in range(files.ROW_GROUP_ROWS + 1)))
    write_table(tmp_path / "large", SCHEMA, [large], metadata={})
    assert group_rows(tmp_path / "large") == [files.ROW_GROUP_ROWS, 1]
    assert small == 100


def test_a_row_group_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    half = "x" * (files.ROW_GROUP_BYTES // 2 - 1024)
    for batches in [batch(half)] * 4, [batch(half, half, half, half)]:
        write_table(tmp_path / "heavy", SCHEMA, batches, metadata={})
        assert group_rows(tmp_path / "heavy") == [2, 2]


def test_only_the_owner_may_read_products(tmp_path: Path) -> None:
    write_table(tmp_path / "rows", SCHEMA, [], metadata={})
    assert stat.S_IMODE((tmp_path / "rows").stat().st_mode) == 0o600


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_file_is_read_or_named_wherever_the_damage_is(tmp_path: Path, seed: int) -> None:
    """Arrow trusts the lengths and offsets of a file: one that is wrong must not end the process."""
    path, rng = tmp_path / "rows", random.Random(seed)  # noqa: S311 - no secret
    rows = [batch(*(f"é{number}" for number in range(start, start + 40))) for start in range(0, 400, 40)]
    write_table(path, SCHEMA, rows, metadata={"run_id": "7"})
    whole, said = path.read_bytes(), list[str]()
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged if rng.random() < 0.8 else damaged[: rng.randrange(len(damaged))])
        try:
            files.read_metadata(path)
            files.check_table(path)
        except LocalStorageError as error:
            said.append(error.message)
    assert len(said) > 50
    assert {*said} == {f"{path} is damaged."}


def test_offsets_that_point_outside_of_the_values_are_named_before_a_value_is_read(tmp_path: Path) -> None:
    path, offsets = tmp_path / "rows", pa.py_buffer(struct.pack("<3i", 0, 2**30, 5))
    ids = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcde")])
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([ids], schema=SCHEMA))
        writer.write_batch(batch(), custom_metadata=index_of([Group(2, {"id": 17}, {})]))
    assert files.row_count(path) == 2
    with pytest.raises(LocalStorageError, match=f"{path} is damaged"):
        files.check_table(path)
