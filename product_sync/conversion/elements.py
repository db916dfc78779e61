"""Walks raw BSON: the elements of a document, and the documents of a server's reply (bsonspec.org).

Only the bytes show everything. A decoder keeps one of two fields with the same name, and decoding every document of a
reply takes most of the time of a sync in which nothing differs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from bson.errors import InvalidBSON

from product_sync.conversion.byte_block import Positions


class BsonType:
    """Plain integers: NumPy compares its bytes with them faster than with members of an enum."""

    DOUBLE: Final = 0x01
    STRING: Final = 0x02
    DOCUMENT: Final = 0x03
    ARRAY: Final = 0x04
    BINARY: Final = 0x05
    UNDEFINED: Final = 0x06
    OBJECT_ID: Final = 0x07
    BOOLEAN: Final = 0x08
    DATE: Final = 0x09
    NULL: Final = 0x0A
    REGEX: Final = 0x0B
    DB_POINTER: Final = 0x0C
    CODE: Final = 0x0D
    SYMBOL: Final = 0x0E
    CODE_WITH_SCOPE: Final = 0x0F
    INT32: Final = 0x10
    TIMESTAMP: Final = 0x11
    INT64: Final = 0x12
    DECIMAL128: Final = 0x13
    MAX_KEY: Final = 0x7F
    MIN_KEY: Final = 0xFF


#: The names that MongoDB gives the types (manual, ``$type``).
TYPE_NAMES: Final[dict[int, str]] = {
    BsonType.DOUBLE: "double", BsonType.STRING: "string", BsonType.DOCUMENT: "object", BsonType.ARRAY: "array",
    BsonType.BINARY: "binData", BsonType.UNDEFINED: "undefined", BsonType.OBJECT_ID: "objectId",
    BsonType.BOOLEAN: "bool", BsonType.DATE: "date", BsonType.NULL: "null", BsonType.REGEX: "regex",
    BsonType.DB_POINTER: "dbPointer", BsonType.CODE: "javascript", BsonType.SYMBOL: "symbol",
    BsonType.CODE_WITH_SCOPE: "javascriptWithScope", BsonType.INT32: "int", BsonType.TIMESTAMP: "timestamp",
    BsonType.INT64: "long", BsonType.DECIMAL128: "decimal", BsonType.MAX_KEY: "maxKey", BsonType.MIN_KEY: "minKey",
}  # fmt: skip
#: Bytes of a value, for the types whose values all have the same size.
FIXED_SIZES: Final[dict[int, int]] = {
    BsonType.DOUBLE: 8, BsonType.UNDEFINED: 0, BsonType.OBJECT_ID: 12, BsonType.BOOLEAN: 1, BsonType.DATE: 8,
    BsonType.NULL: 0, BsonType.INT32: 4, BsonType.TIMESTAMP: 8, BsonType.INT64: 8, BsonType.DECIMAL128: 16,
    BsonType.MAX_KEY: 0, BsonType.MIN_KEY: 0,
}  # fmt: skip
#: For the types whose values begin with a length: the bytes of a value that this length does not count.
UNCOUNTED_SIZES: Final[dict[int, int]] = {
    BsonType.STRING: 4, BsonType.DOCUMENT: 0, BsonType.ARRAY: 0, BsonType.BINARY: 5, BsonType.DB_POINTER: 16,
    BsonType.CODE: 4, BsonType.SYMBOL: 4, BsonType.CODE_WITH_SCOPE: 0,
}  # fmt: skip

_length = struct.Struct("<i").unpack_from


class Element(NamedTuple):
    """``kind`` is the `BsonType`. The value is in the bytes from ``start`` to ``end``."""

    kind: int
    name: bytes
    start: int
    end: int


def elements(raw: bytes, at: int = 0) -> Iterator[Element]:
    """The elements of the document or array that begins at ``at``. Raises `InvalidBSON` where it is malformed."""
    if len(raw) < at + 4:
        raise InvalidBSON("not enough data for a document")
    end = at + _length(raw, at)[0] - 1
    at += 4
    while at < end:
        element = _element(raw, at)
        if not element.start <= element.end <= end:
            raise InvalidBSON(f"the value of {element.name!r} ends outside its document")
        yield element
        at = element.end
    if at != end:
        raise InvalidBSON("the length of a document is too small")


def _element(raw: bytes, at: int) -> Element:
    try:
        kind, name_end = raw[at], raw.index(0, at + 1)
        return Element(kind, raw[at + 1 : name_end], name_end + 1, _end(raw, kind, name_end + 1))
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise InvalidBSON(f"malformed element at byte {at}") from error


def _end(raw: bytes, kind: int, start: int) -> int:
    if kind in FIXED_SIZES:
        return start + FIXED_SIZES[kind]
    if kind == BsonType.REGEX:  # two texts without a length
        return raw.index(0, raw.index(0, start) + 1) + 1
    length: int = _length(raw, start)[0]
    return start + length + UNCOUNTED_SIZES[kind]


def kind_at(raw: bytes, path: Sequence[str]) -> int | None:
    """The type of the value at ``path``, or of the value on the way that is not a document; ``None`` if there is
    none."""
    at = 0
    for name in path:
        element = next((element for element in elements(raw, at) if element.name == name.encode()), None)
        if element is None or element.kind != BsonType.DOCUMENT:
            return element.kind if element else None
        at = element.start
    return BsonType.DOCUMENT


def document_of(*elements: bytes | memoryview) -> bytes:
    """The document or array that consists of these elements. They are copied once."""
    return b"".join(((sum(map(len, elements)) + 5).to_bytes(4, "little"), *elements, b"\0"))


def id_element(raw: bytes) -> bytes | None:
    """The document reduced to its ``_id``. The rest of it may be malformed. MongoDB stores the ``_id`` first. ``None``
    if the first element is another one or is malformed."""
    try:
        first = next(elements(raw), None)
    except InvalidBSON:
        return None
    return document_of(raw[4 : first.end]) if first is not None and first.name == b"_id" else None


def has_repeated_names(raw: bytes, at: int = 0) -> bool:
    """Whether a name is repeated in the document that begins at ``at``, or in one that it contains."""
    members = list(elements(raw, at))
    if len({member.name for member in members}) < len(members):
        return True
    return any(
        has_repeated_names(raw, member.start)
        for member in members
        if member.kind in (BsonType.DOCUMENT, BsonType.ARRAY)
    )


class RepeatedFields:
    """Finds mapped fields that a document contains twice. Made once per run. MongoDB stores such documents. A decoder
    keeps one of the two values and a query finds either, so neither can be called the product's value: the document is
    quarantined (docs/decisions/0025)."""

    def __init__(self, paths: Sequence[tuple[str, ...]], whole: Sequence[tuple[str, ...]] = ()) -> None:
        self._paths = {path: tuple(name.encode() for name in path) for path in paths}
        self._whole = {path: self._paths[path] for path in whole}
        self._names = sorted({name + b"\0" for names in self._paths.values() for name in names})

    def among(self, raw: bytes, *, holds_all: Callable[[], bool] = lambda: False) -> frozenset[tuple[str, ...]]:
        """The paths on which a name is repeated in the document ``raw``, and those of ``whole`` whose value has a
        repeated name at any depth.

        Nearly no document has one: searching the bytes for the names saves all others the walk. Members of ``whole``
        have any names, so these documents need another proof: ``holds_all`` says whether the decoded document has
        everything that is in ``raw``.
        """
        found = frozenset[tuple[str, ...]]()
        if any(raw.count(name) > 1 for name in self._names):
            found = frozenset(path for path, names in self._paths.items() if _is_repeated(raw, 0, names))
        if self._whole and not holds_all():
            found |= {path for path, names in self._whole.items() if _has_repeated_members(raw, 0, names)}
        return found


def _is_repeated(raw: bytes, at: int, path: tuple[bytes, ...]) -> bool:
    found = [element for element in elements(raw, at) if element.name == path[0]]
    if len(found) != 1 or len(path) == 1:
        return len(found) > 1
    return found[0].kind == BsonType.DOCUMENT and _is_repeated(raw, found[0].start, path[1:])


def _has_repeated_members(raw: bytes, at: int, path: tuple[bytes, ...]) -> bool:
    if not path:
        return has_repeated_names(raw, at)
    return any(
        _has_repeated_members(raw, element.start, path[1:])
        for element in elements(raw, at)
        if element.name == path[0] and element.kind in (BsonType.DOCUMENT, BsonType.ARRAY)
    )


@dataclass(frozen=True, slots=True)
class Documents:
    """Raw documents within one block: document *i* is ``data[starts[i]:ends[i]]``. They are in the order of the block
    and do not overlap."""

    data: bytes | memoryview
    starts: Positions
    ends: Positions

    @classmethod
    def joined(cls, documents: Sequence[bytes]) -> Documents:
        ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(documents)]
        return cls(b"".join(documents), starts, ends)

    @classmethod
    def of_array(cls, raw: bytes, at: int) -> Documents:
        """The documents of the array that begins at ``at``, without an object for each of them. Before each document
        are one byte of type and its place in decimal digits, with a NUL."""
        end = at + _length(raw, at)[0] - 1
        starts: list[int] = []
        add = starts.append
        start, digits, next_power = at + 4 + 3, 1, 10
        while start < end:
            add(start)
            if len(starts) == next_power:
                digits, next_power = digits + 1, next_power * 10
            start += _length(raw, start)[0] + 2 + digits
        begins = np.array(starts, np.int64)
        sizes = np.frombuffer(raw, np.uint8)[begins[:, np.newaxis] + np.arange(4)].view("<i4")[:, 0]
        return cls(raw, begins, begins + sizes)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return int((self.ends - self.starts).sum())

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.data[self.starts[index] : self.ends[index]])

    def __iter__(self) -> Iterator[bytes]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield bytes(self.data[start:end])

    def pages(self, page_bytes: int) -> Iterator[Documents]:
        """Pages of at most ``page_bytes``, or of one document that is larger."""
        start = 0
        while start < len(self):
            fits = int(np.searchsorted(self.ends, self.starts[start] + page_bytes, side="right"))
            end = max(fits, start + 1)
            yield Documents(self.data, self.starts[start:end], self.ends[start:end])
            start = end
