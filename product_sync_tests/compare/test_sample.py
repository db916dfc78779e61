"""A sample of whole documents shows which field was meant, and what one product becomes."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import Decimal128, ObjectId

from product_sync.compare.sample import take_sample
from product_sync.results import SampleValue
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import row_schema_of

TEXT, MONEY = ColumnType(TypeName.TEXT), ColumnType(TypeName.NUMERIC, precision=10, scale=2)
BOOLEAN = ColumnType(TypeName.BOOLEAN)
SHOP = {
    "_id": ObjectId("507f1f77bcf86cd799439011"), "title": {"en": "Lamp", "de": None}, "stock": {"available": 3},
    "price": {"amount": Decimal128("12.50")}, "images": [{"url": "a.jpg"}], "sku": None, "tags": ["x"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("stock.availible", "The nearest field is stock.available."),
        ("Title.EN", "The nearest field is title.en."),
        ("amount", "The nearest field is price.amount."),
        ("image", "The nearest field is images."),
        ("color", ""),
        ("images[0].url", '{$arrayElemAt: ["$images.url", 0]}'),
        ("images[2]", '{$arrayElemAt: ["$images", 2]}'),
        ("images.1.url", '{$arrayElemAt: ["$images.url", 1]}'),
        ("images.url", '{$arrayElemAt: ["$images.url", 0]}'),
    ],
)
def test_the_field_that_was_probably_meant(path: str, advice: str) -> None:
    row_schema = row_schema_of({"a": TEXT}, {"a": {"source": path}})
    said = take_sample([bson.encode(SHOP)], row_schema).advice(row_schema.values[0])
    if "$" in advice:
        advice = f"A path does not reach into an array: use `expression: {advice}` in place of `source`."
    assert said == advice


def test_the_name_of_a_field_that_is_not_utf8_can_be_shown() -> None:
    row_schema = row_schema_of({"a": TEXT}, {"a": {"source": "categorie"}})
    document = bson.encode({"_id": 1, "cat?gorie": "x"}).replace(b"?", b"\xe9")
    assert take_sample([document], row_schema).advice(row_schema.values[0]) == ("The nearest field is cat\\udce9gorie.")


def test_the_sample_product_is_one_that_can_be_copied_and_has_most_columns() -> None:
    columns: dict[str, dict[str, Any]] = {
        "a": {"source": "title.en", "required": False},
        "b": {"source": "price.amount"},
        "c": {"value": "EUR"},
        "e": {"value": True},
        "d": {"now": True},
    }
    types = {"a": TEXT, "b": MONEY, "c": TEXT, "e": BOOLEAN, "d": ColumnType(TypeName.TIMESTAMPTZ)}
    row_schema = row_schema_of(types, columns)
    others: list[dict[str, Any]] = [{"_id": "x"}, {"_id": "y", "price": {"amount": 1}}, {"_id": "z", "price": 1}]
    documents = [b"damaged", *map(bson.encode, [*others, SHOP, {**SHOP, "_id": "later"}])]
    key = "507f1f77bcf86cd799439011"
    assert take_sample(documents, row_schema).product == [
        SampleValue("id", "_id", "objectId", key, key, None),
        SampleValue("a", "title.en", "string", '"Lamp"', "Lamp", None),
        SampleValue("b", "price.amount", "decimal", "12.50", "12.50", None),
        SampleValue("c", "value", None, "EUR", "EUR", None),
        SampleValue("e", "value", None, "true", "true", None),
        SampleValue("d", "now", None, "the time of the write", "the time of the write", None),
    ]


def test_a_product_that_cannot_be_copied_says_why() -> None:
    row_schema = row_schema_of({"a": TEXT, "b": MONEY}, {"b": {"source": "price.amount"}})
    documents = [bson.encode({"_id": 1, "a": None, "price": 7}), bson.encode({"_id": 2, "a": "t", "price": [7]})]
    assert take_sample(documents, row_schema).product == [
        SampleValue("id", "_id", "int", "2", None, "another column cannot be copied"),
        SampleValue("a", "a", "string", '"t"', None, "another column cannot be copied"),
        SampleValue("b", "price.amount", "array", '[{"$numberInt": "7"}]', None, "wrong_type"),
    ]


def test_without_documents_there_is_no_product() -> None:
    sample = take_sample([], row_schema_of({"a": TEXT}))
    assert (sample.fields, sample.product) == ({}, [])
