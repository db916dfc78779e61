"""Expressions are evaluated by MongoDB. A document on which one fails is rejected alone, in every kind of read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import Decimal128, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import OperationFailure

from product_sync.errors import ConfigurationError
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING
from product_sync.schema.addresses import SourceAddress
from product_sync.schema.records import IdType, Reason, SourceBatch, SourceId
from product_sync.schema.types import ColumnType, TypeName
from product_sync.sources.mongodb import MongoSource, connect
from product_sync.sources.mongodb.collection import SourceCollection
from product_sync.sources.mongodb.expressions import MappedDocuments
from product_sync_tests.row_schemas import TEXT, row_schema_of
from product_sync_tests.sources.test_source import IDS_OF_EVERY_TYPE

Shop = Database[dict[str, Any]]
BIGINT, NUMERIC = ColumnType(TypeName.BIGINT), ColumnType(TypeName.NUMERIC, precision=10, scale=2)
TIMESTAMPTZ = ColumnType(TypeName.TIMESTAMPTZ)


@pytest.fixture
def shop(mongodb_url: str) -> Iterator[Shop]:
    with connect(SourceAddress(mongodb_url)) as database:
        yield database


def source(shop: Shop, columns: dict[str, tuple[ColumnType, object]], **options: Any) -> MongoSource:
    """The columns are filled by expressions, but ``title`` by the field ``name``."""
    types = {name: column_type for name, (column_type, _) in columns.items()}
    specs = {name: {"expression": expression, "required": False} for name, (_, expression) in columns.items()}
    return MongoSource(
        shop,
        row_schema_of({"title": TEXT} | types, {"title": {"source": "name", "required": False}} | specs),
        **options,
    )


def price(shop: Shop, **options: Any) -> MongoSource:
    return source(shop, {"price": (NUMERIC, {"$toDecimal": "$price"})}, **options)


def failures(batches: list[SourceBatch]) -> dict[str, list[tuple[str, str, str]]]:
    return {
        reject.source_key: [(defect.column, str(defect.reason), defect.value) for defect in reject.defects]
        for batch in batches
        for reject in batch.rejects
    }


DOCUMENT = {
    "_id": ObjectId("507f1f77bcf86cd799439011"),
    "title": {"en": "Ring", "de": None},
    "price": "9.95",
    "images": [{"url": "a.png"}, {"url": "b.png"}],
    "stock": 0,
    "product_sync 0": "a field of the document with the name of the result",
}


@pytest.mark.parametrize(
    ("expression", "column_type", "expected"),
    [
        pytest.param("$title.en", TEXT, "Ring", id="only a path"),
        pytest.param({"$literal": "$5"}, TEXT, "$5", id="a literal"),
        pytest.param("EUR", TEXT, "EUR", id="a plain text"),
        pytest.param(0, BIGINT, 0, id="a number, which a projection takes for an exclusion"),
        pytest.param({"$ifNull": ["$title.de", "$title.en"]}, TEXT, "Ring", id="a fallback"),
        pytest.param({"$cond": [{"$gt": ["$stock", 0]}, "yes", "no"]}, TEXT, "no", id="a condition"),
        pytest.param({"$arrayElemAt": ["$images.url", 0]}, TEXT, "a.png", id="the first of an array"),
        pytest.param({"$slice": ["$images.url", 1]}, TEXT, Reason.WRONG_TYPE, id="an array is no text"),
        pytest.param({"$toDecimal": "$price"}, NUMERIC, "9.95", id="a text to a number"),
        pytest.param({"$multiply": [{"$toDecimal": "$price"}, 100]}, BIGINT, 995, id="cents"),
        pytest.param({"$divide": [{"$toDecimal": "$price"}, 3]}, NUMERIC, Reason.NOT_EXACT, id="nothing is rounded"),
        pytest.param({"$divide": [1, "$stock"]}, NUMERIC, Reason.EXPRESSION_FAILED, id="division by zero"),
        pytest.param({"en": "$title.en"}, TEXT, Reason.WRONG_TYPE, id="an embedded document is no text"),
        pytest.param("$nothing", TEXT, None, id="nothing, although the document has a field of that name"),
        pytest.param({"$toString": {"$toDate": "$_id"}}, TEXT, "2012-10-17T21:13:27.000Z", id="the date of the id"),
        pytest.param(
            {"$dateToString": {"date": {"$date": "2024-02-29T12:00:00Z"}, "format": "%d.%m.%Y"}},
            TEXT, "29.02.2024", id="a date in extended JSON",
        ),
        pytest.param({"$eq": ["$_id", {"$oid": "507f1f77bcf86cd799439011"}]}, ColumnType(TypeName.BOOLEAN), True,
                     id="an ObjectId"),
    ],
)  # fmt: skip
def test_a_value_is_what_mongodb_evaluates_converted_like_a_field(
    shop: Shop, expression: object, column_type: ColumnType, expected: object
) -> None:
    shop["products"].insert_one(dict(DOCUMENT))
    shop["products"].update_one({}, {"$unset": {"title.de": 1}})
    reader = source(shop, {"value": (column_type, expression)})
    [batch] = reader.snapshot()
    again = reader.fetch([SourceId(IdType.OBJECT_ID, str(DOCUMENT["_id"]))])
    for read in batch, again:
        if isinstance(expected, Reason):
            assert [defect.reason for reject in read.rejects for defect in reject.defects] == [expected]
        else:
            assert read.rows["value"].to_pylist() == [expected]


class TestFailures:
    def test_a_failing_document_costs_itself_in_every_read(self, shop: Shop) -> None:
        """At the ends of pages, side by side, and everywhere."""
        failing = {0, 1, 5, 16, 17, 18, 19, 20, 49}
        prices = ["none" if number in failing else f"{number}.50" for number in range(50)]
        shop["products"].insert_many(
            [{"_id": f"p{number:02}", "name": "t", "price": each} for number, each in enumerate(prices)]
        )
        ids = [SourceId(IdType.STRING, f"p{number:02}") for number in range(50)]
        reader = price(shop, page_rows=16)
        for batches in list(reader.snapshot()), [reader.fetch(ids)]:
            assert sum(batch.documents for batch in batches) == 50
            rows = {row["id"]: row["price"] for batch in batches for row in batch.rows.to_pylist()}
            assert rows == {f"p{number:02}": f"{number}.5" for number in range(50) if number not in failing}
            rejected = failures(batches)
            assert rejected.keys() == {f'"p{number:02}"' for number in failing}
            [(column, reason, message)] = rejected['"p05"']
            assert (column, reason) == ("price", "expression_failed")
            assert message == (
                "Failed to parse number 'none' in $convert with no onError value: Failed to parse string to decimal"
            )
        assert len(reader.sample()) == 50

    def test_no_error_stays_in_memory_with_the_command_that_failed(self, shop: Shop) -> None:
        """A command may have megabytes of ids. Python looks for unused cycles after hundreds of objects only."""
        shop["products"].insert_many([{"_id": f"p{number}", "price": "none"} for number in range(5)])
        gc.collect()
        gc.disable()
        try:
            assert len(failures(list(price(shop).snapshot()))) == 5
            # Not isinstance, which asks the object itself: others in this process may be proxies of what is gone.
            assert [each for each in gc.get_objects() if issubclass(type(each), OperationFailure)] == []
        finally:
            gc.enable()

    def test_each_failing_expression_is_named_beside_the_other_defects(self, shop: Shop) -> None:
        shop["products"].insert_one({"_id": 1, "name": 5, "price": "none", "stock": 0})
        columns = {
            "a": "$stock",
            "b": {"$toInt": "$price"},
            "c": {"$divide": [1, "$stock"]},
            "d": {"$toInt": "$missing"},
        }
        [batch] = source(shop, {name: (BIGINT, expression) for name, expression in columns.items()}).snapshot()
        [defects] = failures([batch]).values()
        assert [(column, reason) for column, reason, _ in defects] == [
            ("title", "wrong_type"), ("b", "expression_failed"), ("c", "expression_failed"),
        ]  # fmt: skip
        assert defects[2][2] == "can't $divide by zero"

    @pytest.mark.parametrize("collation", [None, {"locale": "en", "strength": 2}], ids=["simple", "ignoring case"])
    def test_ids_of_every_type_are_read_once_although_all_fail(
        self, shop: Shop, collation: dict[str, Any] | None
    ) -> None:
        shop.command({"create": "products"} | ({"collation": collation} if collation else {}))
        for bson_id in IDS_OF_EVERY_TYPE:
            shop["products"].insert_one({"_id": bson_id, "price": "none"})
        batches = list(price(shop, page_rows=7).snapshot())
        assert len(failures(batches)) == len(IDS_OF_EVERY_TYPE) == sum(batch.documents for batch in batches)

    def test_a_message_that_quotes_bytes_that_are_not_utf8_is_shown(self, shop: Shop) -> None:
        broken = bson.encode({"_id": "a", "price": "QQQ"}).replace(b"QQQ", b"\xff\xfeQ")
        shop["products"].insert_one(RawBSONDocument(broken))
        reader = price(shop)
        for batch in next(reader.snapshot()), reader.fetch([SourceId(IdType.STRING, "a")]):
            [[(_, reason, message)]] = failures([batch]).values()
            assert (reason, "Failed to parse number" in message) == ("expression_failed", True)

    def test_a_page_of_large_documents_loses_none(self, shop: Shop) -> None:
        """Their ids fit one reply of the server, the documents do not."""
        for number in range(12):
            shop["products"].insert_one({"_id": number, "name": "x" * 3_000_000, "price": "9" if number else "none"})
        batches = list(price(shop).snapshot())
        assert [sum(batch.rows.num_rows for batch in batches), len(failures(batches))] == [11, 1]

    def test_a_page_that_is_read_by_its_ids_ends_as_early_as_any_other(self, shop: Shop) -> None:
        """Several replies of the server make up such a page: it must not hold as many documents as fit each of them."""
        for number in range(24):
            price_text = "9" if number % 4 else "none"
            shop["products"].insert_one({"_id": number, "name": "x" * 1_000_000, "price": price_text})
        row_schema = row_schema_of(
            {"title": TEXT, "price": NUMERIC},
            {"title": {"source": "name"}, "price": {"expression": {"$toDecimal": "$price"}, "required": False}},
        )
        collection = SourceCollection(shop, row_schema, retry=RetryPolicy(), timing=SYSTEM_TIMING)
        assert 4_000_000 < MappedDocuments(collection, row_schema).page({}, 1_000).size < 8_500_000

    def test_a_document_that_its_expressions_make_too_large_costs_itself(self, shop: Shop) -> None:
        """The server sends no document of more than 16 MB. Each expression alone has room beside the fields."""
        for number in range(7):
            name = "x" * (7_000_000 if number in (2, 3) else 1)
            shop["products"].insert_one({"_id": f"p{number}", "name": name, "again": name})
        reader = source(shop, {"a": (TEXT, "$again"), "b": (TEXT, "$name"), "c": (TEXT, {"$toLower": "$missing"})})
        ids = [SourceId(IdType.STRING, f"p{number}") for number in range(7)]
        for batches in list(reader.snapshot()), [reader.fetch(ids)]:
            assert sum(batch.rows.num_rows for batch in batches) == 5
            rejected = failures(batches)
            assert rejected.keys() == {'"p2"', '"p3"'}
            for defects in rejected.values():
                [(column, reason, message)] = defects
                assert (column, reason, "Size must be between" in message) == ("b", "expression_failed", True)

    def test_a_document_with_a_repeated_field_is_rejected_as_before(self, shop: Shop) -> None:
        twice = bson.encode({"_id": "a", "name": "one", "namf": "two", "price": "1"}).replace(b"namf", b"name")
        shop["products"].insert_one(RawBSONDocument(twice))
        [batch] = price(shop).snapshot()
        assert [reason for [(_, reason, _)] in failures([batch]).values()] == ["repeated_field"]


def test_a_sample_has_whole_documents_and_the_values_of_expressions(shop: Shop) -> None:
    shop["products"].insert_one({"_id": 1, "price": "1.5", "more": {"a": 1}})
    [document] = price(shop).sample()
    assert bson.decode(document) == {"_id": 1, "price": "1.5", "more": {"a": 1}, "product_sync 0": Decimal128("1.5")}


@pytest.mark.parametrize(
    ("expression", "message"),
    [({"$toDecimalx": "$price"}, "Unrecognized expression '$toDecimalx'"), ("$$NOBODY", "undefined variable: NOBODY")],
)
def test_one_that_the_server_refuses_is_an_error_that_names_the_column(
    shop: Shop, expression: object, message: str
) -> None:
    shop["products"].insert_one({"_id": 1, "price": "1.5"})
    with pytest.raises(ConfigurationError, match="the expression of the column 'price'") as caught:
        next(source(shop, {"price": (NUMERIC, expression)}).snapshot())
    assert message in str(caught.value)
