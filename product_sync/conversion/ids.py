"""The ``_id`` of a document and the text that stands for it in the target.

MongoDB tells the ObjectId ``507f…`` from the string ``"507f…"``; a text column cannot. So an ``_id`` travels as its
text *and* its BSON type (`SourceId`). Without the type a product could not be read again before it is written,
and two products with one text would overwrite each other, each run the other way round.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections.abc import Callable
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary
from bson.int64 import Int64
from bson.objectid import ObjectId

from product_sync.conversion.extended_json import canonical_json
from product_sync.schema.records import IdType, SourceId

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: Characters of a `source_key` that are kept as they are, and what is kept of a longer one beside its hash.
LONGEST_KEY = 1_000
_KEY_BEGINNING = 200

_INT32, _INT64 = range(-(2**31), 2**31), range(-(2**63), 2**63)

_FROM_BSON: dict[type, Callable[[Any], SourceId]] = {
    ObjectId: lambda value: SourceId(IdType.OBJECT_ID, str(value)),
    str: lambda value: SourceId(IdType.STRING, value),
    int: lambda value: SourceId(IdType.INT if value in _INT32 else IdType.LONG, str(value)),
    Int64: lambda value: SourceId(IdType.LONG, str(value)),
    uuid.UUID: lambda value: SourceId(IdType.UUID, str(value)),
}

_TO_BSON: dict[str, Callable[[str], Any]] = {
    IdType.OBJECT_ID: ObjectId,
    IdType.STRING: str,
    IdType.INT: int,
    IdType.LONG: Int64,
    IdType.UUID: lambda text: Binary(uuid.UUID(text).bytes, UUID_SUBTYPE),
}


def source_id(bson_id: Any) -> SourceId | None:
    """The type and text of a decoded ``_id`` (or of a reference), ``None`` if its type has no text.

    ObjectId, string, int32, int64 and UUID (subtype 4) have one: design section 4. The deprecated BSON type
    symbol is read as the string that MongoDB takes it for.
    """
    convert = _FROM_BSON.get(type(bson_id))
    return convert(bson_id) if convert else None


def to_bson(source: SourceId) -> Any:
    """The ``_id`` that `source_id` was made of, ready for a query: encoding it needs no special options."""
    return _TO_BSON[source.type](source.text)


def possible_ids(text: str) -> list[SourceId]:
    """Every ``_id`` that has this text: what to look for before a row of the target counts as extra.

    A string always; an ObjectId, an integer or a UUID where the text is the canonical one of such a value.
    MongoDB compares int32 and int64 by value, so that one of the two finds both: the one that fits. (The document
    that it finds may therefore hold the other one.)
    """
    ids = [SourceId(IdType.STRING, text)]
    if _OBJECT_ID.fullmatch(text):
        ids.append(SourceId(IdType.OBJECT_ID, text))
    if _INTEGER.fullmatch(text) and int(text) in _INT64:
        ids.append(SourceId(IdType.INT if int(text) in _INT32 else IdType.LONG, text))
    if is_canonical_uuid(text):
        ids.append(SourceId(IdType.UUID, text))
    return ids


def is_canonical_uuid(text: str) -> bool:
    """Whether this is how PostgreSQL writes a uuid: 32 lower-case hexadecimal digits as 8-4-4-4-12."""
    return _UUID.fullmatch(text) is not None


def source_key(bson_id: Any) -> str:
    """The name of a source document in the quarantine: the canonical extended JSON of its ``_id``.

    One of more than `LONGEST_KEY` characters is shortened to its beginning and the SHA-256 of it all: an ``_id`` may
    have megabytes (``docs/decisions/0026``). No JSON ends like that, so a short key is never taken for a long one.
    """
    key = canonical_json(bson_id)
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[:_KEY_BEGINNING]}… sha256:{hashlib.sha256(key.encode()).hexdigest()}"


#: Bytes of a BSON element's value by its type, fixed, or those that come on top of the length with which the value
#: begins (bsonspec.org). Regular expressions have neither.
FIXED_SIZES = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0
}  # fmt: skip
_EXTRA_SIZES = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
_ID_NAME = b"_id\0"


def id_element(raw: bytes) -> bytes | None:
    """A document that holds nothing but the ``_id`` of this one, also when the rest of it cannot be decoded.

    MongoDB keeps the ``_id`` first. ``None`` if it is not there or its end cannot be told.
    """
    value_at = 5 + len(_ID_NAME)
    if raw[5:value_at] != _ID_NAME:
        return None
    size = value_size(raw, raw[4], value_at)
    if size is None:
        return None
    element = raw[4 : value_at + size]
    return struct.pack("<i", len(element) + 5) + element + b"\0"


def value_size(raw: bytes, kind: int, at: int) -> int | None:
    """Bytes of the value of BSON type ``kind`` that begins at ``at``; ``None`` where that cannot be told."""
    if kind in FIXED_SIZES:
        return FIXED_SIZES[kind]
    if kind not in _EXTRA_SIZES or len(raw) < at + 4:
        return None
    length: int = struct.unpack_from("<i", raw, at)[0]
    return length + _EXTRA_SIZES[kind]
