"""What the diff finds, value by value and edge by edge; that it is a partition is proven in test_convergence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bson import ObjectId

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts, diff
from product_sync.compare.diff_lines import Difference, changed_columns, first_differences, first_rows
from product_sync.compare.rule import same
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.types import ColumnType, TypeName
from product_sync.state.files import read_metadata
from product_sync_tests.load.bench import document, make_bench, row
from product_sync_tests.row_schemas import row_schema_of
from product_sync_tests.tables import read_table, write_table

INFINITY, MINUS_INFINITY = 2**63 - 1, -(2**63)


def typed_row_schema() -> RowSchema:
    return row_schema_of(
        {
            "price": ColumnType(TypeName.NUMERIC),
            "weight": ColumnType(TypeName.DOUBLE),
            "size": ColumnType(TypeName.REAL),
            "listed": ColumnType(TypeName.TIMESTAMPTZ),
            "active": ColumnType(TypeName.BOOLEAN),
            "note": ColumnType(TypeName.TEXT),
        },
        {name: {"required": False} for name in ("price", "weight", "size", "listed", "active")}
        | {"note": {"required": False, "update": False}},
    )


def compare(row_schema: RowSchema, folder: Path, source: dict[str, Any], target: dict[str, Any]) -> DiffCounts:
    """One product on both sides. Values are canonical; a value that is not given is NULL."""
    empty = dict.fromkeys(column.name for column in row_schema.values)
    new = pa.RecordBatch.from_pylist(
        [empty | source | {"id": "a", "source_id_type": "string"}], row_schema.source_schema
    )
    old = pa.RecordBatch.from_pylist([empty | target | {"id": "a"}], row_schema.target_schema)
    write_table(folder / "source", row_schema.source_schema, [new], metadata={})
    write_table(folder / "target", row_schema.target_schema, [old], metadata={})
    write_table(folder / "rejects", quarantine.rejects_schema(row_schema), [], metadata={})
    return diff(
        row_schema,
        folder / "source",
        folder / "rejects",
        folder / "target",
        None,
        folder / "diff",
        metadata={"run_id": "7"},
    )


@pytest.mark.parametrize(
    ("source", "target", "changed"),
    [
        ({"price": "99.9"}, {"price": "99.9"}, 0),
        ({"price": "99.9"}, {"price": "99.8"}, 1),
        ({"price": "1"}, {"price": "NaN"}, 1),
        ({"price": "1"}, {}, 1),
        ({}, {"price": "1"}, 1),
        ({}, {}, 0),
        ({"weight": 0.1}, {"weight": 0.1}, 0),
        ({"weight": 0.1}, {"weight": math.nextafter(0.1, 1)}, 1),
        ({"weight": 0.0}, {"weight": -0.0}, 0),
        ({"weight": 1.0}, {"weight": math.nan}, 1),
        ({"weight": 1.0}, {"weight": math.inf}, 1),
        ({"size": 1.5}, {"size": 1.5}, 0),
        ({"size": 1.5}, {"size": math.nan}, 1),
        ({"listed": 5}, {"listed": 5}, 0),
        ({"listed": 5}, {"listed": 6}, 1),
        ({"listed": 5}, {"listed": INFINITY}, 1),
        ({"listed": 5}, {"listed": MINUS_INFINITY}, 1),
        ({"active": False}, {}, 1),
        ({"note": "new"}, {"note": "old"}, 0),
        ({"note": "new", "price": "2"}, {"note": "old", "price": "1"}, 1),
    ],
)
def test_a_product_is_changed_exactly_where_a_compared_value_differs(
    tmp_path: Path, source: dict[str, Any], target: dict[str, Any], changed: int
) -> None:
    row_schema = typed_row_schema()
    assert compare(row_schema, tmp_path, source, target).changed == changed
    assert sum(changed_columns(tmp_path / "diff", row_schema).values()) == changed
    assert len(first_differences(tmp_path / "diff", row_schema)) == changed


def test_infinite_instants_reach_the_load_as_they_were_read(tmp_path: Path) -> None:
    row_schema = typed_row_schema()
    compare(row_schema, tmp_path, {"listed": 5}, {"listed": MINUS_INFINITY})
    table = read_table(tmp_path / "diff")
    assert table.schema.remove_metadata() == row_schema.diff_schema
    assert table["old_listed"].cast(pa.int64()).to_pylist() == [MINUS_INFINITY]


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        (INFINITY, "infinity"),
        (MINUS_INFINITY, "-infinity"),
        (2**62, f"{2**62} microseconds since 1970"),
        (0, "1970-01-01T00:00:00+00:00"),
    ],
)
def test_every_instant_can_be_shown(tmp_path: Path, instant: int, shown: str) -> None:
    row_schema = typed_row_schema()
    compare(row_schema, tmp_path, {"listed": 5}, {"listed": instant})
    [difference] = first_differences(tmp_path / "diff", row_schema)
    assert difference.old == shown


def test_columns_whose_names_differ_in_letter_case_only_are_kept_apart(tmp_path: Path) -> None:
    row_schema = row_schema_of({"price": ColumnType(TypeName.INTEGER), "Price": ColumnType(TypeName.INTEGER)})
    assert compare(row_schema, tmp_path, {"price": 1, "Price": 2}, {"price": 1, "Price": 3}).changed == 1
    assert changed_columns(tmp_path / "diff", row_schema) == {"price": 0, "Price": 1}


def test_the_diff_says_where_it_comes_from(tmp_path: Path) -> None:
    compare(typed_row_schema(), tmp_path, {}, {})
    assert read_metadata(tmp_path / "diff") == {"run_id": "7"}


def test_all_counts_are_there_when_there_is_nothing(tmp_path: Path) -> None:
    assert make_bench(tmp_path).compare() == DiffCounts(0, 0, 0, 0, 0, 0, 0)


def test_rows_come_by_op_and_id(tmp_path: Path) -> None:
    bench = make_bench(
        tmp_path,
        [document("d"), document("b"), document("c", price=2), document("a", price=2)],
        [row("c"), row("a"), row("z"), row("y")],
    )
    bench.compare()
    table = read_table(bench.path("diff"))
    assert list(zip(table["op"].to_pylist(), table["id"].to_pylist(), strict=True)) == [
        ("insert", "b"),
        ("insert", "d"),
        ("update", "a"),
        ("update", "c"),
        ("extra", "y"),
        ("extra", "z"),
    ]


def test_a_quarantined_product_is_neither_changed_nor_extra_nor_missing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price="1"), document("b", price="1")], [row("a")])
    assert bench.compare() == DiffCounts(
        source_count=2, target_count=1, missing=0, changed=0, extra=0, quarantined=2, refused=0
    )


def test_documents_that_share_a_text_id_are_quarantined_and_counted_as_two(tmp_path: Path) -> None:
    hexadecimal = "507f1f77bcf86cd799439011"
    bench = make_bench(tmp_path, [document(ObjectId(hexadecimal)), document(hexadecimal)], [row(hexadecimal)])
    assert bench.compare() == DiffCounts(
        source_count=2, target_count=1, missing=0, changed=0, extra=0, quarantined=2, refused=0
    )


def test_of_two_documents_with_one_text_id_the_unusable_one_counts_too(tmp_path: Path) -> None:
    hexadecimal = "507f1f77bcf86cd799439011"
    bench = make_bench(tmp_path, [document(ObjectId(hexadecimal)), document(hexadecimal, price="free")])
    counts = bench.compare()
    assert (counts.source_count, counts.missing, counts.quarantined) == (2, 0, 2)


def test_a_refused_product_is_excused_only_while_it_keeps_the_refused_values(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=1), document("b")])
    bench.target.refuses = lambda new: "price_is_fair" if new["price"] == 1 else None
    bench.sync()
    counts = bench.compare()
    assert (counts.missing, counts.refused, counts.quarantined) == (0, 1, 1)
    bench.source.put(document("a", price=2))
    counts = bench.compare()
    assert (counts.missing, counts.refused, counts.quarantined) == (1, 0, 0)


def test_a_difference_behind_many_others_is_found(tmp_path: Path) -> None:
    """The file is looked through page by page."""
    ids = [f"p{number:05}" for number in range(10_000)]
    bench = make_bench(tmp_path, [document(name, price=5) for name in ids], [row(name) for name in ids[-2:]])
    bench.compare()
    shown = first_differences(bench.path("diff"), bench.row_schema, 2)
    assert [line.id for line in shown if line.op is Op.INSERT] == ids[:2]
    assert [(line.id, line.column) for line in shown if line.op is Op.UPDATE] == [(name, "price") for name in ids[-2:]]
    assert changed_columns(bench.path("diff"), bench.row_schema)["price"] == 2


def test_the_first_differences_show_old_and_new_values(tmp_path: Path) -> None:
    bench = make_bench(
        tmp_path,
        [
            document("a", title="x" * 500),
            document("b", price=2, title="B"),
            document("c"),
            document("d", title=f"{'x' * 300}, new"),
        ],
        [row("b"), row("d", title=f"{'x' * 300}, old"), row("z")],
    )
    bench.compare()
    inserted, _, title, price, long_title, extra = first_differences(bench.path("diff"), bench.row_schema, 2)
    assert (inserted.op, inserted.id, inserted.column, inserted.old) == (Op.INSERT, "a", "", None)
    assert inserted.new is not None
    whole = f"title: {'x' * 199}…, price: "
    assert inserted.new.startswith(whole), "the whole row, each value bounded"
    assert title == Difference(Op.UPDATE, "b", "title", "Product b", "B")
    assert price == Difference(Op.UPDATE, "b", "price", "100", "2")
    differs = [f"…{'x' * 18}, {value}" for value in ("old", "new")]
    assert long_title == Difference(Op.UPDATE, "d", "title", *differs), "they differ after the 300th character"
    assert (extra.id, extra.new) == ("z", None)
    assert extra.old == "title: Product z, price: 100, image: picture.png, sellerId: seller, quantity: 1"


def test_the_first_rows_of_a_kind_have_a_bound_and_there_is_always_one(tmp_path: Path) -> None:
    ids = [f"p{number:02}" for number in range(20)]
    bench = make_bench(tmp_path, [document(name, title="x" * 1_000) for name in ids], [row("z")])
    bench.compare()
    path = bench.path("diff")
    assert first_rows(path, Op.INSERT, 7)["id"].to_pylist() == ids[:7]
    assert first_rows(path, Op.INSERT, 7, most_bytes=5_000)["id"].to_pylist() == ids[:4]
    assert first_rows(path, Op.INSERT, 7, most_bytes=1)["id"].to_pylist() == ids[:1]
    assert first_rows(path, Op.UPDATE, 7).num_rows == 0


def test_two_nans_and_two_nulls_are_the_same_value() -> None:
    """Of two readings of the target: a row that holds NaN would never be deleted or written by a plan."""
    nan = math.nan
    one, other = [nan, nan, 1.0, None, None, 1.0], [nan, 1.0, nan, None, nan, 1.0]
    found = same(pa.chunked_array([one], pa.float64()), pa.chunked_array([other], pa.float64()))
    assert found.to_pylist() == [True, False, False, True, False, True]
