"""A column is unfilled if no document has a value of its own for it."""

from __future__ import annotations

from typing import Any

import bson
import pytest

from product_sync.compare.unfilled_columns import UnfilledColumns, field_paths
from product_sync.conversion.document import RowConverter
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import row_schema_of

ROW_SCHEMA = row_schema_of(
    {"title": ColumnType(TypeName.TEXT), "stock": ColumnType(TypeName.INTEGER), "note": ColumnType(TypeName.TEXT)},
    {"stock": {"default": 0}, "note": {"required": False}},
)
FULL = {"title": "t", "stock": 5, "note": "n"}


def unfilled(*documents: dict[str, Any]) -> list[str]:
    found = UnfilledColumns(ROW_SCHEMA)
    for number, document in enumerate(documents):
        found.add(RowConverter(ROW_SCHEMA).batch([bson.encode({"_id": str(number), **document})]))
    return [column.name for column in found.columns]


@pytest.mark.parametrize(
    ("documents", "names"),
    [
        ([FULL], []),
        ([{"title": "t"}, {"title": "t", "stock": 0}], ["stock", "note"]),
        ([{"title": "t"}, FULL], []),
        ([{"title": "t"}, {**FULL, "stock": "many"}], ["note"]),
        ([{"stock": 5, "note": "n"}], ["title"]),
        ([{"stock": "many"}, {**FULL, "note": 5}], []),
        ([{"title": 5}], []),
    ],
)
def test_the_columns_that_no_document_fills(documents: list[dict[str, Any]], names: list[str]) -> None:
    assert unfilled(*documents) == names


def test_fields_are_named_by_their_dotted_path_if_a_document_has_a_value() -> None:
    documents = [bson.encode({"_id": 1, "a": {"b": {"c": 1}, "d": None}}), bson.encode({"e": [{"f": 1}]}), b"damaged"]
    assert field_paths(documents) == {"_id", "a", "a.b", "a.b.c", "e"}


def test_a_column_with_the_same_value_in_every_row_is_no_mistake() -> None:
    row_schema = row_schema_of({"currency": ColumnType(TypeName.TEXT)}, {"currency": {"value": "EUR"}})
    found = UnfilledColumns(row_schema)
    found.add(RowConverter(row_schema).batch([bson.encode({"_id": "a"})]))
    assert found.columns == []
