"""The diff equals a few lines of plain Python, whatever the rows are and however few of them fit into memory."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts, diff
from product_sync.compare.key_ranges import LIMITS, Limits
from product_sync.conversion.ids import source_key
from product_sync.schema.records import Defect, Reason, Reject, SourceId, Stage
from product_sync.schema.row_schema import ID_TYPE
from product_sync.schema.types import ColumnType, TypeName
from product_sync.state.files import row_count
from product_sync_tests.row_schemas import row_schema_of
from product_sync_tests.tables import read_table, write_table

#: Names that differ in letter case only, one that the files use for themselves, and one that is written once.
ROW_SCHEMA = row_schema_of(
    {
        "price": ColumnType(TypeName.INTEGER),
        "Price": ColumnType(TypeName.INTEGER),
        "weight": ColumnType(TypeName.DOUBLE),
        "op": ColumnType(TypeName.TEXT),
        "note": ColumnType(TypeName.TEXT),
    },
    {name: {"required": False} for name in ("price", "Price", "weight", "op")}
    | {"note": {"required": False, "update": False}},
)
NAMES = [column.name for column in ROW_SCHEMA.values]
COMPARED = [column.name for column in ROW_SCHEMA.compared]
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

Values = tuple[Any, ...]
VALUES = st.tuples(
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 1]),
    st.sampled_from([None, 0.5, math.nan, -0.0, 0.0]),
    st.sampled_from([None, "", "x" * 50]),
    st.sampled_from([None, "note"]),
)


@dataclass(frozen=True)
class Product:
    """What the two sides have of a text id. ``rejected``: not at all, for its values, or because two documents share
    the text; ``refused``: what the database refused, and of a document of which type."""

    source: Values | None
    target: Values | None
    rejected: str
    refused: Values | None
    refused_type: str


PRODUCTS = st.dictionaries(
    st.one_of(st.text(max_size=3).filter(lambda text: "\0" not in text), st.integers(0, 99).map(str)),
    st.builds(
        Product,
        st.none() | VALUES,
        st.none() | VALUES,
        st.sampled_from(["no", "no", "no", "values", "shared"]),
        st.none() | VALUES,
        st.sampled_from(["string", "string", "int"]),
    ),
    max_size=25,
)


def same(left: Any, right: Any) -> bool:
    both_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    return bool(left == right) or both_nan


def all_same(left: Values, right: Values, names: Sequence[str]) -> bool:
    return all(same(left[NAMES.index(name)], right[NAMES.index(name)]) for name in names)


def specified(products: dict[str, Product]) -> list[tuple[Any, ...]]:
    """``(refused_before, op, id, source's values, target's values)``, in the order of a diff."""
    rows: list[tuple[Any, ...]] = []
    for text, product in products.items():
        new, old = product.source, product.target
        if product.rejected != "no" or (new is None and old is None):
            continue
        if new is None:
            rows.append((False, 2, text, None, old))
        elif old is None or not all_same(new, old, COMPARED):
            is_refused = product.refused is not None and product.refused_type == "string"
            refused = is_refused and all_same(new, product.refused or (), NAMES)
            rows.append((refused, 0 if old is None else 1, text, new, old))
    return sorted(rows, key=lambda row: row[:3])


def written(folder: Path, products: dict[str, Product], target_order: Sequence[str]) -> None:
    source, rejects, refused, refused_values = [], [], [], []
    for text, product in products.items():
        document = SourceId("string", text)
        if product.source is not None and product.rejected != "values":
            source.append({ID_TYPE: "string", "id": text, **dict(zip(NAMES, product.source, strict=True))})
        if product.rejected == "values":
            rejects.append(Reject(source_key(text), document, (Defect("price", Reason.NOT_EXACT, "2.5"),)))
        elif product.rejected == "shared":
            # The other document has this text too; it has a row like this one, or had a defect already.
            other = SourceId("symbol", text)
            reasons = [Reason.DUPLICATE_ID] if product.source else [Reason.NOT_EXACT, Reason.DUPLICATE_ID]
            rejects.append(Reject(f"other {text}", other, tuple(Defect("id", reason, "") for reason in reasons)))
            if product.source is not None:
                rejects.append(Reject(source_key(text), document, (Defect("id", Reason.DUPLICATE_ID, ""),)))
                source.append({ID_TYPE: "symbol", "id": text, **dict(zip(NAMES, product.source, strict=True))})
        if product.refused is not None:
            refused_id = SourceId(product.refused_type, text)
            refused.append(Reject(f"{product.refused_type} {text}", refused_id, (Defect("id", Reason.NOT_EXACT, ""),)))
            refused_values.append(dict(zip(NAMES, product.refused, strict=True)))
    target = [
        {"id": text, **dict(zip(NAMES, old, strict=True))}
        for text in target_order
        if (old := products[text].target) is not None
    ]
    # An _id of no known type has no text.
    rejects.append(Reject("unknown", None, (Defect("id", Reason.UNSUPPORTED_ID, ""),)))
    write_table(
        folder / "source",
        ROW_SCHEMA.source_schema,
        [pa.RecordBatch.from_pylist(source, ROW_SCHEMA.source_schema)],
        metadata={},
    )
    write_table(
        folder / "target",
        ROW_SCHEMA.target_schema,
        [pa.RecordBatch.from_pylist(target, ROW_SCHEMA.target_schema)],
        metadata={},
    )
    schema = quarantine.rejects_schema(ROW_SCHEMA)
    write_table(folder / "rejects", schema, [quarantine.rejects_batch(ROW_SCHEMA, rejects, Stage.CONVERT)], metadata={})
    values = pa.Table.from_pylist(refused_values, pa.schema(list(ROW_SCHEMA.target_schema)[1:]))
    batch = quarantine.rejects_batch(ROW_SCHEMA, refused, Stage.LOAD, values)
    write_table(folder / "refused", schema, [batch], metadata={})
    quarantine.merge(None, [folder / "refused"], folder / "quarantine", now=NOW, run_id="1")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PRODUCTS, st.randoms(use_true_random=False), st.sampled_from([LIMITS, Limits(1_000, 300), Limits(100, 50)]))
def test_the_diff_is_what_the_specification_says(
    tmp_path: Path, products: dict[str, Product], random: Any, limits: Limits
) -> None:
    order = list(products)
    random.shuffle(order)
    written(tmp_path, products, order)
    paths = [tmp_path / name for name in ("source", "rejects", "target", "quarantine", "diff")]
    counts = diff(ROW_SCHEMA, *paths, metadata={}, limits=limits)
    found = read_table(tmp_path / "diff")
    new = zip(*(found[f"new_{name}"].to_pylist() for name in NAMES), strict=True)
    old = zip(*(found[f"old_{name}"].to_pylist() for name in NAMES), strict=True)
    expected = specified(products)
    ops = ["insert", "update", "extra"]
    assert [
        (refused, ops.index(op), row_id)
        for refused, op, row_id in zip(
            found["refused_before"].to_pylist(), found["op"].to_pylist(), found["id"].to_pylist(), strict=True
        )
    ] == [row[:3] for row in expected]
    assert [*map(repr, new)] == [repr(row[3] or (None,) * len(NAMES)) for row in expected]
    assert [*map(repr, old)] == [repr(row[4] or (None,) * len(NAMES)) for row in expected]
    assert found[ID_TYPE].to_pylist() == [None if row[3] is None else "string" for row in expected]
    rejected = [one.rejected for one in products.values()]
    shared = [one for one in products.values() if one.rejected == "shared"]
    documents = sum(one.source is not None for one in products.values() if one.rejected == "no")
    documents += rejected.count("values") + len(shared) + sum(one.source is not None for one in shared) + 1
    kinds = [row[:2] for row in expected]
    refused = sum(is_refused for is_refused, _ in kinds)
    assert counts == DiffCounts(
        source_count=documents,
        target_count=sum(one.target is not None for one in products.values()),
        missing=kinds.count((False, 0)),
        changed=kinds.count((False, 1)),
        extra=kinds.count((False, 2)),
        quarantined=row_count(tmp_path / "rejects") + refused,
        refused=refused,
    )
