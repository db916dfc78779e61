"""Pages are converted as their documents one by one: the same rows, the same rejects, in the same order."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import bson
import numpy as np
import pyarrow as pa
import pytest
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.conversion.byte_block import ByteBlock
from product_sync.conversion.document import CODEC_OPTIONS, RowConverter
from product_sync.conversion.elements import Documents
from product_sync.conversion.page import PageConverter
from product_sync.schema.records import SourceBatch
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.conversion.test_properties import LABELS, NUMBERS, OTHERS
from product_sync_tests.row_schemas import INTEGER, TEXT, document, element, row_schema_of, string

PRICE = ColumnType(TypeName.NUMERIC, precision=10, scale=2)
ALL_TYPES = {
    "smallint": ColumnType(TypeName.SMALLINT),
    "integer": INTEGER,
    "bigint": ColumnType(TypeName.BIGINT),
    "price": PRICE,
    "narrow": ColumnType(TypeName.NUMERIC, precision=2, scale=4),
    "round": ColumnType(TypeName.NUMERIC, precision=3, scale=-2),
    "whole": ColumnType(TypeName.NUMERIC, precision=20, scale=0),
    "fine": ColumnType(TypeName.NUMERIC, precision=12, scale=6),
    "any": ColumnType(TypeName.NUMERIC),
    "real": ColumnType(TypeName.REAL),
    "double": ColumnType(TypeName.DOUBLE),
    "text": TEXT,
    "short": ColumnType(TypeName.VARCHAR, length=3),
    "flag": ColumnType(TypeName.BOOLEAN),
    "at": ColumnType(TypeName.TIMESTAMPTZ),
    "uuid": ColumnType(TypeName.UUID),
    "padded": ColumnType(TypeName.CHAR, length=3),
    "folded": ColumnType(TypeName.CITEXT),
    "mood": ColumnType(TypeName.ENUM, own_name=("public", "mood"), labels=LABELS),
    "never": ColumnType(TypeName.ENUM, own_name=("public", "never")),
    "day": ColumnType(TypeName.DATE),
    "day_there": ColumnType(TypeName.DATE, zone="America/Havana"),
    "clock": ColumnType(TypeName.TIMESTAMP, zone="UTC"),
    "clock_there": ColumnType(TypeName.TIMESTAMP, zone="Europe/Berlin"),
    "cut": ColumnType(TypeName.CHAR, length=24),
    "seller": TEXT,
    "maker": ColumnType(TypeName.VARCHAR, length=24),
    "owner": ColumnType(TypeName.UUID),
    "shop": ColumnType(TypeName.VARCHAR, length=2),
    "rank": PRICE,
    "facts": ColumnType(TypeName.JSONB),
    "extra": ColumnType(TypeName.JSON),
    "tags": ColumnType(TypeName.ARRAY, element=TEXT),
    "counts": ColumnType(TypeName.ARRAY, element=INTEGER),
    "sellers": ColumnType(TypeName.ARRAY, element=ColumnType(TypeName.VARCHAR, length=24)),
}
ALL_SPECS: dict[str, dict[str, Any]] = {
    "shop": {"value": "eu"},
    "facts": {"required": False},
    "sellers": {"kind": "reference", "default": []},
    "rank": {"value": 1.5},
    "integer": {"default": 0},
    "text": {"required": False},
    "seller": {"kind": "reference"},
    "cut": {"kind": "reference"},
    "day_there": {"zone": "America/Havana"},
    "clock": {"zone": "UTC"},
    "clock_there": {"zone": "Europe/Berlin"},
    "maker": {"kind": "reference", "required": False},
    "owner": {"kind": "reference", "default": "00000000-0000-4000-8000-000000000000"},
}
IDS = st.one_of(
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.text(max_size=5),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.uuids(),
)
RARE = st.sampled_from(
    [
        Code("x"), Code("x", {"y": 1}), DBRef("c", 1), Regex("a"), Timestamp(1, 2), MinKey(), MaxKey(),
        Binary(b"x" * 16, 3), Binary(b"x" * 15, 4), Binary(b"x" * 16, 0), "\0", "a\0b", "äöü", "äöüß", "", " ",
        2**53, 2**53 + 1, 2.0**53, -0.0, 99.99, 99.999, 0.1, 1e15, 1e16, 123456789012345.6, 0.000001, 1e-7, -(2**63),
        2**63 - 1, float("nan"), float("-inf"),
    ]
)  # fmt: skip
VALUES = st.one_of(NUMBERS, OTHERS, IDS, RARE)
MEMBERS = st.lists(VALUES, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "$ref", "$id", ""]), VALUES)
KEY_TYPES = (TypeName.UUID, TypeName.INTEGER, TypeName.BIGINT)


def page_of(raws: Sequence[bytes]) -> Documents:
    """Documents as they lie in a reply, with other bytes around them."""
    data, starts, ends = b"\x03", [], []
    for raw in raws:
        data += b"\x030\0"
        starts.append(len(data))
        data += raw
        ends.append(len(data))
    return Documents(data + b"\0", np.array(starts, np.int64), np.array(ends, np.int64))


def encoded(value: dict[str, Any]) -> bytes:
    return bson.encode(value, codec_options=CODEC_OPTIONS)


def plain(batch: SourceBatch) -> tuple[object, ...]:
    """All that a batch says, with the sign of zero and without the limits of Python's dates."""
    columns = [
        column.view(f"int{column.type.bit_width}") if pa.types.is_temporal(column.type) else column
        for column in batch.rows.columns
    ]
    assert all(column.validate(full=True) is None for column in columns)
    values = [repr(column.to_pylist()) for column in columns]
    return batch.rows.schema, values, batch.rejects, batch.documents, +Counter(batch.absent)


