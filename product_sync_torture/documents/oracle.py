"""The expected result of each value in each column, by the rules of the design.

It uses meanings (`values`) and exact decimals, and shares no code with `product_sync`.
"""

from __future__ import annotations

import calendar
import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from product_sync_torture.documents.values import (
    ARRAY,
    BOOLEAN,
    DATE,
    DOCUMENT,
    NOTHING,
    NUMBER,
    OBJECT_ID,
    TEXT,
    UUID,
    Value,
)

_CANONICAL_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
ZONE: Final = "Europe/Berlin"
LABELS: Final = ("ok", "sad", "tea", "")
_CLOCK: Final = ZoneInfo(ZONE)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


class Wrong(Exception):
    """The value must be quarantined for this reason."""


def integer(bits: int) -> Callable[[Value], Any]:
    def expect(value: Value) -> int:
        number = _finite(value)
        if not -(2 ** (bits - 1)) <= number <= 2 ** (bits - 1) - 1:
            raise Wrong("out_of_range")
        if number != number.to_integral_value():
            raise Wrong("not_exact")
        return int(number)

    return expect


def money(value: Value) -> Decimal:
    """numeric(10,2)"""
    number = _finite(value)
    if abs(number) >= 10**8:
        raise Wrong("out_of_range")
    if number * 100 != (number * 100).to_integral_value():
        raise Wrong("not_exact")
    return number


def any_numeric(value: Value) -> Decimal:
    """numeric: every Decimal128 fits, and so does every double."""
    return _finite(value)


def double_precision(value: Value) -> float:
    number = _finite(value)
    nearest = float(number)
    return _as_float(number, nearest, repr(nearest))


def real(value: Value) -> float:
    number = _finite(value)
    with np.errstate(over="ignore", under="ignore"):
        nearest = np.float32(float(number))
    return _as_float(number, float(nearest), str(nearest))


def _as_float(number: Decimal, nearest: float, shortest: str) -> float:
    if math.isinf(nearest):
        raise Wrong("out_of_range")
    if Decimal(shortest) != number:
        raise Wrong("not_exact")
    return nearest


def _finite(value: Value) -> Decimal:
    if value.kind != NUMBER:
        raise Wrong("wrong_type")
    if not value.meaning.is_finite():
        raise Wrong("not_finite")
    number: Decimal = value.meaning
    return number


def characters(most: int | None = None) -> Callable[[Value], Any]:
    def expect(value: Value) -> str:
        if value.kind != TEXT:
            raise Wrong("wrong_type")
        return _text(value.meaning, most)

    return expect


def _text(content: bytes, most: int | None) -> str:
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong("invalid_utf8") from None
    if "\0" in decoded:
        raise Wrong("nul_character")
    if most is not None and len(decoded) > most:
        raise Wrong("too_long")
    return decoded


def padded(most: int) -> Callable[[Value], Any]:
    """char(n), which does not keep blanks at the end."""

    def expect(value: Value) -> str:
        content: str = characters(most)(value)
        if content.endswith(" "):
            raise Wrong("not_exact")
        return content

    return expect


def label(value: Value) -> str:
    if value.kind != TEXT:
        raise Wrong("wrong_type")
    if value.meaning not in [each.encode() for each in LABELS]:
        raise Wrong("not_in_enum")
    return str(value.meaning.decode())


def boolean(value: Value) -> bool:
    if value.kind != BOOLEAN:
        raise Wrong("wrong_type")
    return bool(value.meaning)


def timestamptz(value: Value) -> int:
    """Microseconds since 1970. PostgreSQL's first day is 24 November 4714 BC; 64 bits of microseconds end in 294247."""
    if value.kind != DATE:
        raise Wrong("wrong_type")
    if not -210_866_803_200_000 <= value.meaning <= 9_223_372_036_854_775:
        raise Wrong("out_of_range")
    return int(value.meaning) * 1000


