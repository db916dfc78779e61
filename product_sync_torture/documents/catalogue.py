"""A catalogue of documents, many of them bad, each with its expected result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from product_sync_torture.documents import values
from product_sync_torture.documents.columns import Column, computed, expect_column
from product_sync_torture.documents.oracle import Wrong, expect_id
from product_sync_torture.documents.values import Value

_BAD: Final = 0.45
_OF_TEXT: Final = ("text", "uuid", "citext", "mood", "sku")
_OF_DATES: Final = ("timestamptz", "timestamp")
_MEGABYTE: Final = 1024 * 1024
#: Bytes of an id that every index of the target accepts. A longer id may be refused.
_FITS_INDEX: Final = 2_500


@dataclass(frozen=True, slots=True)
class Made:
    """A document. ``row`` is the expected row, ``None`` if ``wrong`` has reasons against it: pairs of a column and a
    reason. ``text_id`` is ``None`` if the ``_id`` has no text form. The index may refuse the id if
    ``may_be_refused``."""

    raw: bytes
    bson_id: Value
    text_id: str | None
    row: dict[str, Any] | None
    wrong: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    may_be_refused: bool = False


def catalogue(columns: Sequence[Column], count: int, large: int, seed: int, *, wide: int = 0) -> list[Made]:
    """``count`` documents, of these ``large`` with megabytes, and some with the text id of another document. In
    addition ``wide`` good ones with a text of up to 400 kB."""
    draw = random.Random(seed)  # noqa: S311 - reproducible on purpose
    made: list[Made] = []
    for number in range(count):
        members = list(_members(columns, draw))
        if number < large:
            members = _enlarged(members, draw, number, beside_large_id=number < large // 4)
        elif draw.random() < _BAD:
            members = _spoilt(members, columns, draw)
        bson_id = _large_id(draw, number) if number < large // 4 else _id(draw, number)
        made.append(_make(columns, bson_id, members))
    made += [
        _make(columns, values.text((one.text_id or "").encode()), _good(columns, draw)) for one in _with_twins(made)
    ]
    made += [_wide(columns, draw, number) for number in range(wide)]
    return _with_duplicates(made)


def mended(columns: Sequence[Column], bad: Made, seed: int) -> Made:
    """A good document with the same ``_id``."""
    return _make(columns, bad.bson_id, _good(columns, random.Random(seed)))  # noqa: S311


def _good(columns: Sequence[Column], draw: random.Random) -> list[tuple[bytes, Value]]:
    return list(_members(columns, draw))


def _make(columns: Sequence[Column], bson_id: Value, members: list[tuple[bytes, Value]]) -> Made:
    raw = values.document([(b"_id", bson_id), *members])
    wrong: set[tuple[str, str]] = set()
    text_id = None
    try:
        text_id = expect_id(bson_id)
    except Wrong as reason:
        wrong.add(("id", str(reason)))
    if any(value.malformed for value in _sent(columns, members)):
        return Made(raw, bson_id, text_id, None, frozenset(wrong | {("id", "invalid_bson")}))
    row: dict[str, Any] = {}
    for column in columns:
        try:
            row[column.name] = expect_column(column, members)
        except Wrong as reason:
            wrong.add((column.name, str(reason)))
    long_id = text_id is not None and len(text_id.encode()) > _FITS_INDEX
    return Made(raw, bson_id, text_id, None if wrong else row, frozenset(wrong), may_be_refused=long_id)


def _sent(columns: Sequence[Column], members: list[tuple[bytes, Value]]) -> Iterator[Value]:
    """The values that MongoDB sends: the mapped fields, and those of the expressions that do not fail."""
    mapped = {column.path[0] for column in columns if column.expression is None}
    yield from (value for name, value in members if name in mapped)
    for column in columns:
        with suppress(Wrong):
            if (value := computed(column, members)) is not None:
                yield value


def _members(columns: Sequence[Column], draw: random.Random) -> Iterator[tuple[bytes, Value]]:
    """A good document: fields may be absent, and there may be others."""
    for column in columns:
        if column.default != "REQUIRED" and draw.random() < 0.1:
            continue
        value = _fitting(column, draw)
        yield column.path[0], value if len(column.path) == 1 else values.embedded([(column.path[1], value)])
    if draw.random() < 0.1:
        yield values.odd_name(draw), values.any_value(draw)


def _fitting(column: Column, draw: random.Random) -> Value:
    """Mostly ordinary values, so that many documents are similar and converted together."""
    number = draw.randint(0, 9_999)
    ordinary = {
        "title": values.text(f"Product {number}".encode()), "note": values.text("größer ✓".encode()),
        "price": values.double(number / 100), "amount": values.int64(number), "quantity": values.int32(number),
        "small": values.int32(number), "big": values.int64(number * 10**9), "weight": values.double(number / 8),
        "ratio": values.double(number / 4), "active": values.boolean(number % 2 == 0),
        "updated": values.date(number * 10**6), "code": values.binary(draw.randbytes(16), 4),
        "sellerId": values.object_id(draw.randbytes(12)), "stock": values.int32(number),
        "grade": values.text(f"g{number % 100}".encode()), "mood": values.text([b"ok", b"sad"][number % 2]),
        "tag": values.text(f"Tag {number}".encode()), "sku": values.text(f"S{number}".encode()),
        "day": values.date(number * 86_400_000), "sold": values.date(number * 10**7),
        "facts": values.embedded([(b"n", values.int32(number)), (b"in", values.array([values.double(number / 4)]))]),
        "rest": values.array([values.text(b"1.0"), values.embedded([])]),
        "tags": values.array([values.text(b"red"), values.text(f"no {number}".encode()), values.NULL]),
        "sizes": values.array([values.int32(number), values.double(number / 4)]),
        "moods": values.array([values.text(b"sad"), values.text(b"")]),
        "nick": values.text(f"Nick {number}".encode()), "whole": values.text(str(number).encode()),
        "makers": values.array([values.object_id(draw.randbytes(12)), values.int32(number)]),
    }  # fmt: skip
    if draw.random() < 0.9:
        return ordinary[column.name]
    for _ in range(50):
        value = values.any_value(draw)
        if not value.malformed and _fits(column, value):
            return value
    return ordinary[column.name]


def _fits(column: Column, value: Value) -> bool:
    within = value if len(column.path) == 1 else values.embedded([(column.path[1], value)])
    try:
        expect_column(column, [(column.path[0], within)])
    except Wrong:
        return False
    return True


def _spoilt(
    members: list[tuple[bytes, Value]], columns: Sequence[Column], draw: random.Random
) -> list[tuple[bytes, Value]]:
    """Give up to three fields any value, remove or repeat them, and sometimes shuffle all fields."""
    for column in draw.sample(list(columns), k=draw.randint(1, 3)):
        name = column.path[0]
        how = draw.random()
        if how < 0.1:
            members = [member for member in members if member[0] != name]
        elif how < 0.2:
            members.append((name, draw.choice([value for known, value in members if known == name] or [values.NULL])))
        else:
            value = _near(column, draw) if draw.random() < 0.5 else values.any_value(draw)
            if len(column.path) > 1 and draw.random() < 0.7:
                value = values.embedded([(column.path[1], value)] * draw.choice([1, 1, 1, 2]))
            members = [member for member in members if member[0] != name] + [(name, value)]
    if draw.random() < 0.3:
        draw.shuffle(members)
    return members


def _near(column: Column, draw: random.Random) -> Value:
    """A value of the column's type, near its limits or beyond."""
    if column.sql.endswith("[]"):
        some = values.any_number if column.sql.startswith("numeric") else values.any_text
        return values.array(
            [draw.choice([some, some, some, values.any_value])(draw) for _ in range(draw.randint(0, 3))]
        )
    if column.sql in ("json", "jsonb"):
        return values.embedded([(values.odd_name(draw), values.any_value(draw)) for _ in range(draw.randint(0, 3))])
    if column.sql == "date":
        return draw.choice([values.any_text, values.any_date])(draw)
    if column.sql in _OF_TEXT or column.sql.startswith(("varchar", "char")):
        return values.any_text(draw)
    return values.any_date(draw) if column.sql in _OF_DATES else values.any_number(draw)