def assert_same(row_schema: RowSchema, raws: Sequence[bytes]) -> None:
    together = PageConverter(row_schema, worth_while=1).batch(page_of(raws))
    assert plain(together) == plain(RowConverter(row_schema).batch(raws))


@pytest.mark.parametrize("name", ALL_TYPES)
@settings(deadline=None, max_examples=25)
@given(values=st.lists(st.tuples(IDS, VALUES | MEMBERS), min_size=1, max_size=12))
def test_a_column_of_mixed_values_is_read_as_one_by_one(name: str, values: list[tuple[Any, Any]]) -> None:
    row_schema = row_schema_of({name: ALL_TYPES[name]}, {name: ALL_SPECS.get(name, {})})
    assert_same(row_schema, [encoded({"_id": bson_id, name: value}) for bson_id, value in values])


@pytest.mark.parametrize("name", ["smallint", "integer", "bigint", "price", "narrow", "whole", "fine", "any", "double"])
@settings(deadline=None, max_examples=50)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=30))
def test_numbers_are_read_as_one_by_one(name: str, numbers: list[Any]) -> None:
    assert_same(row_schema_of({name: ALL_TYPES[name]}), [encoded({"_id": 1, name: number}) for number in numbers])


@pytest.mark.parametrize("name", ["integer", "price", "narrow", "any"])
@settings(deadline=None, max_examples=40)
@given(
    numbers=st.lists(
        st.one_of(
            st.tuples(st.integers(-(10**19), 10**19), st.integers(-20, 20)),
            st.tuples(st.integers(-(10**12), 10**12), st.integers(-6, 3)),
            st.tuples(st.sampled_from([0, 1, 10**17, 10**18 - 1, 10**18, 2**64, 10**34 - 1]), st.integers(-6176, 6110)),
        ).map(lambda parts: Decimal128(f"{parts[0]}E{parts[1]}")),
        min_size=1,
        max_size=30,
    )
)
def test_decimals_are_read_as_one_by_one(name: str, numbers: list[Decimal128]) -> None:
    assert_same(row_schema_of({name: ALL_TYPES[name]}), [encoded({"_id": 1, name: number}) for number in numbers])


@st.composite
def any_document(draw: st.DrawFn) -> dict[str, Any]:
    """An _id of any type that an _id may have, and some of the fields, in any order, with values of any type."""
    fields = draw(st.lists(st.sampled_from(list(ALL_TYPES)), unique=True, max_size=6))
    bson_id = draw(IDS | VALUES.filter(lambda value: not isinstance(value, list | Regex)))
    return {"_id": bson_id} | {field: draw(VALUES) for field in fields}


@settings(deadline=None, max_examples=100)
@given(
    documents=st.lists(any_document(), min_size=1, max_size=6),
    key=st.sampled_from(
        [TEXT, *(ColumnType(name, length=5) for name in (TypeName.VARCHAR, TypeName.CHAR)), *map(ColumnType, KEY_TYPES)]
    ),
)
def test_documents_of_all_shapes_are_read_as_one_by_one(documents: list[dict[str, Any]], key: ColumnType) -> None:
    assert_same(row_schema_of(ALL_TYPES, ALL_SPECS, key=key), [encoded(document) for document in documents])


REGULAR = {"_id": ObjectId("507f1f77bcf86cd799439011"), "title": "Ring ü", "price": 9.99, "seller": UUID(int=5), "n": 3}
REGULAR_ROW_SCHEMA = row_schema_of(
    {"title": ColumnType(TypeName.VARCHAR, length=9), "price": PRICE, "seller": TEXT, "n": INTEGER},
    {"seller": {"kind": "reference"}, "n": {"default": 7}},
)


