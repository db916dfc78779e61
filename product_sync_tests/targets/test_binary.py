"""Whatever goes into a bound array comes out of the server unchanged, and typed as its column."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from product_sync.conversion import arrays, json_values
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.types import ColumnType, TypeName
from product_sync.targets.postgres import binary
from product_sync.targets.postgres.column_types import wire_format
from product_sync.targets.postgres.connection import connect
from product_sync_tests.conversion.test_json_values import JSON

#: PostgreSQL's timestamps, in microseconds since 1970, as far as 64 bits reach.
_FIRST_MOMENT, _LAST_MOMENT = -210_866_803_200_000_000, 2**63 - 3


# Surrogates have no UTF-8 and U+0000 no place in PostgreSQL: the conversion keeps both out.
_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES: dict[TypeName, st.SearchStrategy[Any]] = {
    TypeName.SMALLINT: st.integers(-(2**15), 2**15 - 1),
    TypeName.INTEGER: st.integers(-(2**31), 2**31 - 1),
    TypeName.BIGINT: st.integers(-(2**63), 2**63 - 1),
    TypeName.NUMERIC: st.decimals(allow_nan=False, allow_infinity=False, places=6).map(
        lambda number: f"{number:f}".rstrip("0").rstrip(".") if number else "0"
    )
    | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    TypeName.REAL: st.floats(width=32).map(lambda number: number + 0.0),
    TypeName.DOUBLE: st.floats().map(lambda number: number + 0.0),
    TypeName.TEXT: _text,
    TypeName.VARCHAR: _text,
    TypeName.CHAR: _text.map(lambda text: text.rstrip(" ")),
    TypeName.CITEXT: _text,
    TypeName.ENUM: _text,
    TypeName.BOOLEAN: st.booleans(),
    TypeName.DATE: st.integers(-2_440_588, 2_145_042_905) | st.sampled_from([2**31 - 1, -(2**31)]),
    TypeName.TIMESTAMP: st.integers(_FIRST_MOMENT, _LAST_MOMENT) | st.sampled_from([2**63 - 1, -(2**63)]),
    TypeName.TIMESTAMPTZ: st.integers(_FIRST_MOMENT, _LAST_MOMENT) | st.sampled_from([2**63 - 1, -(2**63)]),
    TypeName.UUID: st.uuids().map(str),
    TypeName.JSON: JSON.map(json_values.text),
    TypeName.JSONB: JSON.map(json_values.text),
}


@pytest.fixture
def connection(cart_url: str) -> Iterator[psycopg.Connection]:
    with connect(TargetAddress(cart_url)) as opened:
        yield opened


def _column(values: list[Any], column_type: ColumnType) -> pa.ChunkedArray:
    """In two chunks, the second with an offset, as slices of batches are."""
    whole = pa.array([None, *values], column_type.arrow)
    return pa.chunked_array([whole.slice(1, len(values) // 2), whole.slice(1 + len(values) // 2)], column_type.arrow)


def _there_and_back(connection: psycopg.Connection, values: list[Any], column_type: ColumnType) -> pa.Array:
    form = wire_format(column_type)
    element = sql.Identifier("element")
    statement = sql.SQL("SELECT {shown} FROM (SELECT {parsed} AS element FROM unnest($1::{type}[]) AS element) AS t")
    rows = connection.execute(
        statement.format(shown=form.shown(element), parsed=form.parsed(element), type=sql.SQL(form.sent_as)),
        [binary.bound(_column(values, column_type), column_type)],
        binary=True,
    ).fetchall()
    return binary.loaded([value for (value,) in rows], column_type)


def _comparable(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    return ["nan" if isinstance(value, float) and math.isnan(value) else repr(value) for value in column.to_pylist()]


@pytest.mark.parametrize("name", list(VALUES))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_value_survives_the_way_there_and_back(
    connection: psycopg.Connection, name: TypeName, data: st.DataObject
) -> None:
    column_type = ColumnType(name)
    values = data.draw(st.lists(st.none() | VALUES[name], max_size=20))
    back = _there_and_back(connection, values, column_type)
    assert back.type == column_type.arrow
    assert _comparable(back) == _comparable(pa.array(values, column_type.arrow))


@pytest.mark.parametrize("name", sorted(arrays.ELEMENTS - {TypeName.ENUM, TypeName.CITEXT}))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_array_survives_the_way_there_and_back(
    connection: psycopg.Connection, name: TypeName, data: st.DataObject
) -> None:
    element = ColumnType(name)
    column_type = ColumnType(TypeName.ARRAY, element=element)
    lists = data.draw(st.lists(st.none() | st.lists(st.none() | VALUES[name], max_size=6), max_size=8))
    texts = [None if values is None else arrays.literal(values, element) for values in lists]
    assert _there_and_back(connection, texts, column_type).to_pylist() == texts


@pytest.mark.parametrize("name", list(VALUES))
def test_a_column_of_nulls_and_an_empty_column_have_their_type_too(
    connection: psycopg.Connection, name: TypeName
) -> None:
    column_type = ColumnType(name)
    assert _there_and_back(connection, [None, None], column_type).null_count == 2
    assert len(_there_and_back(connection, [], column_type)) == 0


@pytest.mark.parametrize(
    ("text", "canonical"), [("99.90", "99.9"), ("0.000", "0"), ("-12000", "-12000"), ("1e5", "100000")]
)
def test_one_number_has_one_text(connection: psycopg.Connection, text: str, canonical: str) -> None:
    assert _there_and_back(connection, [text], ColumnType(TypeName.NUMERIC)).to_pylist() == [canonical]


def test_negative_zero_is_read_as_zero(connection: psycopg.Connection) -> None:
    for column_type in (ColumnType(TypeName.REAL), ColumnType(TypeName.DOUBLE)):
        (zero,) = _there_and_back(connection, [-0.0], column_type).to_pylist()
        assert math.copysign(1, zero) == 1


def test_moments_that_the_canonical_form_cannot_hold_become_its_last_one(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT timestamptz_send('294276-12-31')", binary=True).fetchone()
    assert row is not None
    back = binary.loaded([row[0]], ColumnType(TypeName.TIMESTAMPTZ))
    assert back.cast(pa.int64()).to_pylist() == [2**63 - 2]
