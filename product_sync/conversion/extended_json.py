"""How a BSON value is written down for people and for the quarantine: MongoDB Extended JSON v2, canonical.

The canonical form keeps the type (``{"$numberInt": "5"}`` is not ``{"$numberLong": "5"}``), so it can name a
document. Without the bounded form, one product with a picture in its price field would put megabytes into
every table that shows the quarantine.
"""

from __future__ import annotations

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

_OPTIONS = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
#: Dates keep the whole int64 range, as when documents are decoded.
_PARSED = _OPTIONS.with_options(datetime_conversion=DatetimeConversion.DATETIME_MS)


def canonical_json(value: Any) -> str:
    """The canonical extended JSON of a decoded BSON value, always encodable as UTF-8.

    Letters outside ASCII stay readable. A byte that was not UTF-8, which decoding keeps as a lone surrogate, is
    written as its JSON escape (``\\udcff``).
    """
    text: str = json_util.dumps(value, json_options=_OPTIONS, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json(text: str) -> Any:
    """The value of which ``text`` is the extended JSON. Raises `ValueError` where it is none."""
    try:
        return json_util.loads(text, json_options=_PARSED)
    except Exception as error:  # what a parser of its own raises for a bad ``$oid`` or ``$date`` is any of ten kinds
        raise ValueError("no extended JSON") from error


def excerpt(value: Any) -> str:
    """The first `EXCERPT_LENGTH` characters of `canonical_json`, ending in ``…`` where they are not all.

    Nothing beyond them is serialised, however large or deep the value is.
    """
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > EXCERPT_LENGTH:
            return text[:EXCERPT_LENGTH] + "…"
    return text


def cut(text: str) -> str:
    """A message, bounded and made encodable in the same way."""
    bounded = text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"
    return bounded.encode("utf-8", "backslashreplace").decode("utf-8")


def _pieces(value: Any) -> Iterator[str]:
    """`canonical_json` in parts, each at least a character and of bounded length, made only when asked for."""
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
    """The JSON of a value without members. What is longer than an excerpt is shortened first: the JSON of the
    rest is still longer than an excerpt, so that the cut is marked."""
    if isinstance(value, str):
        value = value[:_KEPT]
    elif isinstance(value, Regex):
        value = Regex(value.pattern[:_KEPT], value.flags)
    elif isinstance(value, bytes):
        value = Binary(value[:_KEPT], value.subtype if isinstance(value, Binary) else 0)
    return canonical_json(value)
