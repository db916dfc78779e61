"""Finds the requested id that a returned document has.

The server's equality is broader than ours. ``{$in: [5]}`` finds the ``_id`` 5 as int, long, double and Decimal128 (a
collection contains at most one of them): this is the same product under another type. In a collection with a
case-insensitive collation ``"A"`` finds ``"a"``: this is another product and must not be taken for the requested one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128

from product_sync.conversion.document import decode
from product_sync.conversion.ids import source_id as source_id_of
from product_sync.schema.records import IdType, SourceId
from product_sync.sources.mongodb.paging import OBJECT_ID_SIZE, VALUE_AT, only_id

_INTEGERS = frozenset({IdType.INT, IdType.LONG})
#: The first element of most documents: an ObjectId, which need not be decoded.
_OBJECT_ID = b"\x07_id\0"


class IdMatch:
    """The ids of one query."""

    def __init__(self, ids: Sequence[SourceId]) -> None:
        self._ids = frozenset(ids)
        self._by_number: dict[Decimal, list[SourceId]] = defaultdict(list)
        for source_id in self._ids:
            if source_id.type in _INTEGERS:
                self._by_number[Decimal(source_id.text)].append(source_id)

    def matching(self, document: bytes) -> list[SourceId]:
        """The requested ids that are this document's ``_id``; empty if only the server considers them equal."""
        if document.startswith(_OBJECT_ID, VALUE_AT - len(_OBJECT_ID)):
            object_id = SourceId(IdType.OBJECT_ID, document[VALUE_AT : VALUE_AT + OBJECT_ID_SIZE].hex())
            return [object_id] if object_id in self._ids else []
        value = decode(only_id(document))["_id"]
        number = _number(value)
        if number is not None:
            return self._by_number.get(number, [])
        source_id = source_id_of(value)
        return [source_id] if source_id in self._ids else []


def _number(value: Any) -> Decimal | None:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(value)
    return None
