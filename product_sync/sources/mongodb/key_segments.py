"""Builds the queries that together read the documents of a range of ids, each of them once.

The range is one of texts (`schema.scope.KeyRange`), and the server compares within a BSON type: so each type has a
query of its own with bounds of the ``_id`` index. ``_id``s of types that no row can have belong to the first range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson import Decimal128
from bson.binary import UUID_SUBTYPE, Binary
from bson.objectid import ObjectId

from product_sync.conversion import id_bounds
from product_sync.schema.scope import KeyRange

_Query = Mapping[str, Any]
#: The types of which no ``_id`` has a text, but for the numbers and the binary ones.
_OTHER_TYPES: Final = [
    "object", "undefined", "bool", "date", "null", "regex", "dbPointer", "javascript", "javascriptWithScope",
    "timestamp", "minKey", "maxKey",
]  # fmt: skip
_FIRST_UUID, _LAST_UUID = (Binary(byte * 16, UUID_SUBTYPE) for byte in (b"\0", b"\xff"))
_BEYOND: Final = 10**id_bounds.MOST_DIGITS
#: The numbers between and beyond the intervals of `id_bounds.integers`. NaN is below all others and in no comparison.
_OTHER_NUMBERS: Final[list[_Query]] = [
    {"$eq": Decimal128("NaN")},
    {"$lte": Decimal128(str(-_BEYOND))},
    {"$gt": -1, "$lt": 0},
    {"$gte": Decimal128(str(_BEYOND))},
]


@dataclass(frozen=True, slots=True)
class Segment:
    """Documents that are read in the order of their ``_id``: those that fit one of ``queries``, or all. With
    ``is_one_type`` all of them can be compared with ``$gt``, as far as the type of the value allows (`paging`)."""

    queries: Sequence[_Query] = ()
    is_one_type: bool = False

    def query(self, following: _Query) -> _Query:
        """Its documents that fit ``following`` too. That is part of each query: the server intersects the bounds of the
        index only there."""
        if not self.queries:
            return following
        both = [{"$and": [query, following]} if following else query for query in self.queries]
        return {"$or": both} if len(both) > 1 else both[0]


WHOLE: Final = Segment()


def segments(scope: KeyRange, *, has_collation: bool) -> Iterator[Segment]:
    """The queries for ``scope``. In a collection with a collation, strings are not indexed in the order of their bytes:
    there the server looks at each string."""
    if object_ids := id_bounds.of_form(id_bounds.OBJECT_ID, scope):
        yield _by_id([_between(ObjectId(object_ids.first), object_ids.end and ObjectId(object_ids.end))])
    binary = [] if scope.first else [{"$lt": _FIRST_UUID}, {"$gt": _LAST_UUID}]
    if uuids := id_bounds.of_form(id_bounds.UUID, scope):
        end = {"$lt": _uuid(uuids.end)} if uuids.end else {"$lte": _LAST_UUID}
        binary.append({"$gte": _uuid(uuids.first), **end})
    numbers = [*([] if scope.first else _OTHER_NUMBERS), *map(_numbers, id_bounds.integers(scope))]
    strings = _strings_by_letter(scope) if has_collation else _between(scope.first, scope.end)
    for conditions in (binary, numbers, [strings]):
        if conditions:
            yield _by_id(conditions)
    if not scope.first:
        yield _by_id([{"$type": _OTHER_TYPES}], is_one_type=False)


def _by_id(conditions: Iterable[_Query], *, is_one_type: bool = True) -> Segment:
    return Segment([{"_id": condition} for condition in conditions], is_one_type)


def _between(first: Any, end: Any) -> _Query:
    return {"$gte": first} | ({} if end is None else {"$lt": end})


def _uuid(text: str) -> Binary:
    return Binary(bytes.fromhex(text.replace("-", "")), UUID_SUBTYPE)


def _numbers(interval: tuple[int, int]) -> _Query:
    """The interval as a range of real numbers, so that numbers with a fraction are in one range too."""
    first, last = interval
    if first < 0:
        return {"$gt": Decimal128(str(first - 1)), "$lte": Decimal128(str(last))}
    return {"$gte": Decimal128(str(first)), "$lt": Decimal128(str(last + 1))}


def _strings_by_letter(scope: KeyRange) -> _Query:
    """Regular expressions know no collation. A string that is not UTF-8 matches none, so it is in the last range."""
    condition: dict[str, Any] = {"$type": ["string", "symbol"]}
    if scope.end is not None:
        condition["$regex"] = _below(scope.end)
    if scope.first:
        condition["$not"] = {"$regex": _below(scope.first)}
    return condition


def _below(text: str) -> str:
    """A regular expression for the strings below ``text``, which is ASCII: at the first place where they differ, the
    string ends or has a smaller character."""
    same, at_each_place = "", list[str]()
    for character in map(ord, text):
        at_each_place.append(rf"{same}(?:\z|[\x00-\x{character - 1:02x}])")
        same += rf"\x{character:02x}"
    return rf"\A(?:{'|'.join(at_each_place)})"
