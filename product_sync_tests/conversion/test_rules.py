"""What each column type makes of each BSON value: the table of design section 4, line by line."""

from __future__ import annotations

import datetime as dt
import math
import time
import uuid
from decimal import Decimal
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from product_sync.conversion.document import RowConverter
from product_sync.conversion.error import ConversionError
from product_sync.conversion.rules import CONVERSIONS
from product_sync.schema.records import Reason, Reject
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import TEXT, row_schema_of

ID = ObjectId("507f1f77bcf86cd799439011")
NAMESPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

SMALLINT = ColumnType(TypeName.SMALLINT)
INTEGER = ColumnType(TypeName.INTEGER)
BIGINT = ColumnType(TypeName.BIGINT)
NUMERIC = ColumnType(TypeName.NUMERIC)
MONEY = ColumnType(TypeName.NUMERIC, precision=10, scale=2)
HUNDREDS = ColumnType(TypeName.NUMERIC, precision=3, scale=-2)
TINY = ColumnType(TypeName.NUMERIC, precision=3, scale=5)
REAL = ColumnType(TypeName.REAL)
DOUBLE = ColumnType(TypeName.DOUBLE)
VARCHAR = ColumnType(TypeName.VARCHAR, length=4)
BOOLEAN = ColumnType(TypeName.BOOLEAN)
TIMESTAMPTZ = ColumnType(TypeName.TIMESTAMPTZ)
UUID = ColumnType(TypeName.UUID)
JSON = ColumnType(TypeName.JSON)
JSONB = ColumnType(TypeName.JSONB)
CHAR = ColumnType(TypeName.CHAR, length=4)
CITEXT = ColumnType(TypeName.CITEXT)
ENUM = ColumnType(TypeName.ENUM, own_name=("public", "mood"), labels=("sad", "ok"))
DATE = ColumnType(TypeName.DATE)
DATE_THERE = ColumnType(TypeName.DATE, zone="America/Sao_Paulo")
CLOCK = ColumnType(TypeName.TIMESTAMP, zone="UTC")
BERLIN = ColumnType(TypeName.TIMESTAMP, zone="Europe/Berlin")

NUMBERS = [SMALLINT, INTEGER, BIGINT, NUMERIC, MONEY, HUNDREDS, TINY, REAL, DOUBLE]
TYPES = [*NUMBERS, TEXT, VARCHAR, CHAR, CITEXT, ENUM, BOOLEAN, DATE, CLOCK, TIMESTAMPTZ, UUID]


def converted(column_type: ColumnType, value: Any, **spec: Any) -> Any:
    """The canonical value, or the reason for which the value is refused."""
    converter = RowConverter(row_schema_of({"field": column_type}, {"field": spec}))
    outcome = converter.convert({"_id": ID, "field": value}, [])
    if isinstance(outcome, Reject):
        (defect,) = outcome.defects
        assert defect.column == "field"
        return defect.reason
    return outcome[2]