@settings(deadline=None, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(encoded(REGULAR)) - 1), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 12),
)
def test_damaged_documents_are_read_as_one_by_one(changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(encoded(REGULAR))
    for place, byte in changes:
        damaged[place] = byte
    raws = [encoded(REGULAR), bytes(damaged), bytes(damaged[: len(damaged) - cut]), encoded(REGULAR)]
    assert_same(REGULAR_ROW_SCHEMA, raws)


def test_a_field_that_is_there_twice_is_read_as_one_by_one() -> None:
    twice = document(
        element(0x10, b"_id", b"\1\0\0\0"),
        element(0x02, b"title", string(b"first")),
        element(0x02, b"title", string(b"last")),
    )
    assert_same(row_schema_of({"title": TEXT}), [twice] * 3)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(["title", "price", "n", "_id"]), VALUES), max_size=6), max_size=9))
def test_documents_with_names_that_stand_twice_are_read_as_one_by_one(bodies: list[list[tuple[str, Any]]]) -> None:
    raws = [encoded(REGULAR)]
    for number, body in enumerate(bodies):
        members = [bson.encode({name: value}, codec_options=CODEC_OPTIONS)[4:-1] for name, value in body]
        raws.append(document(element(0x10, b"_id", struct.pack("<i", number)), *members))
    assert_same(REGULAR_ROW_SCHEMA, raws)


def test_a_field_that_is_not_mapped_is_read_as_one_by_one() -> None:
    broken = document(
        element(0x10, b"_id", b"\1\0\0\0"),
        element(0x02, b"title", string(b"a")),
        element(0x02, b"junk", string(b"\xff")),
    )
    assert_same(row_schema_of({"title": TEXT}), [broken, encoded({"_id": 2, "title": "b", "junk": 1})])


def test_one_text_that_is_not_utf8_leaves_the_others_what_they_are() -> None:
    broken = document(element(0x10, b"_id", b"\1\0\0\0"), element(0x02, b"title", string(b"\xff\0")))
    assert_same(
        row_schema_of({"title": ColumnType(TypeName.VARCHAR, length=2)}),
        [broken, encoded({"_id": 2, "title": "ü"})] * 3,
    )


def test_a_field_inside_another_is_read_as_one_by_one() -> None:
    row_schema = row_schema_of({"price": PRICE}, {"price": {"source": "price.amount"}})
    assert_same(row_schema, [encoded({"_id": n, "price": {"amount": n}}) for n in range(3)])


def test_a_field_of_two_columns_fills_both() -> None:
    row_schema = row_schema_of({"price": PRICE, "text": TEXT}, {"text": {"source": "price", "kind": "reference"}})
    assert_same(row_schema, [encoded({"_id": n, "price": value}) for n, value in enumerate([1, 2.5, "3", 4])])


def test_regular_documents_need_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[dict[str, Any]] = [
        REGULAR,
        REGULAR | {"price": 12, "n": Int64(4)},
        REGULAR | {"price": Decimal128("12.50")},
        {k: v for k, v in REGULAR.items() if k != "n"},
    ]
    raws = [encoded(value | {"_id": ObjectId()}) for value in values for _ in range(70)]
    expected = plain(RowConverter(REGULAR_ROW_SCHEMA).batch(raws))
    converter = PageConverter(REGULAR_ROW_SCHEMA)

    def refuse(*_: object) -> None:
        raise AssertionError("a regular document was converted by itself")

    monkeypatch.setattr(RowConverter, "each", refuse)
    assert plain(converter.batch(page_of(raws))) == expected


def test_a_page_without_documents_has_no_rows() -> None:
    assert_same(REGULAR_ROW_SCHEMA, [])


def test_pages_end_at_their_size_or_after_one_document_that_is_larger() -> None:
    page = page_of([encoded({"_id": 1, "x": "y" * size}) for size in (10, 10, 500, 10, 10, 10)])
    pages = list(page.pages(100))
    assert [len(part) for part in pages] == [2, 1, 2, 1]
    assert [part[index] for part in pages for index in range(len(part))] == [page[index] for index in range(len(page))]


def test_reading_never_leaves_the_block() -> None:
    block = ByteBlock(b"abc")
    at = np.array([0, 3], np.int64)
    assert block.integers(at, "<i8").tolist() == [int.from_bytes(b"abc", "little"), 0]
    assert block.equal(at, b"abc" + b"\0" * 200).tolist() == [True, False]
