"""Each run counts in how many documents a column was found, whichever way a page is converted."""

from __future__ import annotations

from typing import Any

import bson
import pytest

from product_sync.compare.snapshot import found_by_column
from product_sync.conversion.document import RowConverter
from product_sync.conversion.elements import Documents
from product_sync.conversion.page import PageConverter
from product_sync.schema.records import SourceBatch
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import row_schema_of

TYPES = {"title": ColumnType(TypeName.TEXT), "stock": ColumnType(TypeName.INTEGER), "note": ColumnType(TypeName.TEXT)}
FLAT = row_schema_of(TYPES, {"stock": {"default": 0}, "note": {"required": False}})
DOTTED = row_schema_of(TYPES, {"stock": {"source": "stock.here", "default": 0}, "note": {"required": False}})
FULL = {"title": "t", "stock": 5, "note": "n"}


def found_in(page: SourceBatch, row_schema: RowSchema) -> dict[str, int]:
    return found_by_column(row_schema, page.documents, page.absent)


@pytest.mark.parametrize(
    ("documents", "found"),
    [
        ([FULL], (1, 1, 1)),
        ([{"title": "t"}, {"title": "t", "stock": 0}], (2, 1, 0)),
        ([{"title": "t", "note": None}, FULL], (2, 1, 1)),
        ([{"title": "t"}, {**FULL, "stock": "many"}], (2, 1, 1)),
        ([{"stock": 5, "note": "n"}], (0, 1, 1)),
        ([{"stock": "many"}, {"title": 5}, FULL], (2, 2, 1)),
        ([], (0, 0, 0)),
    ],
)
def test_a_column_is_found_where_a_document_has_a_value(
    documents: list[dict[str, Any]], found: tuple[int, int, int]
) -> None:
    raw = [bson.encode({"_id": str(number), **document}) for number, document in enumerate(documents)]
    counted = {"id": len(documents), **dict(zip(TYPES, found, strict=True))}
    assert found_in(RowConverter(FLAT).batch(raw), FLAT) == counted
    assert found_in(PageConverter(FLAT, worth_while=1).batch(Documents.joined(raw)), FLAT) == counted


def test_a_path_ends_at_a_value_that_is_no_document() -> None:
    stocks = [{"here": 1}, {"here": None}, {}, 5, [{"here": 1}], None]
    raw = [bson.encode({"_id": number, "title": "t", "stock": stock}) for number, stock in enumerate(stocks)]
    page = RowConverter(DOTTED).batch([*raw, b"damaged"])
    assert found_in(page, DOTTED) == {"id": 7, "title": 6, "stock": 1, "note": 0}


def test_a_column_with_the_same_value_in_every_row_is_not_counted() -> None:
    layout = row_schema_of({"currency": ColumnType(TypeName.TEXT)}, {"currency": {"value": "EUR"}})
    assert found_in(RowConverter(layout).batch([bson.encode({"_id": "a"})]), layout) == {"id": 1}