FITS: list[tuple[ColumnType, Any, Any]] = [
    (SMALLINT, 32767, 32767),
    (SMALLINT, -32768, -32768),
    (INTEGER, 2**31 - 1, 2**31 - 1),
    (INTEGER, Int64(-(2**31)), -(2**31)),
    (INTEGER, 2.0, 2),
    (INTEGER, -0.0, 0),
    (INTEGER, Decimal128("2E+3"), 2000),
    (INTEGER, Decimal128("2.000"), 2),
    (INTEGER, Decimal128("-0"), 0),
    (BIGINT, Int64(2**63 - 1), 2**63 - 1),
    (BIGINT, Decimal128("9223372036854775807"), 2**63 - 1),
    (BIGINT, float(2**53 + 2), 2**53 + 2),
    (BIGINT, float(2**62), 4611686018427388000),
    (MONEY, 99.99, "99.99"),
    (MONEY, 99.9, "99.9"),
    (MONEY, 100, "100"),
    (MONEY, 2.0, "2"),
    (MONEY, -0.0, "0"),
    (MONEY, Decimal128("-0.00"), "0"),
    (MONEY, Decimal128("12.3400"), "12.34"),
    (MONEY, Decimal128("1E+7"), "10000000"),
    (MONEY, 99999999.99, "99999999.99"),
    (MONEY, Int64(-99999999), "-99999999"),
    (HUNDREDS, 99900, "99900"),
    (HUNDREDS, -100.0, "-100"),
    (TINY, 0.00999, "0.00999"),
    (TINY, Decimal128("1E-5"), "0.00001"),
    (NUMERIC, Decimal128("1.234567890123456789012345678901234"), "1.234567890123456789012345678901234"),
    (NUMERIC, 1e23, "1" + "0" * 23),
    (NUMERIC, Decimal128("1E-6176"), "0." + "0" * 6175 + "1"),
    (NUMERIC, Decimal128("1E+6144"), "1" + "0" * 6144),
    (DOUBLE, 0.1, 0.1),
    (DOUBLE, -0.0, 0.0),
    (DOUBLE, 5e-324, 5e-324),
    (DOUBLE, 1.7976931348623157e308, 1.7976931348623157e308),
    (DOUBLE, Int64(2**53), 2.0**53),
    (DOUBLE, Int64(-(2**53)), -(2.0**53)),
    (DOUBLE, Int64(4611686018427388000), 2.0**62),
    (DOUBLE, Decimal128("0.10"), 0.1),
    (DOUBLE, Decimal128("5E-324"), 5e-324),
    (DOUBLE, Decimal128("-0E+3"), 0.0),
    (REAL, 0.1, 0.10000000149011612),
    (REAL, 99.99, 99.98999786376953),
    (REAL, 2**24, 2.0**24),
    (REAL, 16777220, 16777220.0),
    (REAL, 3.4028235e38, 3.4028234663852886e38),
    (REAL, 1e-45, 1.401298464324817e-45),
    (REAL, 0, 0.0),
    (REAL, -0.0, 0.0),
    (REAL, Decimal128("8.589935E+9"), 8589934592.0),
    (TEXT, "", ""),
    (TEXT, "Grüße 😀", "Grüße 😀"),
    (VARCHAR, "😀äbc", "😀äbc"),
    (BOOLEAN, True, True),
    (BOOLEAN, False, False),
    (TIMESTAMPTZ, DatetimeMS(0), 0),
    (TIMESTAMPTZ, DatetimeMS(-1), -1000),
    (TIMESTAMPTZ, DatetimeMS(-210_866_803_200_000), -210_866_803_200_000_000),
    (TIMESTAMPTZ, DatetimeMS(9_223_372_036_854_775), 9_223_372_036_854_775_000),
    (UUID, NAMESPACE, str(NAMESPACE)),
    (UUID, str(NAMESPACE), str(NAMESPACE)),
    (UUID, str(NAMESPACE).upper(), str(NAMESPACE)),
    (CHAR, " 😀b", " 😀b"),
    (CHAR, "", ""),
    (CITEXT, "Ring ", "Ring "),
    (ENUM, "sad", "sad"),
    (DATE, DatetimeMS(86_400_000), 1),
    (DATE, DatetimeMS(-210_866_803_200_000), -2_440_588),
    (DATE, DatetimeMS(2_145_042_905 * 86_400_000), 2_145_042_905),
    (DATE, "1969-12-31", -1),
    (DATE, "0001-01-01", -719_162),
    (DATE_THERE, DatetimeMS(1_704_078_000_000), 19_723),  # 2024-01-01 00:00 in São Paulo
    (DATE_THERE, "2018-11-04", 17_839),
    (CLOCK, DatetimeMS(-1), -1000),
    (CLOCK, DatetimeMS(9_223_372_036_854_775), 9_223_372_036_854_775_000),
    (BERLIN, DatetimeMS(0), 3_600_000_000),
    (
        BERLIN,
        DatetimeMS(1_729_987_199_999),
        1_729_994_399_999_000,
    ),  # 01:59:59.999, the last before the hour that is twice
    (BERLIN, DatetimeMS(1_729_994_400_000), 1_729_998_000_000_000),  # 03:00, the first after it
    (BERLIN, DatetimeMS(1_711_846_800_000), 1_711_854_000_000_000),  # 03:00 after the hour that is skipped
]


@pytest.mark.parametrize(("column_type", "value", "canonical"), FITS, ids=str)
def test_a_value_that_fits_is_copied_exactly(column_type: ColumnType, value: Any, canonical: Any) -> None:
    outcome = converted(column_type, value)
    assert outcome == canonical
    assert type(outcome) is type(canonical)
    if outcome == 0 and isinstance(outcome, float):
        assert math.copysign(1, outcome) == 1


