"""Documents become rows: where values come from, missing values, and the text of a reject."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import bson
import pytest
from bson import Binary, DBRef, Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient

from product_sync.conversion.document import RowConverter, decode, projection
from product_sync.conversion.extended_json import EXCERPT_LENGTH
from product_sync.conversion.ids import source_key
from product_sync.errors import MappingError
from product_sync.schema.records import Defect, IdType, Reason, Reject, SourceId
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import INTEGER, TEXT, document, element, row_schema_of, string

ID = ObjectId("507f1f77bcf86cd799439011")
ID_TEXT = "507f1f77bcf86cd799439011"
KEY = '{"$oid": "507f1f77bcf86cd799439011"}'
UUID_TEXT = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
UUID = ColumnType(TypeName.UUID)
PRODUCT = row_schema_of({"title": TEXT, "price": INTEGER, "quantity": INTEGER}, {"quantity": {"default": 0}})


def defects(outcome: Any) -> list[tuple[str, Reason, str]]:
    assert isinstance(outcome, Reject)
    return [(defect.column, defect.reason, defect.value) for defect in outcome.defects]


def test_a_row_has_the_order_of_the_source_schema() -> None:
    row = RowConverter(PRODUCT).convert({"quantity": 3, "price": 5, "title": "Tea", "_id": ID, "other": 1}, [])
    assert row == (IdType.OBJECT_ID, ID_TEXT, "Tea", 5, 3)
    assert len(row) == len(PRODUCT.source_schema)


def test_every_failing_column_is_named_not_only_the_first() -> None:
    outcome = RowConverter(PRODUCT).convert({"_id": ID, "title": 7, "price": 2.5, "quantity": "3"}, [])
    assert outcome == Reject(
        KEY,
        SourceId(IdType.OBJECT_ID, ID_TEXT),
        (
            Defect("title", Reason.WRONG_TYPE, '{"$numberInt": "7"}'),
            Defect("price", Reason.NOT_EXACT, '{"$numberDouble": "2.5"}'),
            Defect("quantity", Reason.WRONG_TYPE, '"3"'),
        ),
    )


@pytest.mark.parametrize("nothing", [{}, {"price": None}])
class TestAMissingOrNullValue:
    def test_takes_the_default(self, nothing: dict[str, Any]) -> None:
        converter = RowConverter(row_schema_of({"price": INTEGER}, {"price": {"default": 7.0}}))
        assert converter.convert({"_id": ID, **nothing}, []) == (IdType.OBJECT_ID, ID_TEXT, 7)

    def test_is_missing_field_when_required(self, nothing: dict[str, Any]) -> None:
        converter = RowConverter(row_schema_of({"price": INTEGER}))
        assert defects(converter.convert({"_id": ID, **nothing}, [])) == [("price", Reason.MISSING_FIELD, "null")]

    def test_is_null_when_not_required(self, nothing: dict[str, Any]) -> None:
        converter = RowConverter(row_schema_of({"price": INTEGER}, {"price": {"required": False}}))
        assert converter.convert({"_id": ID, **nothing}, []) == (IdType.OBJECT_ID, ID_TEXT, None)


def test_a_constant_is_the_same_in_every_row_and_reads_no_field() -> None:
    row_schema = row_schema_of({"price": INTEGER, "shop": TEXT}, {"shop": {"value": "eu"}})
    raws = [bson.encode({"_id": number, "price": 5, "shop": 7, "": [number]}) for number in range(2)]
    assert RowConverter(row_schema).batch(raws).rows["shop"].to_pylist() == ["eu", "eu"]
    assert "shop" not in projection(row_schema)
    with pytest.raises(MappingError, match=r"The value of column 'price', 1\.5, does not fit integer: not_exact"):
        RowConverter(row_schema_of({"price": INTEGER}, {"price": {"value": 1.5}}))


def test_undefined_is_read_as_null() -> None:
    raw = document(element(16, b"_id", b"\1\0\0\0"), element(6, b"price", b""))
    batch = RowConverter(row_schema_of({"price": INTEGER}, {"price": {"default": 0}})).batch([raw])
    assert batch.rows.to_pylist() == [{"source_id_type": "int", "id": "1", "price": 0}]


class TestADBPointerWhereADocumentIsExpected:
    """The driver decodes it like the document ``{$ref, $id}``, which has no such field and so would get the default."""

    ROW_SCHEMA = row_schema_of({"price": INTEGER}, {"price": {"source": "price.amount", "default": 7}})
    POINTER = string(b"c") + ID.binary

    def test_is_of_the_wrong_type(self) -> None:
        raw = document(element(16, b"_id", b"\1\0\0\0"), element(0x0C, b"price", self.POINTER))
        (reject,) = RowConverter(self.ROW_SCHEMA).batch([raw]).rejects
        assert [(defect.column, defect.reason) for defect in reject.defects] == [("price", Reason.WRONG_TYPE)]
        assert ID_TEXT in reject.defects[0].value

    def test_deeper_down_too(self) -> None:
        row_schema = row_schema_of({"price": INTEGER}, {"price": {"source": "a.b.c", "default": 7}})
        inner = document(element(0x0C, b"b", self.POINTER))
        outer = bson.encode({"b": DBRef("c", ID, b=1)})
        raws = [document(element(16, b"_id", b"\1\0\0\0"), element(3, b"a", value)) for value in (inner, outer)]
        batch = RowConverter(row_schema).batch(raws)
        assert [defect.reason for reject in batch.rejects for defect in reject.defects] == [Reason.WRONG_TYPE]
        assert batch.rows["price"].to_pylist() == [7]

    def test_a_document_with_the_names_of_a_reference_is_a_document(self) -> None:
        batch = RowConverter(self.ROW_SCHEMA).batch(
            [bson.encode({"_id": 1, "price": {"$ref": "c", "$id": 1, "amount": 5}})]
        )
        assert batch.rows["price"].to_pylist() == [5]


def test_symbol_is_read_as_the_string_that_mongodb_takes_it_for() -> None:
    raw = document(element(14, b"_id", string(b"tea")), element(14, b"title", string(b"Tea")))
    batch = RowConverter(row_schema_of({"title": TEXT})).batch([raw])
    assert batch.rows.to_pylist() == [{"source_id_type": "string", "id": "tea", "title": "Tea"}]


NESTED = {"price": {"source": "price.net.amount", "default": 0}}


@pytest.mark.parametrize(
    ("price", "outcome"),
    [
        ({"net": {"amount": 5}}, 5),
        ({"net": {"amount": None}}, 0),
        ({"net": {}}, 0),
        ({"net": None}, 0),
        ({}, 0),
        (None, 0),
        (DBRef("prices", 1, net={"amount": 5}), 5),
        (5, ("price", Reason.WRONG_TYPE, '{"$numberInt": "5"}')),
        ("5", ("price", Reason.WRONG_TYPE, '"5"')),
        ([{"net": {"amount": 5}}], ("price", Reason.WRONG_TYPE, '[{"net": {"amount": {"$numberInt": "5"}}}]')),
        ({"net": 5}, ("price", Reason.WRONG_TYPE, '{"$numberInt": "5"}')),
        ({"net": [1]}, ("price", Reason.WRONG_TYPE, '[{"$numberInt": "1"}]')),
        ({"net": {"amount": "5"}}, ("price", Reason.WRONG_TYPE, '"5"')),
    ],
    ids=str,
)
def test_a_dotted_path_walks_through_documents_only(price: Any, outcome: Any) -> None:
    converted = RowConverter(row_schema_of({"price": INTEGER}, NESTED)).convert({"_id": ID, "price": price}, [])
    if isinstance(converted, Reject):
        assert defects(converted) == [outcome]
    else:
        assert converted[2] == outcome


def test_what_stands_in_a_dotted_path_reaches_us_from_the_server(mongodb_url: str) -> None:
    row_schema = row_schema_of({"price": INTEGER}, NESTED)
    assert projection(row_schema).keys() >= {"_id", "price"}
    assert not any("." in name for name in projection(row_schema))
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        products = client.get_default_database()["products"]
        products.insert_one({"_id": 1, "price": 5, "other": "x"})
        (found,) = products.find({}, projection(row_schema))
    assert found == {"_id": 1, "price": 5}
    assert defects(RowConverter(row_schema).convert(found, [])) == [("price", Reason.WRONG_TYPE, '{"$numberInt": "5"}')]


KEYS: list[tuple[ColumnType, Any, Any]] = [
    (TEXT, ID, SourceId(IdType.OBJECT_ID, ID_TEXT)),
    (TEXT, ID_TEXT, SourceId(IdType.STRING, ID_TEXT)),
    (TEXT, "", SourceId(IdType.STRING, "")),
    (TEXT, 5, SourceId(IdType.INT, "5")),
    (TEXT, Int64(5), SourceId(IdType.LONG, "5")),
    (TEXT, uuid.UUID(UUID_TEXT), SourceId(IdType.UUID, UUID_TEXT)),
    (TEXT, None, Reason.UNSUPPORTED_ID),
    (TEXT, True, Reason.UNSUPPORTED_ID),
    (TEXT, 5.0, Reason.UNSUPPORTED_ID),
    (TEXT, Decimal128("5"), Reason.UNSUPPORTED_ID),
    (TEXT, DatetimeMS(0), Reason.UNSUPPORTED_ID),
    (TEXT, {"shop": 1, "sku": "a"}, Reason.UNSUPPORTED_ID),
    (TEXT, Binary(uuid.UUID(UUID_TEXT).bytes, 3), Reason.UNSUPPORTED_ID),
    (TEXT, "a\0b", Reason.NUL_CHARACTER),
    (TEXT, "a\udcff", Reason.INVALID_UTF8),
    (ColumnType(TypeName.VARCHAR, length=24), ID, SourceId(IdType.OBJECT_ID, ID_TEXT)),
    (ColumnType(TypeName.VARCHAR, length=23), ID, Reason.TOO_LONG),
    (ColumnType(TypeName.VARCHAR, length=3), 1234, Reason.TOO_LONG),
    (UUID, uuid.UUID(UUID_TEXT), SourceId(IdType.UUID, UUID_TEXT)),
    (UUID, UUID_TEXT, SourceId(IdType.STRING, UUID_TEXT)),
    (UUID, UUID_TEXT.upper(), Reason.UNSUPPORTED_ID),
    (UUID, ID, Reason.UNSUPPORTED_ID),
    (UUID, 5, Reason.UNSUPPORTED_ID),
]


@pytest.mark.parametrize(("key", "bson_id", "outcome"), KEYS, ids=str)
def test_the_id_keeps_its_type_and_text_or_is_refused(key: ColumnType, bson_id: Any, outcome: Any) -> None:
    converted = RowConverter(row_schema_of({"title": TEXT}, key=key)).convert({"_id": bson_id, "title": "x"}, [])
    if isinstance(converted, Reject):
        assert [(defect.column, defect.reason) for defect in converted.defects] == [("id", outcome)]
        assert converted.source_id is None
        assert converted.source_key == source_key(bson_id)
    else:
        assert SourceId(*converted[:2]) == outcome


def test_a_document_with_a_bad_value_keeps_its_id_so_that_it_still_counts_as_present() -> None:
    outcome = RowConverter(PRODUCT).convert({"_id": 5}, [])
    assert isinstance(outcome, Reject)
    assert outcome.source_id == SourceId(IdType.INT, "5")


@pytest.mark.parametrize(
    ("column_type", "default", "reason"),
    [
        (INTEGER, "0", Reason.WRONG_TYPE),
        (INTEGER, False, Reason.WRONG_TYPE),
        (INTEGER, 0.5, Reason.NOT_EXACT),
        (INTEGER, 2**31, Reason.OUT_OF_RANGE),
        (INTEGER, float("nan"), Reason.NOT_FINITE),
        (INTEGER, [0], Reason.WRONG_TYPE),
        (INTEGER, {"a": 0}, Reason.WRONG_TYPE),
        (ColumnType(TypeName.DOUBLE), 10**400, Reason.OUT_OF_RANGE),
        (ColumnType(TypeName.VARCHAR, length=3), "none", Reason.TOO_LONG),
        (ColumnType(TypeName.VARCHAR, length=3), "x" * 10_000, Reason.TOO_LONG),
        (ColumnType(TypeName.TIMESTAMPTZ), "2024-01-01", Reason.WRONG_TYPE),
        (
            ColumnType(TypeName.TIMESTAMPTZ),
            dt.datetime(2024, 1, 1, microsecond=1, tzinfo=dt.UTC),
            Reason.NOT_EXACT,
        ),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else "number",
)
def test_a_default_that_does_not_fit_is_refused_at_the_start(
    column_type: ColumnType, default: Any, reason: Reason
) -> None:
    row_schema = row_schema_of({"field": column_type}, {"field": {"default": default}})
    with pytest.raises(MappingError, match=rf"(?s)'field'.*{reason}") as caught:
        RowConverter(row_schema)
    assert len(str(caught.value)) < 600


def test_decoding_keeps_what_the_rules_tell_apart() -> None:
    raw = bson.encode(
        {
            "int": 1,
            "long": Int64(1),
            "uuid4": Binary(b"1" * 16, 4),
            "uuid3": Binary(b"1" * 16, 3),
            "date": DatetimeMS(2**62),
        }
    )
    decoded = decode(raw)
    assert [type(value) for value in decoded.values()] == [int, Int64, uuid.UUID, Binary, DatetimeMS]
    assert int(decoded["date"]) == 2**62


def test_a_batch_is_columns_and_rejects_and_loses_nothing() -> None:
    good = [bson.encode({"_id": number, "title": f"Tea {number}", "price": number}) for number in range(3)]
    bad = [bson.encode({"_id": "bad", "title": "x", "price": "1"}), b"nonsense"]
    batch = RowConverter(PRODUCT).batch([good[0], bad[0], good[1], bad[1], good[2]])
    assert batch.documents == 5
    assert batch.rows.schema.equals(PRODUCT.source_schema)
    assert batch.rows["id"].to_pylist() == ["0", "1", "2"]
    assert [reject.defects[0].reason for reject in batch.rejects] == [Reason.WRONG_TYPE, Reason.INVALID_BSON]


@pytest.mark.parametrize("documents", [[], [b"nonsense"]])
def test_a_batch_without_rows_has_its_schema_all_the_same(documents: list[bytes]) -> None:
    batch = RowConverter(PRODUCT).batch(documents)
    assert batch.rows.num_rows == 0
    assert batch.rows.schema.equals(PRODUCT.source_schema)


def test_an_undecodable_document_is_known_by_its_id() -> None:
    raw = document(element(7, b"_id", ID.binary), element(8, b"title", b"\2"))
    (reject,) = RowConverter(PRODUCT).batch([raw]).rejects
    assert reject.source_key == KEY
    assert reject.source_id == SourceId(IdType.OBJECT_ID, ID_TEXT)
    assert defects(reject) == [("id", Reason.INVALID_BSON, "invalid boolean value: 2")]


def test_an_undecodable_document_with_an_unsupported_id_has_both_reasons() -> None:
    raw = document(element(10, b"_id", b""), element(8, b"title", b"\2"))
    (reject,) = RowConverter(PRODUCT).batch([raw]).rejects
    assert reject.source_key == "null"
    assert [defect.reason for defect in reject.defects] == [Reason.UNSUPPORTED_ID, Reason.INVALID_BSON]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        document(element(99, b"_id", b"")),
        document(element(5, b"_id", b"\3\0\0\0\4abc")),
        document(element(2, b"_id", (-9).to_bytes(4, "little", signed=True))),
    ],
    ids=["empty", "short", "unknown type", "UUID of three bytes", "text of a negative length"],
)
def test_an_undecodable_document_without_an_id_is_known_by_its_bytes(raw: bytes) -> None:
    converter = RowConverter(PRODUCT)
    first, again, other = converter.batch([raw, raw, raw + b"\1"]).rejects
    assert first.source_id is None
    assert first.source_key == again.source_key != other.source_key
    assert first.source_key.startswith('{"$undecodable": "')


def test_a_field_name_that_is_not_utf8_harms_nobody() -> None:
    raw = document(
        element(16, b"_id", b"\1\0\0\0"), element(16, b"\xff\xfe", b"\1\0\0\0"), element(2, b"title", string(b"Tea")),
        element(16, b"price", b"\5\0\0\0"),
    )  # fmt: skip
    batch = RowConverter(PRODUCT).batch([raw])
    assert batch.rows.to_pylist() == [{"source_id_type": "int", "id": "1", "title": "Tea", "price": 5, "quantity": 0}]


def test_text_that_is_not_utf8_is_quarantined_as_text_that_is() -> None:
    raw = document(element(16, b"_id", b"\1\0\0\0"), element(2, b"title", string(b"Caf\xe9")))
    (reject,) = RowConverter(row_schema_of({"title": TEXT})).batch([raw]).rejects
    assert defects(reject) == [("title", Reason.INVALID_UTF8, r'"Caf\udce9"')]


def test_an_encoded_surrogate_is_not_utf8() -> None:
    raw = document(element(16, b"_id", b"\1\0\0\0"), element(2, b"title", string(b"\xed\xa0\x80")))
    (reject,) = RowConverter(row_schema_of({"title": TEXT})).batch([raw]).rejects
    assert reject.defects[0].reason is Reason.INVALID_UTF8


def test_a_huge_or_deep_value_is_quarantined_by_its_beginning() -> None:
    deep = document(element(16, b"a", b"\1\0\0\0"))
    for _ in range(150):
        deep = document(element(3, b"a", deep))
    raws = [
        document(element(16, b"_id", b"\1\0\0\0"), element(3, b"title", deep)),
        document(element(16, b"_id", b"\2\0\0\0"), element(5, b"title", b"\0\0\1\0\0" + b"x" * 65536)),
    ]
    rejects = RowConverter(row_schema_of({"title": TEXT})).batch(raws).rejects
    assert [len(reject.defects[0].value) for reject in rejects] == [EXCERPT_LENGTH + 1] * 2
