"""Writes a BSON value as text for people and for the quarantine: MongoDB Extended JSON v2, canonical.

The canonical form keeps the type (``{"$numberInt": "5"}`` is not ``{"$numberLong": "5"}``), so it can name a document.
Without the bounded form, a product with a picture in its price field would put megabytes into every quarantine table.
"""

import re
from collections.abc import Iterator
from typing import Any

from bson import json_util
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import DatetimeConversion
from bson.dbref import DBRef
from bson.regex import Regex

#: Characters of a value that the quarantine keeps.
EXCERPT_LENGTH = 200
_KEPT = EXCERPT_LENGTH + 1

_WRITTEN_OUT = re.compile(r'\{"\$(?:oid|number[A-Za-z0-9]+)": "([^"]*)"\}')

_OPTIONS = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
#: Dates keep the whole int64 range, as when documents are decoded.
_PARSED = _OPTIONS.with_options(datetime_conversion=DatetimeConversion.DATETIME_MS)


def canonical_json(value: Any) -> str:
    """The canonical extended JSON of a decoded BSON value. It can always be encoded as UTF-8. Letters outside ASCII
    stay readable. Decoding makes a lone surrogate of a byte that is not UTF-8; it is written as its JSON escape."""
    text: str = json_util.dumps(value, json_options=_OPTIONS, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json(text: str) -> Any:
    """The value that the extended JSON ``text`` stands for. Raises `ValueError` if it is not extended JSON."""
    try:
        return json_util.loads(text, json_options=_PARSED)
    except Exception as error:  # a bad ``$oid`` or ``$date`` raises one of ten kinds
        raise ValueError("no extended JSON") from error


def readable(text: str) -> str:
    """A value in extended JSON as a person reads it: an ObjectId as its digits, a number as it is, a text in quotes. A
    long value was cut and is not JSON any more."""
    written_out = _WRITTEN_OUT.fullmatch(text)
    return written_out[1] if written_out else text


def excerpt(value: Any) -> str:
    """The first `EXCERPT_LENGTH` characters of `canonical_json`, with ``…`` if there are more. The rest is not
    serialised, even if the value is large or deep."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > EXCERPT_LENGTH:
            return text[:EXCERPT_LENGTH] + "…"
    return text


def cut(text: str) -> str:
    """A message, cut to the length of an excerpt and encodable as UTF-8."""
    bounded = text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"
    return bounded.encode("utf-8", "backslashreplace").decode("utf-8")


def _pieces(value: Any) -> Iterator[str]:
    """`canonical_json` in parts of bounded length, made one by one."""
    if isinstance(value, DBRef):
        value = value.as_doc()
    elif isinstance(value, Code):
        value = {"$code": value[:_KEPT]} | ({} if value.scope is None else {"$scope": value.scope})
    if isinstance(value, dict):
        yield "{"
        for position, (name, member) in enumerate(value.items()):
            yield f"{', ' if position else ''}{_atom(name)}: "
            yield from _pieces(member)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for position, member in enumerate(value):
            if position:
                yield ", "
            yield from _pieces(member)
        yield "]"
    else:
        yield _atom(value)


def _atom(value: Any) -> str:
    """The JSON of a value without members. A long value is cut first; its JSON is still longer than an excerpt, so
    that the cut is marked."""
    if isinstance(value, str):
        value = value[:_KEPT]
    elif isinstance(value, Regex):
        value = Regex(value.pattern[:_KEPT], value.flags)
    elif isinstance(value, bytes):
        value = Binary(value[:_KEPT], value.subtype if isinstance(value, Binary) else 0)
    return canonical_json(value)
