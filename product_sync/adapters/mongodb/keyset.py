"""Continues a read after the last ``_id`` of the page before, whatever its BSON type.

``{_id: {$gt: last}}`` compares within one BSON type and skips all others in silence: in a trial it read 5 of 23
documents. ``$expr`` compares in the order of the index, across types, and (since MongoDB 5.0) seeks in the index.
The ``_id`` is carried over as the bytes that the server sent: decoding it first would lose what Python cannot hold
(broken UTF-8, repeated keys).
"""

from __future__ import annotations

from collections.abc import Iterable

import bson
from bson.raw_bson import RawBSONDocument

from product_sync.core.errors import SourceReadError
from product_sync.core.ids import id_element, to_bson
from product_sync.core.model import IdType, SourceId

_ID_NAME = b"_id\0"
#: A document of 22 bytes whose first element is an ObjectId called _id.
_OBJECT_ID_HEAD = b"\x16\0\0\0\x07" + _ID_NAME


def split(reply: bytes) -> list[bytes]:
    """The documents of a raw batch, which the server sends one after the other."""
    documents = []
    start = 0
    while start < len(reply):
        end = start + int.from_bytes(reply[start : start + 4], "little")
        documents.append(reply[start:end])
        start = end
    return documents


def only_id(document: bytes) -> bytes:
    """The document reduced to its ``_id``, as BSON. Raises `SourceReadError` if it does not begin with one."""
    element = id_element(document)
    if element is None:
        raise SourceReadError(f"The server sent a document that does not begin with an _id: {document[:24]!r}.")
    return element


def after(document: bytes) -> RawBSONDocument:
    """The filter for what follows ``document`` in the order of ``_id``: ``{$expr: {$gt: ["$_id", {$literal: …}]}}``."""
    element = only_id(document)
    type_byte, value = element[4:5], element[5 + len(_ID_NAME) : -1]
    literal = _document(type_byte + b"$literal\0" + value)
    operands = _document(b"\x020\0" + (5).to_bytes(4, "little") + b"$_id\0" + b"\x031\0" + literal)
    comparison = _document(b"\x04$gt\0" + operands)
    return RawBSONDocument(_document(b"\x03$expr\0" + comparison))


def id_document(source_id: SourceId) -> bytes:
    """The document that has this ``_id`` and nothing else, as BSON."""
    if source_id.type == IdType.OBJECT_ID:
        return _OBJECT_ID_HEAD + bytes.fromhex(source_id.text) + b"\0"
    return bson.encode({"_id": to_bson(source_id)})


def any_of(id_documents: Iterable[bytes]) -> RawBSONDocument:
    """The filter ``{_id: {$in: […]}}``, of documents that `id_document` made."""
    elements = b"".join(
        [
            b"%c%d\0%b" % (document[4], place, document[5 + len(_ID_NAME) : -1])
            for place, document in enumerate(id_documents)
        ]
    )
    within = _document(b"\x04$in\0" + _document(elements))
    return RawBSONDocument(_document(b"\x03" + _ID_NAME + within))


def _document(elements: bytes) -> bytes:
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"