REFUSED_VALUES: list[tuple[ColumnType, Any, Reason]] = [
    (SMALLINT, 32768, Reason.OUT_OF_RANGE),
    (INTEGER, 2.5, Reason.NOT_EXACT),
    (INTEGER, -0.5, Reason.NOT_EXACT),
    (INTEGER, 2**31, Reason.OUT_OF_RANGE),
    (INTEGER, Int64(2**40), Reason.OUT_OF_RANGE),
    (INTEGER, 2.5e300, Reason.OUT_OF_RANGE),
    (INTEGER, 2147483647.5, Reason.OUT_OF_RANGE),
    (INTEGER, Decimal128("2147483646.5"), Reason.NOT_EXACT),
    (INTEGER, Decimal128("1E-6176"), Reason.NOT_EXACT),
    (INTEGER, Decimal128("1E+6144"), Reason.OUT_OF_RANGE),
    (BIGINT, float(2**63), Reason.OUT_OF_RANGE),
    (BIGINT, Decimal128("9223372036854775808"), Reason.OUT_OF_RANGE),
    (MONEY, 99.999, Reason.NOT_EXACT),
    (MONEY, 100000000, Reason.OUT_OF_RANGE),
    (MONEY, -100000000.0, Reason.OUT_OF_RANGE),
    (MONEY, 99999999.999, Reason.NOT_EXACT),
    (MONEY, Decimal128("1E+6144"), Reason.OUT_OF_RANGE),
    (MONEY, Decimal128("99999999.99000000000000000000000001"), Reason.NOT_EXACT),
    (HUNDREDS, 150, Reason.NOT_EXACT),
    (HUNDREDS, 100000, Reason.OUT_OF_RANGE),
    (TINY, 0.01, Reason.OUT_OF_RANGE),
    (TINY, 0.000001, Reason.NOT_EXACT),
    (DOUBLE, Int64(2**53 + 1), Reason.NOT_EXACT),
    (DOUBLE, Int64(2**62), Reason.NOT_EXACT),
    (DOUBLE, Decimal128("0.1000000000000000000000000000000001"), Reason.NOT_EXACT),
    (DOUBLE, Decimal128("1E-400"), Reason.NOT_EXACT),
    (DOUBLE, Decimal128("-1E+309"), Reason.OUT_OF_RANGE),
    (REAL, 0.123456789, Reason.NOT_EXACT),
    (REAL, 0.10000000149011612, Reason.NOT_EXACT),
    (REAL, 2**24 + 1, Reason.NOT_EXACT),
    (REAL, 1e-46, Reason.NOT_EXACT),
    (REAL, 1.5e-45, Reason.NOT_EXACT),
    (REAL, 1e39, Reason.OUT_OF_RANGE),
    (REAL, Decimal128("1E+6144"), Reason.OUT_OF_RANGE),
    (REAL, Decimal128("-1E-6176"), Reason.NOT_EXACT),
    (TEXT, "a\0b", Reason.NUL_CHARACTER),
    (TEXT, "a\udcff", Reason.INVALID_UTF8),
    (TEXT, "a\udcff\0", Reason.INVALID_UTF8),
    (TEXT, Code("function () {}"), Reason.WRONG_TYPE),
    (TEXT, 5, Reason.WRONG_TYPE),
    (TEXT, NAMESPACE, Reason.WRONG_TYPE),
    (TEXT, ID, Reason.WRONG_TYPE),
    (VARCHAR, "😀äbcd", Reason.TOO_LONG),
    (VARCHAR, "ab   ", Reason.TOO_LONG),
    (BOOLEAN, 1, Reason.WRONG_TYPE),
    (BOOLEAN, "true", Reason.WRONG_TYPE),
    (TIMESTAMPTZ, DatetimeMS(-210_866_803_200_001), Reason.OUT_OF_RANGE),
    (TIMESTAMPTZ, DatetimeMS(9_223_372_036_854_776), Reason.OUT_OF_RANGE),
    (TIMESTAMPTZ, DatetimeMS(-(2**63)), Reason.OUT_OF_RANGE),
    (TIMESTAMPTZ, 1700000000000, Reason.WRONG_TYPE),
    (TIMESTAMPTZ, "2024-01-01T00:00:00Z", Reason.WRONG_TYPE),
    (TIMESTAMPTZ, Timestamp(1700000000, 1), Reason.WRONG_TYPE),
    (UUID, "6ba7b8109dad11d180b400c04fd430c8", Reason.WRONG_TYPE),
    (UUID, f"{{{NAMESPACE}}}", Reason.WRONG_TYPE),
    (UUID, f"{NAMESPACE}\n", Reason.WRONG_TYPE),
    (UUID, Binary(NAMESPACE.bytes, 3), Reason.WRONG_TYPE),
    (CHAR, "ab ", Reason.NOT_EXACT),
    (CHAR, " ", Reason.NOT_EXACT),
    (CHAR, "abcd ", Reason.TOO_LONG),
    (CHAR, "a\0 ", Reason.NUL_CHARACTER),
    (CITEXT, "a\0", Reason.NUL_CHARACTER),
    (ENUM, "Sad", Reason.NOT_IN_ENUM),
    (ENUM, "", Reason.NOT_IN_ENUM),
    (ENUM, "a\udcff\0", Reason.NOT_IN_ENUM),
    (ENUM, 1, Reason.WRONG_TYPE),
    (DATE, DatetimeMS(1), Reason.NOT_EXACT),
    (DATE, DatetimeMS(-210_866_803_200_001), Reason.OUT_OF_RANGE),
    (DATE, DatetimeMS(2_145_042_906 * 86_400_000), Reason.OUT_OF_RANGE),
    (DATE, "2024-02-30", Reason.WRONG_TYPE),
    (DATE, "20240301", Reason.WRONG_TYPE),
    (DATE, "2024-03-01T00:00:00Z", Reason.WRONG_TYPE),
    (DATE, "2024-03-0\udcff", Reason.WRONG_TYPE),
    (DATE, 19_723, Reason.WRONG_TYPE),
    (DATE_THERE, DatetimeMS(1_704_067_200_000), Reason.NOT_EXACT),  # midnight in London
    (DATE_THERE, DatetimeMS(1_541_300_400_000), Reason.NOT_EXACT),  # 2018-11-04 began at 01:00
    (CLOCK, DatetimeMS(9_223_372_036_854_776), Reason.OUT_OF_RANGE),
    (CLOCK, "2024-01-01T00:00:00Z", Reason.WRONG_TYPE),
    (BERLIN, DatetimeMS(1_729_987_200_000), Reason.NOT_EXACT),  # 02:00 for the first time
    (BERLIN, DatetimeMS(1_729_992_600_000), Reason.NOT_EXACT),  # 02:30 for the second time
    (BERLIN, DatetimeMS(253_402_300_800_000), Reason.OUT_OF_RANGE),
    (BERLIN, DatetimeMS(-(2**63)), Reason.OUT_OF_RANGE),
]


