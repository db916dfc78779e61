"""Finds the requested id that a returned document has.

The server's equality is broader than ours. ``{$in: [5]}`` finds the ``_id`` 5 as int, long, double and Decimal128 (a
collection contains at most one of them): this is the same product under another type. In a collection with a
case-insensitive collation ``"A"`` finds ``"a"``: this is another product and must not be taken for the requested one.
"""

from __future__ import annotations

import base64
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


def id_of_element(element: bytes) -> SourceId:
    """The id of a document that was reduced to its ``_id`` (`paging.only_id`), whatever its BSON type."""
    source_id = source_id_of(decode(element)["_id"])
    if source_id is None or not _is_unicode(source_id.text):
        return SourceId(IdType.OTHER, base64.b64encode(element).decode())
    return source_id


def _is_unicode(text: str) -> bool:
    """Whether it has no byte that was not UTF-8, of which decoding makes a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


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
        element = only_id(document)
        value = decode(element)["_id"]
        number = _number(value)
        found = [] if number is None else list(self._by_number.get(number, []))
        source_id = id_of_element(element)
        if source_id in self._ids and source_id not in found:
            found.append(source_id)
        return found


def _number(value: Any) -> Decimal | None:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(value)
    return None
