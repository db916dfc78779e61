"""The promise "it never lies" as a property: for any BSON value and any column, the same value or a reason.

What a value *is* is worked out here a second time, with fractions and by other means than the implementation's.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import bson
import numpy as np
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from product_sync.conversion.document import CODEC_OPTIONS, RowConverter
from product_sync.schema.records import Reason, Reject
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import TEXT, row_schema_of

DIGITS = st.integers(-(10**34) + 1, 10**34 - 1)
NEAR_LIMITS = st.builds(
    lambda power, base, offset: base**power + offset,
    st.integers(0, 63),
    st.sampled_from([2, -2]),
    st.integers(-2, 2),
).filter(lambda number: -(2**63) <= number < 2**63)
NUMBERS = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    NEAR_LIMITS.map(Int64),
    st.floats(),
    st.floats(width=32),
    st.floats(width=32).map(lambda value: float(str(np.float32(value)))),
    st.integers(-(10**10), 10**10).map(lambda cents: cents / 100),
    NEAR_LIMITS.map(float),
    st.builds(lambda digits, exponent: Decimal128(f"{digits}E{exponent}"), DIGITS, st.integers(-6176, 6110)),
    st.builds(
        lambda digits, exponent: Decimal128(f"{digits}E{exponent}"), st.integers(-(10**7), 10**7), st.integers(-60, 60)
    ),
    st.sampled_from(["NaN", "-NaN", "sNaN", "Infinity", "-Infinity", "-0", "0E+100"]).map(Decimal128),
)
OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(),
    st.text("0123456789abcdefABCDEF-", max_size=36),
    st.uuids(),
    st.uuids().map(lambda value: str(value).upper()),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.integers(-210_866_803_200_002, -210_866_803_199_998).map(DatetimeMS),
    st.integers(9_223_372_036_854_770, 9_223_372_036_854_780).map(DatetimeMS),
    # Quarters of an hour from 1850 to 2110, some of them in the hours around changes of the clock.
    st.integers(-4_207_680, 4_908_960).map(lambda quarters: DatetimeMS(quarters * 900_000)),
    st.builds(
        lambda change, quarters: DatetimeMS((change + quarters * 900) * 1000),
        st.sampled_from([1_729_990_800, 1_711_846_800, 1_730_613_600, 1_325_239_200, 1_540_090_800, -2_422_054_408]),
        st.integers(-100, 100),
    ),
    st.dates().map(str),
    st.sampled_from(["2024-3-1", "2024-02-30", "20240301", "0000-01-01", "2024-03-01 ", "sad", "OK", "ü ", "a "]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 5), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 5)),
)
ZONES = ("UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Pacific/Apia", "America/Sao_Paulo")
LABELS = ("sad", "ok", "", "ü ", "2024-03-01")
PRECISIONS = st.integers(1, 40)
TYPES = st.one_of(
    st.sampled_from(
        [
            TypeName.SMALLINT, TypeName.INTEGER, TypeName.BIGINT, TypeName.NUMERIC, TypeName.REAL, TypeName.DOUBLE,
            TypeName.TEXT, TypeName.BOOLEAN, TypeName.TIMESTAMPTZ, TypeName.UUID, TypeName.CITEXT, TypeName.DATE,
        ]
    ).map(ColumnType),
    st.integers(1, 8).map(lambda length: ColumnType(TypeName.VARCHAR, length=length)),
    st.integers(1, 8).map(lambda length: ColumnType(TypeName.CHAR, length=length)),
    st.builds(ColumnType, st.sampled_from([TypeName.DATE, TypeName.TIMESTAMP]), zone=st.sampled_from(ZONES)),
    st.just(ColumnType(TypeName.ENUM, own_name=("public", "mood"), labels=LABELS)),
    st.builds(lambda p, s: ColumnType(TypeName.NUMERIC, precision=p, scale=s), PRECISIONS, st.integers(-10, 45)),
)  # fmt: skip
NUMBER_TYPES = TYPES.filter(lambda column_type: number_held(column_type, 0) is not None)


FIRST_DAY = dt.date(1970, 1, 1)


def instants(local: int, zone: str) -> set[int]:
    """Every instant at which a clock of the zone shows this time, in microseconds since 1970."""
    if zone == "UTC":
        return {local}
    shown = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=local)  # noqa: DTZ001 - what a clock shows
    meant = {shown.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(dt.UTC) for fold in (0, 1)}
    return {
        (instant - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        for instant in meant
        if instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == shown
    }


def number_meant(value: Any) -> Fraction | None:
    """The number that a BSON value stands for; ``None`` if it is none, or not a finite one."""
    if type(value) in (int, Int64):
        return Fraction(value)
    if type(value) is float:
        return Fraction(str(value)) if math.isfinite(value) else None
    if type(value) is Decimal128 and (found := re.fullmatch(r"(-?[0-9.]+)(E[+-]?[0-9]+)?", str(value))):
        return Fraction(found[0])
    return None


def number_held(column_type: ColumnType, canonical: Any) -> Fraction | None:
    """The number that a canonical value stands for; ``None`` if the column holds none."""
    match column_type.name:
        case TypeName.SMALLINT | TypeName.INTEGER | TypeName.BIGINT | TypeName.NUMERIC:
            return Fraction(Decimal(canonical))
        case TypeName.DOUBLE:
            return Fraction(np.format_float_scientific(np.float64(canonical)))
        case TypeName.REAL:
            return Fraction(np.format_float_scientific(np.float32(canonical)))
        case _:
            return None


def in_range(column_type: ColumnType, number: Fraction) -> bool:
    """Whether the number, rounded to what the column can hold, is not beyond its ends (cut off, for numeric)."""
    match column_type.name:
        case TypeName.SMALLINT | TypeName.INTEGER | TypeName.BIGINT:
            half = 1 << {TypeName.SMALLINT: 15, TypeName.INTEGER: 31, TypeName.BIGINT: 63}[column_type.name]
            return -half <= number <= half - 1
        case TypeName.NUMERIC:
            whole = 131_072 if column_type.precision is None else column_type.precision - (column_type.scale or 0)
            return bool(abs(number) < Fraction(10) ** whole)
        case TypeName.REAL:
            return abs(number) < 2**128 - 2**103  # halfway between the largest float and what would come next
        case _:
            return abs(number) < 2**1024 - 2**970


def convert(column_type: ColumnType, value: Any) -> Any:
    """The canonical value or the reason, by the whole way: encoded, decoded, converted, in an Arrow column."""
    raw = bson.encode({"_id": 1, "field": value}, codec_options=CODEC_OPTIONS)
    batch = RowConverter(row_schema_of({"field": column_type})).batch([raw])
    assert batch.documents == batch.rows.num_rows + len(batch.rejects) == 1
    if batch.rejects:
        (reject,) = batch.rejects
        assert isinstance(reject, Reject)
        (defect,) = reject.defects
        return defect.reason
    scalar = batch.rows["field"][0]
    return scalar.value if hasattr(scalar, "value") else scalar.as_py()


@settings(deadline=None, max_examples=600)
@given(NUMBER_TYPES, NUMBERS)
@example(ColumnType(TypeName.REAL), Decimal128("16777217"))
@example(ColumnType(TypeName.REAL), 2.0**-44)
@example(ColumnType(TypeName.DOUBLE), Decimal128("1E+23"))
@example(ColumnType(TypeName.NUMERIC, precision=3, scale=-2), 99_950)
def test_a_number_is_copied_as_the_same_number_or_refused_for_the_right_reason(
    column_type: ColumnType, value: Any
) -> None:
    meant = number_meant(value)
    outcome = convert(column_type, value)
    if meant is None:
        assert outcome is Reason.NOT_FINITE
    elif isinstance(outcome, Reason):
        assert outcome is (Reason.NOT_EXACT if in_range(column_type, meant) else Reason.OUT_OF_RANGE)
    else:
        assert number_held(column_type, outcome) == meant


@settings(deadline=None, max_examples=300)
@given(NUMBER_TYPES, NUMBERS)
def test_what_the_column_holds_exactly_is_never_refused(column_type: ColumnType, value: Any) -> None:
    meant = number_meant(value)
    assume(meant is not None and in_range(column_type, meant))
    assert meant is not None
    match column_type.name:
        case TypeName.SMALLINT | TypeName.INTEGER | TypeName.BIGINT:
            fits = meant.denominator == 1
        case TypeName.NUMERIC:
            scale = 16_383 if column_type.scale is None else column_type.scale
            fits = (meant * Fraction(10) ** scale).denominator == 1
        case TypeName.REAL:
            fits = number_held(column_type, np.float32(float(meant))) == meant
        case _:
            fits = number_held(column_type, float(meant)) == meant
    assert (not isinstance(convert(column_type, value), Reason)) == fits


@settings(deadline=None, max_examples=400)
@given(TYPES, OTHERS)
def test_any_other_value_is_copied_as_it_is_or_refused(column_type: ColumnType, value: Any) -> None:
    outcome = convert(column_type, value)
    if isinstance(outcome, Reason):
        assert (outcome is Reason.MISSING_FIELD) == (value is None)
        return
    match column_type.name:
        case TypeName.TEXT | TypeName.VARCHAR | TypeName.CHAR | TypeName.CITEXT | TypeName.ENUM:
            assert outcome == value
            assert column_type.length is None or len(value) <= column_type.length
            assert column_type.name is not TypeName.CHAR or value == value.rstrip(" ")
            assert column_type.name is not TypeName.ENUM or value in LABELS
        case TypeName.DATE | TypeName.TIMESTAMP:
            if isinstance(value, str):
                assert (FIRST_DAY + dt.timedelta(days=outcome)).isoformat() == value
            else:
                microseconds = outcome * 86_400_000_000 if column_type.name is TypeName.DATE else outcome
                assert instants(microseconds, column_type.zone or "UTC") == {int(value) * 1000}
        case TypeName.BOOLEAN:
            assert outcome is value
        case TypeName.TIMESTAMPTZ:
            assert outcome == int(value) * 1000
        case TypeName.UUID:
            assert outcome == str(uuid.UUID(str(value)))
        case _:
            pytest.fail(f"{value!r} is no number, but was read as {outcome!r}")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.fixed_dictionaries({"_id": OTHERS | NUMBERS, "price": NUMBERS | OTHERS, "title": OTHERS})))
def test_no_document_is_lost_and_rows_keep_their_order(documents: list[dict[str, Any]]) -> None:
    converter = RowConverter(row_schema_of({"price": ColumnType(TypeName.NUMERIC), "title": TEXT}))
    # An array cannot be an _id; encoding refuses what MongoDB would refuse.
    raws = [bson.encode(document, codec_options=CODEC_OPTIONS) for document in documents]
    batch = converter.batch(raws)
    assert batch.documents == len(documents) == batch.rows.num_rows + len(batch.rejects)
    alone = [converter.batch([raw]) for raw in raws]
    assert [row for one in alone for row in one.rows.to_pylist()] == batch.rows.to_pylist()
    assert [reject for one in alone for reject in one.rejects] == list(batch.rejects)
