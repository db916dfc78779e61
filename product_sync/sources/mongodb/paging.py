"""Continues a read after the last ``_id`` of the page before, whatever its BSON type.

``{_id: {$gt: last}}`` compares within one BSON type and skips all others in silence: in a trial it read 5 of 23
documents. ``$expr`` compares in the order of the index, across types, and (since MongoDB 5.0) seeks in the index; but
it is worked out once more for each document. So the one reads on within a type, and the other finds the next type.
The ``_id`` is carried over as the bytes that the server sent: decoding it first would lose what Python cannot hold
(broken UTF-8, repeated keys).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import bson
import numpy as np
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from product_sync.conversion.ids import id_element, to_bson
from product_sync.errors import SourceReadError
from product_sync.schema.records import IdType, SourceId

_ID_NAME = b"_id\0"
_OBJECT_ID_SIZE = 12
#: The BSON types of most ids: strings, binaries, ObjectIds and integers. Of the others some, such as regular
#: expressions, cannot be compared so, and some not with all of their type, such as NaN.
_ORDERED_IN_THEMSELVES = frozenset({b"\x02", b"\x05", b"\x07", b"\x10", b"\x12"})
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


def following(document: bytes) -> list[RawBSONDocument]:
    """The filters for what follows ``document`` in the order of ``_id``: each is asked only where those before it find
    nothing, and the last one finds whatever follows.

    They are ``{_id: {$gt: …}}``, for the types of which it finds all that are left, and
    ``{$expr: {$gt: ["$_id", {$literal: …}]}}``.
    """
    element = only_id(document)
    type_byte, value = element[4:5], element[5 + len(_ID_NAME) : -1]
    of_this_type = _document(b"\x03" + _ID_NAME + _document(type_byte + b"$gt\0" + value))
    of_any_type = _expression(type_byte, value)
    filters = [of_this_type, of_any_type] if type_byte in _ORDERED_IN_THEMSELVES else [of_any_type]
    return [RawBSONDocument(each) for each in filters]


def _expression(type_byte: bytes, value: bytes) -> bytes:
    literal = _document(type_byte + b"$literal\0" + value)
    operands = _document(b"\x020\0" + (5).to_bytes(4, "little") + b"$_id\0" + b"\x031\0" + literal)
    comparison = _document(b"\x04$gt\0" + operands)
    return _document(b"\x03$expr\0" + comparison)


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


def any_object_id(texts: pa.Array) -> RawBSONDocument:
    """The filter `any_of` for ObjectIds, given as 24 hexadecimal digits each; without a Python object for an id."""
    _, edges, digits = texts.buffers()
    offsets = np.frombuffer(edges, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    octets = bytes.fromhex(digits[int(offsets[0]) : int(offsets[-1])].to_pybytes().decode())
    values = np.frombuffer(octets, np.uint8).reshape(len(texts), _OBJECT_ID_SIZE)
    within = _document(b"\x04$in\0" + _document(b"".join(_array_elements(values))))
    return RawBSONDocument(_document(b"\x03" + _ID_NAME + within))


def _array_elements(values: NDArray[np.uint8]) -> Iterator[bytes]:
    """The elements of a BSON array of ObjectIds. Their names are their places: those of as many digits are alike."""
    start, digits = 0, 1
    while start < len(values):
        end = min(10**digits, len(values))
        names = np.array([b"\x07%d\0" % place for place in range(start, end)], f"S{digits + 2}")
        head = names.view(np.uint8).reshape(end - start, digits + 2)
        yield np.hstack([head, values[start:end]]).tobytes()
        start, digits = end, digits + 1


def _document(elements: bytes) -> bytes:
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"
