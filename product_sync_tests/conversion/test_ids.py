"""An id and its text: there and back, in Python and in SQL."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.binary import UuidRepresentation
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from product_sync.conversion.document import CODEC_OPTIONS, decode
from product_sync.conversion.elements import id_element
from product_sync.conversion.ids import LONGEST_KEY, possible_ids, source_id, source_key, to_bson
from product_sync.schema.records import IdType, SourceId
from product_sync_tests.row_schemas import document, element, string

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.one_of(
    st.binary(min_size=12, max_size=12).map(ObjectId),
    TEXTS,
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.uuids(),
)
OPTIONS = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)


@given(IDS)
def test_every_supported_id_can_be_rebuilt_from_its_type_and_text(bson_id: Any) -> None:
    source = source_id(bson_id)
    assert source is not None
    stored = decode(bson.encode({"_id": to_bson(source)}))["_id"]
    assert stored == bson_id
    assert type(stored) is type(bson_id)


@given(IDS)
def test_possible_ids_finds_every_id_that_has_this_text(bson_id: Any) -> None:
    source = source_id(bson_id)
    assert source is not None
    found = [to_bson(candidate) for candidate in possible_ids(source.text)]
    wanted = to_bson(source)
    assert wanted in found  # as MongoDB compares: int32 and int64 by value
    assert all(source_id(decode(bson.encode({"_id": one}))["_id"]).text == source.text for one in found)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("a", [IdType.STRING]),
        ("", [IdType.STRING]),
        ("507f1f77bcf86cd799439011", [IdType.STRING, IdType.OBJECT_ID]),
        ("507F1F77BCF86CD799439011", [IdType.STRING]),
        ("123456789012345678901234", [IdType.STRING, IdType.OBJECT_ID]),
        ("0", [IdType.STRING, IdType.INT]),
        ("-0", [IdType.STRING]),
        ("007", [IdType.STRING]),
        ("+7", [IdType.STRING]),
        ("7\n", [IdType.STRING]),
        ("٣", [IdType.STRING]),
        ("2147483647", [IdType.STRING, IdType.INT]),
        ("2147483648", [IdType.STRING, IdType.LONG]),
        ("-9223372036854775808", [IdType.STRING, IdType.LONG]),
        ("9223372036854775808", [IdType.STRING]),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", [IdType.STRING, IdType.UUID]),
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", [IdType.STRING]),
    ],
)
def test_only_the_canonical_text_of_an_id_stands_for_it(text: str, types: list[IdType]) -> None:
    assert possible_ids(text) == [SourceId(id_type, text) for id_type in types]


@pytest.mark.parametrize(
    "bson_id",
    [
        None, True, 5.0, Decimal128("5"), DatetimeMS(0), {"a": 1}, b"bytes", Code("x"), DBRef("a", 1), Regex("a"),
        Binary(bytes(range(16)), 3), Timestamp(1, 1), MinKey(), MaxKey(),
    ],
    ids=str,
)  # fmt: skip
def test_an_id_of_any_other_type_has_no_text_but_a_key(bson_id: Any) -> None:
    assert source_id(bson_id) is None
    assert source_key(bson_id) == json_util.dumps(bson_id, json_options=OPTIONS)


@given(IDS)
def test_the_key_of_a_document_is_its_id_as_canonical_extended_json(bson_id: Any) -> None:
    assert source_key(bson_id) == json_util.dumps(bson_id, json_options=OPTIONS, ensure_ascii=False)
    assert json_util.loads(source_key(bson_id), json_options=OPTIONS) == bson_id


@pytest.mark.parametrize("text", ["a" * 997, "a" * 998, "a" * 999, "\n" * 600, 'ü"' * 700, "🎈" * 2_000_000])
def test_a_long_key_is_bounded(text: str) -> None:
    key = source_key(text)
    assert len(key) <= LONGEST_KEY
    assert key != source_key(text + "b")


def test_documents_of_megabytes_as_ids_have_keys_of_their_own() -> None:
    keys = {source_key({"a": "x" * 3_000_000, "b": last}) for last in range(3)}
    assert len(keys) == 3
    assert max(len(key) for key in keys) <= LONGEST_KEY


def test_a_key_is_valid_utf8_even_where_the_id_is_not() -> None:
    bson_id = decode(document(element(2, b"_id", string(b"caf\xc3\xa9 \xff"))))["_id"]
    assert source_key(bson_id) == r'"café \udcff"'


@given(IDS | st.floats() | st.booleans() | st.none() | st.dictionaries(st.just("a"), IDS) | st.binary())
def test_the_id_is_read_without_reading_the_rest(bson_id: Any) -> None:
    whole = bson.encode({"_id": bson_id, "rest": "x"}, codec_options=CODEC_OPTIONS)
    alone = id_element(whole)
    assert alone == bson.encode({"_id": bson_id}, codec_options=CODEC_OPTIONS)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x05\0\0\0\0",
        document(element(16, b"other", b"\1\0\0\0")),
        document(element(99, b"_id", b"")),
        b"\x0c\0\0\0\x02_id\0",
    ],
    ids=str,
)
def test_an_id_that_cannot_be_found_is_not_invented(raw: bytes) -> None:
    assert id_element(raw) is None
