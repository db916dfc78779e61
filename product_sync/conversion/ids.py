"""Converts the ``_id`` of a document to the text that stands for it in the target, and back.

MongoDB tells the ObjectId ``507f…`` from the string ``"507f…"``; a text column cannot. So an ``_id`` is carried as its
text and its BSON type (`SourceId`). Without the type a product could not be read again before it is written, and two
products with the same text would overwrite each other in every run.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import bson
from bson.binary import UUID_SUBTYPE, Binary
from bson.int64 import Int64
from bson.objectid import ObjectId

from product_sync.conversion.elements import BsonType, has_repeated_names, id_element
from product_sync.conversion.extended_json import canonical_json, parse_json
from product_sync.errors import ConfigurationError
from product_sync.schema.records import IdType, SourceId
from product_sync.schema.scope import Ids
from product_sync.schema.types import ColumnType, TypeName

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: The most characters of a `source_key`. A longer one is cut to its beginning and a hash.
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
    """The type and text of a decoded ``_id`` or reference; ``None`` if its BSON type is not supported. Supported are
    ObjectId, string, int32, int64 and UUID (subtype 4): design section 4. The deprecated type symbol is decoded as a
    string, and MongoDB treats it as one."""
    convert = _FROM_BSON.get(type(bson_id))
    return convert(bson_id) if convert else None


def to_bson(source: SourceId) -> Any:
    """The ``_id`` itself, of a supported type, ready for a query without special codec options."""
    return _TO_BSON[source.type](source.text)


def possible_ids(text: str) -> list[SourceId]:
    """Every ``_id`` with this text. All of them are looked up before a row of the target counts as extra. MongoDB
    compares int32 and int64 by value, so one of the two finds both: the one that fits. The document that it finds may
    have the other."""
    ids = [SourceId(IdType.STRING, text)]
    if _OBJECT_ID.fullmatch(text):
        ids.append(SourceId(IdType.OBJECT_ID, text))
    if _INTEGER.fullmatch(text) and int(text) in _INT64:
        ids.append(SourceId(IdType.INT if int(text) in _INT32 else IdType.LONG, text))
    if is_canonical_uuid(text):
        ids.append(SourceId(IdType.UUID, text))
    return ids


def named_ids(given: Iterable[str]) -> Ids:
    """The products that a person names: by the id in the target, or by the extended JSON of an ``_id``. Raises
    `ConfigurationError` for text that no database accepts."""
    texts, others = set(), set()
    for text in given:
        require_utf8(text)
        texts.add(text)
        if text.startswith(("{", '"')):
            with suppress(ValueError):
                bson_id = parse_json(text)
                if identity := source_id(bson_id):
                    texts.add(identity.text)
                else:
                    document = base64.b64encode(bson.encode({"_id": bson_id})).decode()
                    others.add(SourceId(IdType.OTHER, document))
    return Ids(sorted(texts), sorted(others))


def require_utf8(given: str) -> None:
    """Raises `ConfigurationError` for an id that no database accepts."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("The id is not valid UTF-8.", hint="Give the id as the target has it.") from None


def is_canonical_uuid(text: str) -> bool:
    """Whether PostgreSQL would write a uuid so: 8-4-4-4-12 lower-case hexadecimal digits."""
    return _UUID.fullmatch(text) is not None


def can_be_in(column_type: ColumnType, text: str) -> bool:
    """Whether the id column of a table can hold this text."""
    if column_type.name is TypeName.UUID:
        return is_canonical_uuid(text)
    if column_type.as_text:
        values = _INT32 if column_type.name is TypeName.INTEGER else _INT64
        return _INTEGER.fullmatch(text) is not None and int(text) in values
    if column_type.name is TypeName.CHAR and text.endswith(" "):
        return False
    return "\0" not in text


def source_key(bson_id: Any) -> str:
    """The name of a document in the quarantine: the canonical extended JSON of its ``_id``. An ``_id`` may have
    megabytes (docs/decisions/0026), so a key longer than `LONGEST_KEY` is cut to its beginning and the SHA-256 of the
    whole. JSON never ends like that, so no short key is equal to a cut one."""
    key = canonical_json(bson_id)
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[:_KEY_BEGINNING]}… sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def document_key(raw: bytes, bson_id: Any) -> str:
    """`source_key` of the document ``raw``, whose decoded ``_id`` is ``bson_id``. If a name is repeated inside the
    ``_id``, decoding loses one of the two fields, and another document could get the same key. The key is then the hash
    of the bytes."""
    element = id_element(raw)
    if element is not None and element[4] in (BsonType.DOCUMENT, BsonType.ARRAY) and has_repeated_names(element):
        return f'{{"$repeated": "{hashlib.sha256(element).hexdigest()}"}}'
    return source_key(bson_id)
