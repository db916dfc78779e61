"""BSON's deprecated DBPointer, which the decoder makes the same of as of the embedded document ``{$ref, $id}``.

A dotted path reaches into a document; into a pointer it does not. Taken for a document it would have no such field, and
the column would get its default in silence.
"""

from __future__ import annotations

from typing import Any

from bson.dbref import DBRef

from product_sync.conversion.elements import elements

_POINTER, _DOCUMENT = 0x0C, 0x03


class DBPointer(DBRef):
    """What was a pointer in the bytes: no document."""


def tell_apart(document: dict[str, Any], raw: bytes, path: tuple[str, ...]) -> None:
    """Along ``path``, which has no repetitions, put a `DBPointer` or a plain document in the place of each `DBRef`.

    ``document`` is what ``raw`` was decoded to.
    """
    within: Any = document
    for name in path[:-1]:
        element = next((element for element in elements(raw) if element.name == name.encode()), None)
        if element is None or element.kind not in (_POINTER, _DOCUMENT):
            return
        value = within[name]
        if type(value) is DBRef:
            is_pointer = element.kind == _POINTER
            value = DBPointer(value.collection, value.id) if is_pointer else value.as_doc()
            within[name] = value
        if element.kind == _POINTER:
            return
        within, raw = value, raw[element.start : element.end]