def clock(value: Value) -> int:
    """timestamp in `ZONE`: what its clock shows, if it shows this once."""
    if value.kind != DATE:
        raise Wrong("wrong_type")
    try:
        instant = _EPOCH + dt.timedelta(milliseconds=value.meaning)
        shown = instant.astimezone(_CLOCK).replace(tzinfo=None)
    except OverflowError:
        raise Wrong("out_of_range") from None
    if {shown.replace(tzinfo=_CLOCK, fold=fold).astimezone(dt.UTC) for fold in (0, 1)} != {instant}:
        raise Wrong("not_exact")
    return (shown.replace(tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)


def day(value: Value) -> int:
    """Days since 1970. PostgreSQL's first day is that of `timestamptz`, its last one 3 June 5874898 less one."""
    if value.kind == TEXT:
        found = _DAY.fullmatch(value.meaning.decode("utf-8", "replace"))
        year, month, number = map(int, found.groups()) if found else (0, 0, 0)
        if not (year and 1 <= month <= 12 and 1 <= number <= calendar.monthrange(year, month)[1]):
            raise Wrong("wrong_type")
        return dt.date(year, month, number).toordinal() - dt.date(1970, 1, 1).toordinal()
    if value.kind != DATE:
        raise Wrong("wrong_type")
    if not -2_440_588 <= value.meaning // 86_400_000 <= 2_145_042_905:
        raise Wrong("out_of_range")
    if value.meaning % 86_400_000:
        raise Wrong("not_exact")
    return int(value.meaning // 86_400_000)


def uuid_(value: Value) -> str:
    if value.kind == UUID:
        return str(value.meaning)
    content = value.meaning.decode("utf-8", "replace") if value.kind == TEXT else ""
    if not _CANONICAL_UUID.fullmatch(content):
        raise Wrong("wrong_type")
    return str(uuid.UUID(content))


def reference(value: Value) -> str:
    """An _id as text. For the document's own _id the reason is `unsupported_id`."""
    if value.kind in (OBJECT_ID, UUID):
        return str(value.meaning)
    if value.kind == NUMBER and value.integer:
        return str(int(value.meaning))
    if value.kind == TEXT:
        return _text(value.meaning, None)
    raise Wrong("wrong_type")


@dataclass(frozen=True, slots=True)
class Json:
    """What a jsonb holds. A number is a tuple with its `Decimal`, so that 1 is neither true nor "1"."""

    value: Any


def json_(value: Value) -> Json:
    if _repeats(value):
        raise Wrong("repeated_field")
    return Json(_json(value))


def _repeats(value: Value) -> bool:
    if value.kind == DOCUMENT:
        names = [name for name, _ in value.meaning]
        return len(set(names)) < len(names) or any(_repeats(member) for _, member in value.meaning)
    return value.kind == ARRAY and any(map(_repeats, value.meaning))


def _json(value: Value) -> Any:
    simple: dict[str, Callable[[], Any]] = {
        NUMBER: lambda: (_finite(value),),
        TEXT: lambda: _text(value.meaning, None),
        BOOLEAN: lambda: bool(value.meaning),
        NOTHING: lambda: None,
        OBJECT_ID: lambda: str(value.meaning),
        UUID: lambda: str(value.meaning),
        DATE: lambda: _iso(value.meaning),
        ARRAY: lambda: [_json(member) for member in value.meaning],
        DOCUMENT: lambda: _object(value.meaning),
    }
    if value.kind not in simple:
        raise Wrong("not_json")
    return simple[value.kind]()


def _object(members: list[tuple[bytes, Value]]) -> dict[str, Any]:
    by_name = dict(members)
    reference_, database = by_name.get(b"$ref"), by_name.get(b"$db")
    if (
        reference_
        and reference_.kind == TEXT
        and b"$id" in by_name
        and (not database or database.kind in (TEXT, NOTHING))
    ):
        raise Wrong("not_json")  # a DBRef
    # Short names first, as jsonb has them: with several faults, the first one is the reason.
    shown = {name.decode("utf-8", "surrogateescape"): value for name, value in members}
    order = sorted(shown, key=lambda name: (len(name.encode("utf-8", "surrogatepass")), name))
    return {_text(name.encode("utf-8", "surrogateescape"), None): _json(shown[name]) for name in order}


def _iso(milliseconds: int) -> str:
    """As `toJSON` of JavaScript, for the years 1 to 9999."""
    if not -62_135_596_800_000 <= milliseconds < 253_402_300_800_000:
        raise Wrong("out_of_range")
    seconds, rest = divmod(milliseconds, 1000)
    return f"{np.datetime64(seconds, 's')}.{rest:03}Z"


def parsed_json(found: str) -> Any:
    return json.loads(found, parse_int=lambda text: (Decimal(text),), parse_float=lambda text: (Decimal(text),))


def list_of(expect: Callable[[Value], Any]) -> Callable[[Value], Any]:
    def expect_list(value: Value) -> list[Any]:
        if value.kind != ARRAY:
            raise Wrong("wrong_type")
        return [None if member.kind == NOTHING else expect(member) for member in value.meaning]

    return expect_list


def expect_id(value: Value) -> str:
    """The text id. Raises `Wrong`."""
    try:
        return reference(value)
    except Wrong as wrong:
        raise Wrong("unsupported_id" if str(wrong) == "wrong_type" else str(wrong)) from None


def equal(found: Any, expected: Any) -> bool:
    """Whether the target has the expected value and type: 0 is not False, and 2.50 is 2.5."""
    if isinstance(expected, Json):
        return isinstance(found, str) and bool(parsed_json(found) == expected.value)
    if isinstance(expected, Decimal):
        return isinstance(found, str) and Decimal(found) == expected
    return type(found) is type(expected) and bool(found == expected)
