"""An array is copied element by element, by the rule of its elements, or refused with the place of the element."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from product_sync.conversion.document import RowConverter
from product_sync.errors import MappingError
from product_sync.schema.records import Reason
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.conversion.test_json_values import outcome
from product_sync_tests.row_schemas import row_schema_of

OID = "507f1f77bcf86cd799439011"


def array_of(name: TypeName, **details: Any) -> ColumnType:
    return ColumnType(TypeName.ARRAY, element=ColumnType(name, **details))


TEXTS = array_of(TypeName.TEXT)


@pytest.mark.parametrize(
    ("column_type", "values", "expected"),
    [
        (TEXTS, [], "{}"),
        (TEXTS, ["red", "dark blue", None], '{red,"dark blue",NULL}'),
        (TEXTS, ["", "null", "NULLS", "a,b", "{", "ä", "\n"], '{"","null",NULLS,"a,b","{",ä,"\n"}'),
        (TEXTS, ['a"b\\c'], '{"a\\"b\\\\c"}'),
        (array_of(TypeName.INTEGER), [1, 2.0, Int64(-3), Decimal128("4.0")], "{1,2,-3,4}"),
        (array_of(TypeName.NUMERIC, precision=10, scale=2), [99.99, 1, Decimal128("2.50")], "{99.99,1,2.5}"),
        (array_of(TypeName.DOUBLE), [0.1, -0.0, 1e23, 2], "{0.1,0,1e+23,2}"),
        (array_of(TypeName.REAL), [0.1, 16777216], "{0.1,16777216}"),
        (array_of(TypeName.BOOLEAN), [True, None, False], "{t,NULL,f}"),
        (array_of(TypeName.DATE), ["2024-01-31", DatetimeMS(0)], "{2024-01-31,1970-01-01}"),
        (array_of(TypeName.TIMESTAMP, zone="Europe/Berlin"), [DatetimeMS(5)], '{"1970-01-01 01:00:00.005"}'),
        (array_of(TypeName.CHAR, length=3), ["a", " b"], '{a," b"}'),
        (array_of(TypeName.ENUM, labels=("Sad", "so so")), ["so so", "Sad"], '{"so so",Sad}'),
        (array_of(TypeName.UUID), [UUID(int=5)], "{00000000-0000-0000-0000-000000000005}"),
        (
            array_of(TypeName.TIMESTAMPTZ),
            [DatetimeMS(0), DatetimeMS(1_706_702_400_120), DatetimeMS(-210_866_803_200_000)],
            '{"1970-01-01 00:00:00+00","2024-01-31 12:00:00.12+00","4714-11-24 00:00:00+00 BC"}',
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_elements_are_copied_by_their_rule(column_type: ColumnType, values: list[Any], expected: str) -> None:
    assert outcome(values, column_type) == expected


@pytest.mark.parametrize(
    ("column_type", "value", "reason", "shown"),
    [
        (TEXTS, ["a", 5], Reason.WRONG_TYPE, '[1]: {"$numberInt": "5"}'),
        (TEXTS, ["a", "b\0"], Reason.NUL_CHARACTER, '[1]: "b\\u0000"'),
        (TEXTS, [["a"]], Reason.WRONG_TYPE, '[0]: ["a"]'),
        (TEXTS, [{"a": 1}], Reason.WRONG_TYPE, '[0]: {"a": {"$numberInt": "1"}}'),
        (TEXTS, "a", Reason.WRONG_TYPE, '"a"'),
        (TEXTS, {"0": "a"}, Reason.WRONG_TYPE, '{"0": "a"}'),
        (array_of(TypeName.VARCHAR, length=2), ["ab", "abc"], Reason.TOO_LONG, '[1]: "abc"'),
        (array_of(TypeName.INTEGER), [1, 2.5], Reason.NOT_EXACT, '[1]: {"$numberDouble": "2.5"}'),
        (array_of(TypeName.SMALLINT), [2**15], Reason.OUT_OF_RANGE, '[0]: {"$numberInt": "32768"}'),
        (array_of(TypeName.ENUM, labels=("Sad",)), ["sad"], Reason.NOT_IN_ENUM, '[0]: "sad"'),
        (array_of(TypeName.CHAR, length=3), ["a "], Reason.NOT_EXACT, '[0]: "a "'),
        (array_of(TypeName.DOUBLE), [None, float("nan")], Reason.NOT_FINITE, '[1]: {"$numberDouble": "NaN"}'),
    ],
    ids=str,
)
def test_an_element_that_does_not_fit_is_named(column_type: ColumnType, value: Any, reason: Reason, shown: str) -> None:
    assert outcome(value, column_type) == (reason, shown)


def test_references_are_copied_as_texts() -> None:
    row_schema = row_schema_of({"field": TEXTS}, {"field": {"kind": "reference"}})
    assert row_schema.values[0].type == TEXTS
    rows = RowConverter(row_schema).convert({"_id": 1, "field": [ObjectId(OID), 7, None, "x y"]}, [])
    assert rows == ("int", "1", f'{{{OID},7,NULL,"x y"}}')


def test_a_default_is_an_array_too() -> None:
    days = row_schema_of({"field": array_of(TypeName.DATE)}, {"field": {"default": [dt.date(2024, 1, 31), None]}})
    assert RowConverter(days).convert({"_id": 1}, []) == ("int", "1", "{2024-01-31,NULL}")
    converter = RowConverter(row_schema_of({"field": TEXTS}, {"field": {"default": ["a b"]}}))
    assert converter.convert({"_id": 1}, []) == ("int", "1", '{"a b"}')
    with pytest.raises(MappingError, match=r"\[5\], does not fit text\[\]: wrong_type"):
        RowConverter(row_schema_of({"field": TEXTS}, {"field": {"default": [5]}}))
