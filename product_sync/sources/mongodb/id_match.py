"""Tells which of the ids that were asked for a document answers to.

The server is generous in what it calls equal: ``{$in: [5]}`` finds the ``_id`` 5 as int, long, double and
Decimal128 (of which a collection holds at most one), and in a collection with a case-insensitive collation ``"A"``
finds ``"a"``. The first is the same product under another type; the second is another product, whose row must not
be taken for the one asked for.
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
from product_sync.sources.mongodb import paging

_INTEGERS = frozenset({IdType.INT, IdType.LONG})
#: How a document begins whose ``_id`` is an ObjectId, after four bytes of length. Most do, and need no decoding.
_OBJECT_ID, _ELEMENT_AT, _OBJECT_ID_SIZE = b"\x07_id\0", 4, 12


class IdMatch:
    """The ids of one query."""

    def __init__(self, ids: Sequence[SourceId]) -> None:
        self._ids = frozenset(ids)
        self._by_number: dict[Decimal, list[SourceId]] = defaultdict(list)
        for source_id in self._ids:
            if source_id.type in _INTEGERS:
                self._by_number[Decimal(source_id.text)].append(source_id)

    def matching(self, document: bytes) -> list[SourceId]:
        """The requested ids that are this document's ``_id``; empty if the server's equality was too generous."""
        if document.startswith(_OBJECT_ID, _ELEMENT_AT):
            value_at = _ELEMENT_AT + len(_OBJECT_ID)
            object_id = SourceId(IdType.OBJECT_ID, document[value_at : value_at + _OBJECT_ID_SIZE].hex())
            return [object_id] if object_id in self._ids else []
        value = decode(paging.only_id(document))["_id"]
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
