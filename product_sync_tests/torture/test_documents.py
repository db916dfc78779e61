"""A short slice of the campaign of bad documents, and the oracle's own knowledge, on examples written out by hand."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import bson
import pytest

from product_sync.conversion.document import CODEC_OPTIONS
from product_sync.embedded.servers import Servers
from product_sync_torture.documents import values
from product_sync_torture.documents.campaign import play
from product_sync_torture.documents.columns import COLUMNS, NESTED, Column, expect_column
from product_sync_torture.documents.oracle import Json, Wrong, equal, expect_id
from product_sync_torture.documents.values import Value

BY_NAME: dict[str, Column] = {column.name: column for column in (*COLUMNS, NESTED)}


def test_every_document_ends_in_the_target_or_in_quarantine_and_leaves_it_when_mended(servers: Servers) -> None:
    """With wide ones among them, and every row changed in the end: within the memory that is promised."""
    played = play(servers, count=400, large=3, seed=11, wide=150)
    assert played.violations == []
    assert played.counts["in the target"] > 100
    assert played.counts["mended"] > 100
    assert len(played.reasons) > 8


def outcome(name: str, *members: tuple[bytes, Value]) -> Any:
    try:
        return expect_column(BY_NAME[name], list(members))
    except Wrong as wrong:
        return str(wrong)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("quantity", values.double(2.0), 2),
        ("quantity", values.double(-0.0), 0),
        ("quantity", values.double(2.5), "not_exact"),
        ("quantity", values.int64(2**40), "out_of_range"),
        ("quantity", values.double(2.5e300), "out_of_range"),
        ("quantity", values.boolean(value=True), "wrong_type"),
        ("quantity", values.NULL, 0),
        ("price", values.double(99.99), Decimal("99.99")),
        ("price", values.double(99.999), "not_exact"),
        ("price", values.decimal("1E+8"), "out_of_range"),
        ("price", values.decimal("NaN"), "not_finite"),
        ("price", values.text(b"5"), "wrong_type"),
        ("price", values.UNDEFINED, "missing_field"),
        ("weight", values.int64(2**53 + 1), "not_exact"),
        ("ratio", values.double(0.1), 0.10000000149011612),
        ("ratio", values.double(16777217.0), "not_exact"),
        ("title", values.text("ü".encode() * 40), "ü" * 40),
        ("title", values.text(b"x" * 41), "too_long"),
        ("title", values.text(b"\xff"), "invalid_utf8"),
        ("title", values.text(b"a\0"), "nul_character"),
        ("updated", values.date(-1), -1000),
        ("updated", values.date(2**63 - 1), "out_of_range"),
        ("code", values.text(b"12345678-1234-5678-1234-56781234567A"), "12345678-1234-5678-1234-56781234567a"),
        ("sellerId", values.int64(5), "5"),
        ("grade", values.text(b" ab"), " ab"),
        ("grade", values.text(b"ab "), "not_exact"),
        ("grade", values.text(b"abcd "), "too_long"),
        ("mood", values.text(b"sad"), "sad"),
        ("mood", values.text(b"Sad"), "not_in_enum"),
        ("mood", values.NULL, "ok"),
        ("tag", values.text(b"Tag "), "Tag "),
        ("day", values.date(-86_400_000), -1),
        ("day", values.date(1), "not_exact"),
        ("day", values.text(b"2024-02-29"), 19_782),
        ("day", values.text(b"2023-02-29"), "wrong_type"),
        ("sold", values.date(0), 3_600_000_000),
        ("sold", values.date(1_729_990_800_000), "not_exact"),
        ("sold", values.date(253_402_300_800_000), "out_of_range"),
        ("sellerId", values.double(5.0), "wrong_type"),
        ("facts", values.array([values.int32(1), values.double(1.5), values.NULL]), Json([(1,), (1.5,), None])),
        ("facts", values.embedded([(b"at", values.date(5))]), Json({"at": "1970-01-01T00:00:00.005Z"})),
        ("facts", values.embedded([(b"a", values.embedded([(b"b", values.NULL)] * 2))]), "repeated_field"),
        ("facts", values.embedded([(b"$ref", values.text(b"c")), (b"$id", values.NULL)]), "not_json"),
        ("facts", values.embedded([(b"\xff", values.NULL), (b"a", values.MIN_KEY)]), "not_json"),
        ("facts", values.date(253_402_300_800_000), "out_of_range"),
        ("tags", values.array([values.text(b"a"), values.NULL]), ["a", None]),
        ("tags", values.array([values.text(b"a"), values.int32(1)]), "wrong_type"),
        ("makers", values.array([values.int64(7)]), ["7"]),
        ("sizes", values.array([values.double(0.001)]), "not_exact"),
        ("nick", values.int32(5), "wrong_type"),
        ("nick", values.NULL, None),
        ("whole", values.double(-2.5), -2),
        ("whole", values.text(b"-12"), -12),
        ("whole", values.text(b"12", values.SYMBOL), "expression_failed"),
        ("whole", values.text(b"1.0"), "expression_failed"),
        ("whole", values.int64(2**31), "expression_failed"),
        ("whole", values.decimal("NaN"), "expression_failed"),
        ("whole", values.boolean(value=True), 1),
        ("whole", values.UNDEFINED, 0),
        ("stock", values.int32(5), "wrong_type"),
        ("stock", values.embedded([(b"count", values.int32(5))]), 5),
        ("stock", values.embedded([]), 7),
    ],
)
def test_the_oracle_knows_the_rules(name: str, value: Value, expected: object) -> None:
    found = outcome(name, (BY_NAME[name].path[0], value))
    assert (type(found), found) == (type(expected), expected)


def test_the_oracle_takes_no_side_where_a_field_stands_twice() -> None:
    twice = (b"price", values.int32(5))
    assert outcome("price", twice, twice) == "repeated_field"


def test_the_oracle_knows_what_mongodb_makes_of_a_missing_and_of_a_repeated_field() -> None:
    sku, nick = (b"sku", values.text(b"S1")), (b"nick", values.text(b"first"))
    assert outcome("nick", sku) == "S1"
    assert outcome("nick", sku, nick, (b"nick", values.text(b"second"))) == "first"


def test_the_oracle_knows_what_an_id_may_be() -> None:
    assert expect_id(values.int32(5)) == "5"
    with pytest.raises(Wrong, match="unsupported_id"):
        expect_id(values.double(5.0))
    with pytest.raises(Wrong, match="invalid_utf8"):
        expect_id(values.text(b"\xff"))


def test_values_are_distinguished_by_type_and_by_value() -> None:
    assert equal("2.50", Decimal("2.5"))
    assert not equal("2.51", Decimal("2.5"))
    assert not equal(0, False)
    assert not equal(None, 0)


def test_what_is_made_is_bson_unless_it_says_that_it_is_not() -> None:
    draw = random.Random(5)  # noqa: S311
    codes = set()
    for _ in range(3_000):
        value = values.any_value(draw)
        raw = values.document([(b"v", value)])
        codes.add(value.code)
        try:
            bson.decode(raw, CODEC_OPTIONS)
        except bson.errors.InvalidBSON:
            assert value.malformed
    assert codes == {*range(0x01, 0x14), 0x7F, 0xFF}, "values of all types are made"
