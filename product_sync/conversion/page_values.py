"""Converts the objects and arrays of one column of a page, one value after the other, by the exact rules.

So a column of this kind does not send whole documents to `RowConverter`: their other columns are still read together.
A value that is not certain is left to it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa
from bson.errors import InvalidBSON

from product_sync.conversion import rules
from product_sync.conversion.byte_block import ByteBlock
from product_sync.conversion.document import decode, encoded
from product_sync.conversion.elements import BsonType, document_of
from product_sync.conversion.error import ConversionError
from product_sync.conversion.numbers import Rules
from product_sync.conversion.page_columns import Converted, PageColumn, Values
from product_sync.schema.row_schema import RowColumn
from product_sync.schema.types import TypeName

_KINDS: Final = {
    TypeName.JSON: frozenset({BsonType.DOCUMENT, BsonType.ARRAY}),
    TypeName.JSONB: frozenset({BsonType.DOCUMENT, BsonType.ARRAY}),
    TypeName.ARRAY: frozenset({BsonType.ARRAY}),
}


def page_column(column: RowColumn) -> PageColumn | None:
    """``None`` for a column whose values are neither objects nor arrays."""
    kinds = _KINDS.get(column.type.name)
    return None if kinds is None else PageColumn(kinds, partial(_converted, exact=rules.rules(column)))


def _converted(block: ByteBlock, found: Values, exact: Rules) -> Converted:
    #: Products of one kind often have the same values.
    known = dict[bytes, str | None]()
    texts: list[str | None] = []
    head = bytes([found.kinds[0]]) + b"\0"
    for start, end in zip(found.at.tolist(), found.end.tolist(), strict=True):
        raw = block[start:end]
        if raw not in known:
            known[raw] = _text(document_of(head + raw), exact)
        texts.append(known[raw])
    certain = np.array([text is not None for text in texts], dtype=bool)
    return Converted(pa.array(texts, pa.string()), certain)


def _text(raw: bytes, exact: Rules) -> str | None:
    """The canonical text of the value in a document that has only this value, without a name. ``None`` if the value is
    refused, damaged or has a repeated name."""
    try:
        document = decode(raw)
        value = document[""]
        if encoded(document) != raw:
            return None
        text: str = exact[type(value)](value)
    except (InvalidBSON, ConversionError):
        return None
    return text
