"""Builds the queries by ``_id``: the documents that follow the last one of a page, and the documents with given ids.

``{_id: {$gt: last}}`` compares within one BSON type and silently skips all others: in a trial it read 5 of 23
documents. ``$expr`` compares in the order of the index, across types, and (since MongoDB 5.0) seeks in the index, but
it is evaluated once more for each document. So the first query continues within a type, and the second finds the next
type.

The ``_id`` is copied as the bytes that the server sent: decoding would lose broken UTF-8 and repeated names.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from functools import cache

import bson
import numpy as np
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from product_sync.conversion.elements import BsonType, document_of, id_element
from product_sync.conversion.ids import to_bson
from product_sync.errors import SourceReadError
from product_sync.schema.records import IdType, SourceId

_ID_NAME = b"_id\0"
#: Where the value of the first element begins, if that is the ``_id``.
VALUE_AT = 5 + len(_ID_NAME)
OBJECT_ID_SIZE = 12
#: The BSON types of most ids. Some of the others, such as regular expressions, cannot be compared by $gt, and some not
#: with all values of their type, such as NaN.
_COMPARABLE = frozenset({BsonType.STRING, BsonType.BINARY, BsonType.OBJECT_ID, BsonType.INT32, BsonType.INT64})
#: A document of 22 bytes whose first element is an ObjectId called _id.
_OBJECT_ID_HEAD = b"\x16\0\0\0\x07" + _ID_NAME


def only_id(document: bytes) -> bytes:
    """The document reduced to its ``_id``, as BSON. Raises `SourceReadError` if it does not begin with one."""
    element = id_element(document)
    if element is None:
        raise SourceReadError(f"The server sent a document that does not begin with an _id: {document[:24]!r}.")
    return element


def following(document: bytes) -> list[RawBSONDocument]:
    """The queries for the documents after ``document`` in the order of ``_id``. Each is sent if those before it find
    nothing; the last one finds all that follow.

    They are ``{_id: {$gt: …}}`` for the types that it compares completely, and
    ``{$expr: {$gt: ["$_id", {$literal: …}]}}``.
    """
    element = only_id(document)
    kind, value = element[4:5], element[VALUE_AT:-1]
    literal = document_of(kind + b"$literal\0" + value)
    operands = document_of(b"\x020\0" + (5).to_bytes(4, "little") + b"$_id\0" + b"\x031\0" + literal)
    across_types = document_of(b"\x03$expr\0", document_of(b"\x04$gt\0", operands))
    if kind[0] not in _COMPARABLE:
        return [RawBSONDocument(across_types)]
    return [_by_id(document_of(kind + b"$gt\0" + value)), RawBSONDocument(across_types)]


def id_document(source_id: SourceId) -> bytes:
    """The document that has this ``_id`` and nothing else, as BSON."""
    if source_id.type == IdType.OBJECT_ID:
        return _OBJECT_ID_HEAD + bytes.fromhex(source_id.text) + b"\0"
    if source_id.type == IdType.OTHER:
        return base64.b64decode(source_id.text)
    return bson.encode({"_id": to_bson(source_id)})


def any_of(id_documents: Iterable[bytes]) -> RawBSONDocument:
    """The query ``{_id: {$in: […]}}`` for documents that `id_document` made."""
    ids = [b"%c%d\0%b" % (document[4], place, document[VALUE_AT:-1]) for place, document in enumerate(id_documents)]
    return _by_id(document_of(b"\x04$in\0", document_of(*ids)))


def any_object_id(texts: pa.Array) -> RawBSONDocument:
    """The query `any_of` for ObjectIds of 24 hexadecimal digits, without a Python object per id."""
    _, edges, digits = texts.buffers()
    offsets = np.frombuffer(edges, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    raw = bytes.fromhex(digits[int(offsets[0]) : int(offsets[-1])].to_pybytes().decode())
    values = np.frombuffer(raw, np.uint8).reshape(len(texts), OBJECT_ID_SIZE)
    return _by_id(document_of(b"\x04$in\0", document_of(*_array_elements(values))))


def _array_elements(values: NDArray[np.uint8]) -> Iterator[bytes]:
    """The elements of a BSON array of ObjectIds. Their names are their places; names with equally many digits have the
    same size, so they are made together."""
    start, digits = 0, 1
    while start < len(values):
        part = values[start : 10**digits]
        yield np.hstack([_element_heads(digits)[: len(part)], part]).tobytes()
        start, digits = start + len(part), digits + 1


@cache
def _element_heads(digits: int) -> NDArray[np.uint8]:
    """The type and the name of each element of an array whose place has so many digits."""
    places = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    heads = np.array([b"\x07%d\0" % place for place in places], f"S{digits + 2}")
    return heads.view(np.uint8).reshape(len(places), digits + 2)


def _by_id(condition: bytes) -> RawBSONDocument:
    return RawBSONDocument(document_of(b"\x03" + _ID_NAME, condition))