@pytest.mark.parametrize(("column_type", "value", "reason"), REFUSED_VALUES, ids=str)
def test_a_value_that_does_not_fit_says_why(column_type: ColumnType, value: Any, reason: Reason) -> None:
    assert converted(column_type, value) is reason


@pytest.mark.parametrize("column_type", NUMBERS, ids=str)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, Decimal128("NaN"), Decimal128(Decimal("sNaN")), Decimal128("-Infinity")],
    ids=str,
)
def test_nan_and_infinity_fit_no_number_column(column_type: ColumnType, value: Any) -> None:
    assert converted(column_type, value) is Reason.NOT_FINITE


@pytest.mark.parametrize("column_type", NUMBERS, ids=str)
@pytest.mark.parametrize("value", ["5", "", True, False, ID, DatetimeMS(0), {"a": 1}, [1]], ids=str)
def test_what_is_no_number_is_never_read_as_one(column_type: ColumnType, value: Any) -> None:
    assert converted(column_type, value) is Reason.WRONG_TYPE


@pytest.mark.parametrize("column_type", TYPES, ids=str)
@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1},
        [],
        b"bytes",
        Binary(NAMESPACE.bytes, 3),
        Code("x", {"a": 1}),
        DBRef("shops", 1),
        Regex("a"),
        Timestamp(1, 1),
        MinKey(),
        MaxKey(),
    ],
    ids=str,
)
def test_no_column_takes_a_document_an_array_or_an_exotic_value(column_type: ColumnType, value: Any) -> None:
    assert converted(column_type, value) is Reason.WRONG_TYPE


