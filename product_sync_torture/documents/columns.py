"""The columns of the campaign's table, and the expected value of each in a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import localcontext
from typing import Any, Final

from product_sync_torture.documents.oracle import (
    LABELS,
    ZONE,
    Wrong,
    any_numeric,
    boolean,
    characters,
    clock,
    day,
    double_precision,
    integer,
    json_,
    label,
    list_of,
    money,
    padded,
    real,
    reference,
    timestamptz,
    uuid_,
)  # fmt: skip
from product_sync_torture.documents.values import BOOLEAN, DOCUMENT, NOTHING, NUMBER, STRING, Value, int32

_ENOUGH_DIGITS: Final = 20_000
_WHOLE: Final = re.compile(rb"-?[0-9]+")


@dataclass(frozen=True, slots=True)
class Column:
    """``sql`` is the column's type, ``read`` the expression that reads it. ``default`` replaces a missing value; with
    ``REQUIRED`` a missing value is wrong. With an ``expression``, ``evaluate`` says what MongoDB makes of the fields;
    of a repeated field it takes the first."""

    name: str
    sql: str
    expect: Callable[[Value], Any]
    read: str = "{}"
    default: Any = "REQUIRED"
    source: str = ""
    zone: str | None = None
    expression: Any = None
    evaluate: Callable[[Mapping[bytes, Value]], Value | None] | None = None

    @property
    def path(self) -> tuple[bytes, ...]:
        return tuple((self.source or self.name).encode().split(b"."))


def nick_or_sku(fields: Mapping[bytes, Value]) -> Value | None:
    """``{$ifNull: [$nick, $sku]}``"""
    nick = fields.get(b"nick")
    return fields.get(b"sku") if nick is None or nick.kind == NOTHING else nick


def whole_number(fields: Mapping[bytes, Value]) -> Value | None:
    """``{$toInt: $whole}``: the fraction of a number is cut off, a text must be a whole number."""
    value = fields.get(b"whole")
    if value is None or value.kind == NOTHING:
        return None
    if value.kind == BOOLEAN:
        return int32(int(value.meaning))
    is_number = value.kind == NUMBER and value.meaning.is_finite()
    is_text = value.code == STRING and _WHOLE.fullmatch(value.meaning)
    number = int(value.meaning) if is_number or is_text else 2**31
    if not -(2**31) <= number < 2**31:
        raise Wrong("expression_failed")
    return int32(number)


COLUMNS: Final = (
    Column("title", "varchar(40)", characters(40)),
    Column("note", "text", characters(), default=None),
    Column("price", "numeric(10,2)", money, "price::text"),
    Column("amount", "numeric", any_numeric, "amount::text", default=None),
    Column("quantity", "integer", integer(32), default=0),
    Column("small", "smallint", integer(16), default=None),
    Column("big", "bigint", integer(64), default=None),
    Column("weight", "double precision", double_precision, default=None),
    Column("ratio", "real", real, "ratio::float8", default=None),
    Column("active", "boolean", boolean, default=None),
    Column("updated", "timestamptz", timestamptz, "(extract(epoch FROM updated) * 1000000)::bigint", default=None),
    Column("code", "uuid", uuid_, "code::text", default=None),
    Column("sellerId", "text", reference),
    Column("grade", "char(4)", padded(4), "{}::text", default=None),
    Column("mood", "mood", label, "{}::text", default="ok"),
    Column("tag", "citext", characters(), "{}::text", default=None),
    Column("sku", "sku", characters(8), default=None),
    Column("day", "date", day, "({} - '1970-01-01'::date)", default=None),
    Column("sold", "timestamp", clock, "(extract(epoch FROM {}) * 1000000)::bigint", default=None, zone=ZONE),
    Column("facts", "jsonb", json_, "facts::text", default=None),
    Column("rest", "json", json_, "rest::text", default=None),
    Column("tags", "text[]", list_of(characters()), default=None),
    Column("sizes", "numeric(10,2)[]", list_of(money), default=None),
    Column("makers", "text[]", list_of(reference), default=None),
    Column("moods", "mood[]", list_of(label), "moods::text[]", default=None),
    Column("nick", "text", characters(), default=None, expression={"$ifNull": ["$nick", "$sku"]}, evaluate=nick_or_sku),
    Column("whole", "integer", integer(32), default=0, expression={"$toInt": "$whole"}, evaluate=whole_number),
)
#: The types that are not built in.
TYPES: Final = (f"CREATE TYPE mood AS ENUM ({', '.join(map(repr, LABELS))})", "CREATE DOMAIN sku AS varchar(8)")
NESTED: Final = Column("stock", "integer", integer(32), source="stock.count", default=7)


def expect_column(column: Column, members: list[tuple[bytes, Value]]) -> Any:
    """The expected value of the column. Raises `Wrong`."""
    with localcontext() as context:
        context.prec = _ENOUGH_DIGITS
        value = computed(column, members) if column.evaluate else _at(column.path, members)
        if value is None or value.kind == NOTHING:
            if column.default == "REQUIRED":
                raise Wrong("missing_field")
            return column.default
        return column.expect(value)


def computed(column: Column, members: list[tuple[bytes, Value]]) -> Value | None:
    """The value of the column's expression, if it has one. Raises `Wrong`."""
    return column.evaluate(dict(reversed(members))) if column.evaluate else None


def _at(path: tuple[bytes, ...], members: list[tuple[bytes, Value]]) -> Value | None:
    found = [value for name, value in members if name == path[0]]
    if len(found) > 1:
        raise Wrong("repeated_field")
    if not found or len(path) == 1 or found[0].kind == NOTHING:
        return found[0] if found else None
    if found[0].kind != DOCUMENT:
        raise Wrong("wrong_type")
    return _at(path[1:], found[0].meaning)
