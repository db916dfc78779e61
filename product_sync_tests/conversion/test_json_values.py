"""A value in a json or jsonb column is the same value as in the document, or the document is refused with the place."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import bson
import pyarrow as pa
import pytest
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.conversion import json_values
from product_sync.conversion.document import CODEC_OPTIONS, RowConverter
from product_sync.schema.records import Reason
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import document, element, row_schema_of, string

JSONB = ColumnType(TypeName.JSONB)

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_atoms = st.one_of(
    st.none(), st.booleans(), _text, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=5, min_value=-(10**9), max_value=10**9).map(Decimal128),
    st.sampled_from([1.0, -0.0, 1e16, 1e300, 5e-324, 99.990, Decimal128("1E+40"), Decimal128("-0E-3"), "\\u0000",
                     "e100", "1.00, 2.50]"]),
)  # fmt: skip
#: Values that JSON can hold, as they are decoded.
JSON: st.SearchStrategy[Any] = st.recursive(
    _atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4), max_leaves=12
).filter(lambda value: value is not None)


def outcome(value: Any, column_type: ColumnType = JSONB) -> str | tuple[Reason, str]:
    """The canonical text, or the reason and what the quarantine shows of the value."""
    return converted(bson.encode({"_id": 1, "field": value}, codec_options=CODEC_OPTIONS), column_type)


def converted(raw: bytes, column_type: ColumnType = JSONB) -> str | tuple[Reason, str]:
    batch = RowConverter(row_schema_of({"field": column_type})).batch([raw])
    if batch.rejects:
        (defect,) = batch.rejects[0].defects
        return defect.reason, defect.value
    return str(batch.rows["field"][0].as_py())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "{}"),
        ([], "[]"),
        ("tea", '"tea"'),
        (True, "true"),
        ({"bb": 1, "a": [None, False], "c": {"": 2}}, '{"a": [null, false], "c": {"": 2}, "bb": 1}'),
        ({"é": 1, "zz": 2, "z": 3, "aaa": 4}, '{"z": 3, "zz": 2, "é": 1, "aaa": 4}'),
        ([1, Int64(2), 2.0, 2.50, -0.0, 1e16, 1e-7], "[1, 2, 2, 2.5, 0, 10000000000000000, 0.0000001]"),
        ([2.0**62, Decimal128("1.10"), Decimal128("1E+3")], "[4611686018427388000, 1.1, 1000]"),
        ('"\\\n\t\x01\x7f/é', '"\\"\\\\\\n\\t\\u0001\x7f/é"'),
        (ObjectId("507f1f77bcf86cd799439011"), '"507f1f77bcf86cd799439011"'),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (DatetimeMS(1_704_067_200_007), '"2024-01-01T00:00:00.007Z"'),
        (DatetimeMS(-1), '"1969-12-31T23:59:59.999Z"'),
        (DatetimeMS(-62_135_596_800_000), '"0001-01-01T00:00:00.000Z"'),
        (DatetimeMS(253_402_300_799_999), '"9999-12-31T23:59:59.999Z"'),
    ],
    ids=str,
)
def test_what_json_can_hold_is_copied_as_one_text(value: Any, expected: str) -> None:
    assert outcome(value) == expected
    assert outcome(value, ColumnType(TypeName.JSON)) == expected


@pytest.mark.parametrize(
    ("value", "reason", "shown"),
    [
        ({"sizes": [1, {"x": math.nan}]}, Reason.NOT_FINITE, '.sizes[1].x: {"$numberDouble": "NaN"}'),
        ([Decimal128("-Infinity")], Reason.NOT_FINITE, '[0]: {"$numberDecimal": "-Infinity"}'),
        ({"a": "x\0"}, Reason.NUL_CHARACTER, '.a: "x\\u0000"'),
        ([DatetimeMS(253_402_300_800_000)], Reason.OUT_OF_RANGE, '[0]: {"$date": {"$numberLong": "253402300800000"}}'),
        (DatetimeMS(-62_135_596_800_001), Reason.OUT_OF_RANGE, '{"$date": {"$numberLong": "-62135596800001"}}'),
        ({"a": {"b": [b"x"]}}, Reason.NOT_JSON, '.a.b[0]: {"$binary": {"base64": "eA==", "subType": "00"}}'),
        ([Binary(b"x", 2)], Reason.NOT_JSON, '[0]: {"$binary": {"base64": "eA==", "subType": "02"}}'),
        ([Regex("a")], Reason.NOT_JSON, '[0]: {"$regularExpression": {"pattern": "a", "options": ""}}'),
        ([Timestamp(1, 2)], Reason.NOT_JSON, '[0]: {"$timestamp": {"t": 1, "i": 2}}'),
        ([Code("x")], Reason.NOT_JSON, '[0]: {"$code": "x"}'),
        ([Code("x", {"y": 1})], Reason.NOT_JSON, '[0]: {"$code": "x", "$scope": {"y": {"$numberInt": "1"}}}'),
        ([MinKey()], Reason.NOT_JSON, '[0]: {"$minKey": 1}'),
        (MaxKey(), Reason.NOT_JSON, '{"$maxKey": 1}'),
        ({"r": DBRef("c", 1)}, Reason.NOT_JSON, '.r: {"$ref": "c", "$id": {"$numberInt": "1"}}'),
        ({"x" * 300: [math.inf]}, Reason.NOT_FINITE, f'.{"x" * 99}: {{"$numberDouble": "Infinity"}}'),
    ],
    ids=str,
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any, reason: Reason, shown: str) -> None:
    assert outcome(value) == (reason, shown)


def test_bytes_that_are_no_text_are_refused_in_values_and_in_names() -> None:
    for member in (element(0x02, b"a", string(b"\xff")), element(0x10, b"\xff", b"\1\0\0\0")):
        raw = document(element(0x10, b"_id", b"\1\0\0\0"), element(0x03, b"field", document(member)))
        found = converted(raw)
        assert found[0] is Reason.INVALID_UTF8


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("inside", [0x03, 0x04])
def test_an_object_with_a_repeated_name_is_refused_at_any_depth(depth: int, inside: int) -> None:
    value = document(element(0x10, b"a", b"\1\0\0\0"), element(0x10, b"a", b"\1\0\0\0"))
    for _ in range(depth):
        value = document(element(inside, b"0", value)) if inside == 0x04 else document(element(0x03, b"x", value))
    kind = 0x03 if depth == 0 else inside
    raw = document(element(0x10, b"_id", b"\1\0\0\0"), element(kind, b"field", value))
    found = converted(raw)
    assert found[0] is Reason.REPEATED_FIELD


@pytest.mark.parametrize("names", [(b"a", b"a"), (b"a", b"b")])
def test_a_repeated_name_beside_a_text_of_megabytes_is_found(names: tuple[bytes, bytes]) -> None:
    members = element(0x10, names[0], b"\1\0\0\0"), element(0x10, names[1], b"\1\0\0\0")
    value = document(element(0x02, b"t", string(b"x" * 2_000_000)), element(0x03, b"o", document(*members)))
    found = converted(document(element(0x10, b"_id", b"\1\0\0\0"), element(0x03, b"field", value)))
    assert (found[0] is Reason.REPEATED_FIELD) == (names[0] == names[1])


def test_the_same_name_at_two_places_is_no_repetition() -> None:
    assert outcome({"a": [{"a": 1}, {"a": 1}], "field": {"a": 1}}) == '{"a": [{"a": 1}, {"a": 1}], "field": {"a": 1}}'


def test_deprecated_values_are_read_as_everywhere_else() -> None:
    """A symbol is a string, ``undefined`` is null, a DBPointer is a DBRef."""
    members = element(0x0E, b"s", string(b"x")), element(0x06, b"u", b"")
    raw = document(element(0x10, b"_id", b"\1\0\0\0"), element(0x03, b"field", document(*members)))
    assert converted(raw) == '{"s": "x", "u": null}'
    pointer = element(0x0C, b"p", string(b"c") + b"x" * 12)
    raw = document(element(0x10, b"_id", b"\1\0\0\0"), element(0x03, b"field", document(pointer)))
    assert converted(raw)[0] is Reason.NOT_JSON


def test_a_value_that_would_become_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "LONGEST", 100_000)
    assert len(outcome([Decimal128("1E+6144")] * 10)) > 60_000
    assert outcome([Decimal128("1E+6144")] * 20)[0] is Reason.TOO_LONG


def test_documents_as_deep_as_mongodb_has_them_are_copied() -> None:
    value: Any = 1
    for _ in range(90):
        value = {"a": [value]}
    assert outcome(value) == '{"a": [' * 90 + "1" + "]}" * 90


def _meant(value: Any) -> Any:
    """The value with its numbers as fractions, which know no form of writing."""
    if isinstance(value, dict):
        return {name: _meant(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_meant(member) for member in value]
    if isinstance(value, Decimal128):
        return Fraction(value.to_decimal())
    if isinstance(value, float):
        return Fraction(str(value))
    return Fraction(value) if type(value) in (int, Int64, Decimal) else value


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_the_text_says_the_same_as_the_value(value: Any) -> None:
    text = outcome(value)
    assert isinstance(text, str)
    assert _meant(json.loads(text, parse_float=Decimal)) == _meant(value)
    assert json_values.canonical(pa.array([text]), JSONB).to_pylist() == [text]