def test_every_supported_type_has_a_rule() -> None:
    assert set(CONVERSIONS) == set(TypeName) - {TypeName.ARRAY}  # an array has the rule of its elements
    assert {column_type.name for column_type in (*TYPES, JSON, JSONB)} == set(CONVERSIONS)


@pytest.mark.parametrize("column_type", NUMBERS, ids=str)
def test_an_enormous_exponent_costs_no_time(column_type: ColumnType) -> None:
    started = time.process_time()
    for exponent in ("1E+6144", "-1E+6144", "1E-6176"):
        converted(column_type, Decimal128(exponent))
    assert time.process_time() - started < 0.5


def test_a_plain_numeric_ends_where_that_of_postgresql_ends() -> None:
    rules = CONVERSIONS[TypeName.NUMERIC].exact(NUMERIC)
    assert rules[Int64](Int64(1)) == "1"
    with pytest.raises(ConversionError, match=Reason.OUT_OF_RANGE):
        rules[int](10**131_072)


REFERENCES: list[tuple[ColumnType, Any, Any]] = [
    (TEXT, ID, "507f1f77bcf86cd799439011"),
    (TEXT, "shop-1", "shop-1"),
    (TEXT, 5, "5"),
    (TEXT, Int64(-(2**63)), "-9223372036854775808"),
    (TEXT, NAMESPACE, str(NAMESPACE)),
    (TEXT, "a\0", Reason.NUL_CHARACTER),
    (TEXT, "a\udcff", Reason.INVALID_UTF8),
    (TEXT, True, Reason.WRONG_TYPE),
    (TEXT, 5.0, Reason.WRONG_TYPE),
    (TEXT, Decimal128("5"), Reason.WRONG_TYPE),
    (TEXT, DatetimeMS(0), Reason.WRONG_TYPE),
    (TEXT, {"$oid": str(ID)}, Reason.WRONG_TYPE),
    (TEXT, DBRef("shops", ID), Reason.WRONG_TYPE),
    (TEXT, Code("x"), Reason.WRONG_TYPE),
    (TEXT, Binary(NAMESPACE.bytes, 3), Reason.WRONG_TYPE),
    (VARCHAR, ID, Reason.TOO_LONG),
    (UUID, NAMESPACE, str(NAMESPACE)),
    (UUID, str(NAMESPACE).upper(), str(NAMESPACE)),
    (UUID, ID, Reason.WRONG_TYPE),
    (UUID, 5, Reason.WRONG_TYPE),
    (CHAR, 1234, "1234"),
    (CHAR, "a ", Reason.NOT_EXACT),
    (CHAR, ID, Reason.TOO_LONG),
    (CITEXT, ID, "507f1f77bcf86cd799439011"),
]


@pytest.mark.parametrize(("column_type", "value", "outcome"), REFERENCES, ids=str)
def test_a_reference_is_copied_as_the_text_of_an_id(column_type: ColumnType, value: Any, outcome: Any) -> None:
    assert converted(column_type, value, kind="reference") == outcome


DEFAULTS: list[tuple[ColumnType, Any, Any]] = [
    (INTEGER, 0, 0),
    (INTEGER, 2.0, 2),
    (MONEY, 9.99, "9.99"),
    (DOUBLE, 1, 1.0),
    (TEXT, "none", "none"),
    (BOOLEAN, False, False),
    (UUID, str(NAMESPACE), str(NAMESPACE)),
    (ENUM, "ok", "ok"),
    (DATE, dt.date(1970, 1, 2), 1),
    (DATE_THERE, dt.date(1970, 1, 2), 1),
    (BERLIN, dt.date(1970, 1, 2), 90_000_000_000),
    (TIMESTAMPTZ, dt.date(1970, 1, 2), 86_400_000_000),
    (TIMESTAMPTZ, dt.datetime(1970, 1, 1, 0, 0, 1), 1_000_000),  # noqa: DTZ001 - YAML gives it without a zone
    (TIMESTAMPTZ, dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), 0),
]


@pytest.mark.parametrize(("column_type", "default", "canonical"), DEFAULTS, ids=str)
def test_a_missing_or_null_value_takes_the_converted_default(
    column_type: ColumnType, default: Any, canonical: Any
) -> None:
    assert converted(column_type, None, default=default) == canonical