def _id(draw: random.Random, number: int) -> Value:
    makers: list[Callable[[], Value]] = [
        *[lambda: values.object_id(number.to_bytes(4, "big") + draw.randbytes(8))] * 24,
        *[lambda: values.text(f"sku-{number}".encode())] * 8,
        *[lambda: values.int32(number), lambda: values.int64(2**40 + number)] * 4,
        *[lambda: values.binary(draw.randbytes(16), 4)] * 4,
        lambda: values.text(f"ü🎈'\"\\{number}".encode()),
        lambda: values.text(b"caf\xe9 %d" % number),
        lambda: values.text(b"nul\0 %d" % number),
        lambda: values.text(draw.randbytes(1_500).hex().encode()),
        lambda: values.double(number + 0.5),
        lambda: values.date(number),
        lambda: values.embedded([(b"a", values.int32(number)), (b"a", values.int32(number + 1))]),
        lambda: values.embedded([(b"k", values.int32(number)), (b"\xff", values.text(b"\xff"))]),
        lambda: values.binary(draw.randbytes(9), 0),
        lambda: values.text(f"symbol {number}".encode(), values.SYMBOL),
    ]
    return draw.choice(makers)()


def _large_id(draw: random.Random, number: int) -> Value:
    size = draw.randint(1, 3) * _MEGABYTE
    content = values.text(draw.randbytes(size // 2).hex().encode())
    return content if number % 2 else values.embedded([(b"k", content)])


def _enlarged(
    members: list[tuple[bytes, Value]], draw: random.Random, number: int, *, beside_large_id: bool
) -> list[tuple[bytes, Value]]:
    """With a large field, so that the document has up to the server's limit of 16 MB."""
    size = int(draw.choice([1, 2, 5, 10] if beside_large_id else [1, 5, 10, 15.9]) * _MEGABYTE)
    big = values.text(draw.choice([b"x", "ü".encode(), "🎈".encode()]) * (size // 4))
    name = [b"note", b"title", b"description", b"price", b"facts"][number % 5]
    return [member for member in members if member[0] != name] + [(name, big)]


def _wide(columns: Sequence[Column], draw: random.Random, number: int) -> Made:
    text = values.text(draw.randbytes(draw.randint(5_000, 200_000)).hex().encode())
    members = [member for member in _good(columns, draw) if member[0] != b"note"]
    return _make(columns, values.text(f"wide-{number}".encode()), [*members, (b"note", text)])


def _with_twins(made: Sequence[Made]) -> list[Made]:
    """Some documents whose _id is not a string. A twin with the text as its _id is made for each."""
    return [one for one in made if one.text_id and one.bson_id.kind != values.TEXT and not one.may_be_refused][::40]


def _with_duplicates(made: Sequence[Made]) -> list[Made]:
    seen: dict[str, int] = {}
    for one in made:
        if one.text_id is not None:
            seen[one.text_id] = seen.get(one.text_id, 0) + 1
    return [
        Made(one.raw, one.bson_id, one.text_id, None, one.wrong | {("id", "duplicate_id")}, one.may_be_refused)
        if one.text_id is not None and seen[one.text_id] > 1
        else one
        for one in made
    ]
