"""Finds documents in which a mapped field stands more than once.

BSON lets a name come twice in one document, and MongoDB stores it so. A decoder keeps one of the values, ours the last,
a query finds either, and nobody can say which is the product's. So such a document is not copied
(``docs/decisions/0025``). Decoded documents no longer show it: this module looks at the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from product_sync.conversion.ids import id_element, source_key, value_size

_DOCUMENT, _ARRAY, _REGEX = 0x03, 0x04, 0x0B
_MEMBERS_AT = 4


class Element(NamedTuple):
    """One member of a document: its BSON type, its name, and where its value begins and ends."""

    kind: int
    name: bytes
    start: int
    end: int


class RepeatedFields:
    """Which of some paths are ambiguous in a document. Made once per run."""

    def __init__(self, paths: Sequence[tuple[str, ...]]) -> None:
        self._paths = {path: tuple(name.encode() for name in path) for path in paths}
        self._names = sorted({name + b"\0" for names in self._paths.values() for name in names})

    def among(self, raw: bytes) -> frozenset[tuple[str, ...]]:
        """The paths on which a name stands twice in one document of ``raw``, which is valid BSON.

        Almost no document has any: a look for the bytes of the names spares all others the walk.
        """
        if not any(_stands_twice(raw, name) for name in self._names):
            return frozenset()
        return frozenset(path for path, names in self._paths.items() if _is_repeated(raw, names))


def document_key(raw: bytes, bson_id: Any) -> str:
    """`ids.source_key` of the document ``raw``, whose decoded ``_id`` is ``bson_id``.

    An ``_id`` in which a name stands twice loses one of the two when it is decoded, and would then be named like
    another document: it is named by the hash of its bytes.
    """
    element = id_element(raw)
    if element is not None and element[4] in (_DOCUMENT, _ARRAY) and _has_repeated_names(element):
        return f'{{"$repeated": "{hashlib.sha256(element).hexdigest()}"}}'
    return source_key(bson_id)


def _has_repeated_names(raw: bytes) -> bool:
    """Whether in ``raw``, which is valid BSON, or in any document or array within it, a name stands twice."""
    members = list(elements(raw))
    if len({member.name for member in members}) < len(members):
        return True
    nested = (raw[member.start : member.end] for member in members if member.kind in (_DOCUMENT, _ARRAY))
    return any(_has_repeated_names(document) for document in nested)


def _stands_twice(raw: bytes, name: bytes) -> bool:
    first = raw.find(name)
    return first >= 0 and raw.find(name, first + 1) >= 0


def _is_repeated(raw: bytes, path: tuple[bytes, ...]) -> bool:
    found = [element for element in elements(raw) if element.name == path[0]]
    if len(found) != 1 or len(path) == 1:
        return len(found) > 1
    (only,) = found
    return only.kind == _DOCUMENT and _is_repeated(raw[only.start : only.end], path[1:])


def elements(raw: bytes) -> Iterator[Element]:
    """The members of a document, in order; ``raw`` is valid BSON."""
    at, end = _MEMBERS_AT, len(raw) - 1
    while at < end:
        kind, name_end = raw[at], raw.index(b"\0", at + 1)
        start = name_end + 1
        element = Element(kind, raw[at + 1 : name_end], start, _end(raw, kind, start))
        yield element
        at = element.end


def _end(raw: bytes, kind: int, start: int) -> int:
    if kind == _REGEX:  # two texts without a length
        return raw.index(b"\0", raw.index(b"\0", start) + 1) + 1
    size = value_size(raw, kind, start)
    if size is None:
        raise ValueError(f"no BSON type: {kind:#04x}")
    return start + size
