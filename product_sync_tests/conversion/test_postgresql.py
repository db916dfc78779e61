"""What the rules accept, a real PostgreSQL stores and gives back; just beyond their limits, it refuses or alters.

This proves the limits: one that is too wide would show here as a value that the database does not take.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Dumper
from psycopg.pq import Format

from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.citext import create_citext
from product_sync_tests.conversion.test_rules import (
    CHAR,
    DATE,
    DOUBLE,
    FITS,
    MONEY,
    NUMERIC,
    REAL,
    TIMESTAMPTZ,
    VARCHAR,
)

SECONDS_TO_2000 = 946_684_800


class Instant(int):
    """Microseconds since 1970, sent as the server keeps them: Python's calendar is too short for the ends."""


class InstantDumper(Dumper):
    oid = psycopg.adapters.types["timestamptz"].oid
    format = Format.BINARY

    def dump(self, obj: Instant) -> bytes:
        return struct.pack("!q", obj - SECONDS_TO_2000 * 1_000_000)


READ: dict[TypeName, Callable[[str], Any]] = {
    TypeName.SMALLINT: int,
    TypeName.INTEGER: int,
    TypeName.BIGINT: int,
    TypeName.NUMERIC: str,
    TypeName.REAL: lambda text: struct.unpack("<f", struct.pack("<f", float(text)))[0],
    TypeName.DOUBLE: float,
    TypeName.TEXT: str,
    TypeName.VARCHAR: str,
    TypeName.CHAR: str,
    TypeName.CITEXT: str,
    TypeName.ENUM: str,
    TypeName.DATE: int,
    TypeName.TIMESTAMP: int,
    TypeName.BOOLEAN: lambda text: text == "true",
    TypeName.TIMESTAMPTZ: int,
    TypeName.UUID: str,
}
MICROSECONDS = "(extract(epoch FROM c) * 1000000)::bigint"
AS_TEXT = {
    TypeName.NUMERIC: "trim_scale(c)",
    TypeName.DATE: "(c - '1970-01-01')",
    TypeName.TIMESTAMP: MICROSECONDS,
    TypeName.TIMESTAMPTZ: MICROSECONDS,
}


@pytest.fixture
def cart(cart_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cart_url, autocommit=True, prepare_threshold=None) as connection:
        connection.adapters.register_dumper(Instant, InstantDumper)
        yield connection


def stored(cart: psycopg.Connection[Any], column_type: ColumnType, canonical: Any) -> Any:
    """The canonical value after it was in a column of the type."""
    sent: object = str(canonical)
    parameter = "%s"
    if column_type.name in (TypeName.TIMESTAMPTZ, TypeName.TIMESTAMP):
        sent, parameter = Instant(canonical), "%s::timestamptz AT TIME ZONE 'UTC'"
        parameter = "%s" if column_type.name is TypeName.TIMESTAMPTZ else parameter
    elif column_type.name is TypeName.DATE:
        parameter = "'1970-01-01'::date + %s::int"
    cart.execute("DROP TABLE IF EXISTS one")
    cart.execute(f"CREATE TABLE one (c {replace(column_type, zone=None)})".encode())
    cart.execute(f"INSERT INTO one VALUES ({parameter})".encode(), (sent,))
    (text,) = cart.execute(f"SELECT {AS_TEXT.get(column_type.name, 'c')}::text FROM one".encode()).fetchall()[0]
    return READ[column_type.name](text)


def test_an_accepted_value_is_stored_and_read_back_as_it_is(cart: psycopg.Connection[Any], cart_url: str) -> None:
    create_citext(cart_url)
    cart.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    for column_type, _, canonical in FITS:
        assert stored(cart, column_type, canonical) == canonical, f"{canonical!r} in {column_type}"


@pytest.mark.parametrize(
    ("column_type", "canonical"),
    [
        (MONEY, "100000000"),
        (NUMERIC, "1" + "0" * 131_072),
        (NUMERIC, "0." + "0" * 16_383 + "1"),
        (REAL, "3.5e38"),
        (DOUBLE, "1.8e308"),
        (VARCHAR, "abcde"),
        (TIMESTAMPTZ, -210_866_803_200_000_001),
        (CHAR, "abcde"),
        (DATE, 2_145_042_906),
        (DATE, -2_440_589),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_lies_beyond_a_limit_is_refused_by_the_server_too(
    cart: psycopg.Connection[Any], column_type: ColumnType, canonical: Any
) -> None:
    with pytest.raises(psycopg.DataError):
        stored(cart, column_type, canonical)


@pytest.mark.parametrize(
    ("column_type", "canonical"),
    [(MONEY, "99.999"), (VARCHAR, "ab   "), (CHAR, "ab ")],
    ids=lambda value: str(value)[:24],
)
def test_what_is_not_exact_would_be_altered_by_the_server_in_silence(
    cart: psycopg.Connection[Any], column_type: ColumnType, canonical: Any
) -> None:
    assert stored(cart, column_type, canonical) != canonical


def test_a_plain_numeric_holds_the_digits_that_the_rule_allows(cart: psycopg.Connection[Any]) -> None:
    for largest in ("9" * 131_072, "0." + "0" * 16_382 + "1"):
        assert stored(cart, NUMERIC, largest) == largest
