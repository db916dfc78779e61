"""JSON: what a json or jsonb column holds, as one text.

The canonical text is the one that PostgreSQL writes for a jsonb, with one difference: numbers have no trailing zeros
after the point. So the names of an object are in the order of their length in UTF-8 and then of their letters, there is
one blank after each comma and colon, and numbers are written without an exponent. Two values are equal exactly if their
texts are equal.

ObjectIds, dates and UUIDs become the texts that MongoDB's drivers give to ``JSON.stringify``. Everything else that JSON
lacks is refused as ``not_json`` (docs/decisions/0150).
"""

from __future__ import annotations

import datetime as dt
import json
import json.encoder
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from product_sync.conversion import numbers
from product_sync.conversion.error import ConversionError, require_text
from product_sync.schema.records import Reason
from product_sync.schema.types import ColumnType, TypeName

#: Stands before the text of a json that cannot be a jsonb: it has U+0000, half a surrogate pair, or a number beyond
#: numeric. Such a text differs from every value of the source.
NOT_JSONB: Final = "not jsonb: "
#: Characters of a value. A Decimal128 of 16 bytes has up to 6,000 digits, so a document could have gigabytes of them.
LONGEST: Final = 100_000_000

_NUMERIC: Final = numbers.numeric(ColumnType(TypeName.NUMERIC))
_numeric_text: Final = numbers.numeric_text(ColumnType(TypeName.NUMERIC))
#: The exponent of a number that no numeric can hold.
_SMALLEST: Final = -20_000
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, written with Z
_in_quotes: Final[Callable[[str], str]] = json.encoder.encode_basestring

#: A text of a jsonb that is perhaps not canonical: a number that ends with 0, or a name with letters beyond ASCII. A
#: server with another encoding has another order of such names.
_PERHAPS_NOT_CANONICAL: Final = r'(?:^|[\[:,] ?)-?[0-9]+\.[0-9]*0(?:[,\]}]|$)|[^\x00-\x7F][^"]*":'
#: A text of a json that the server cannot make a jsonb of, or perhaps not. Other texts are read as jsonb.
PERHAPS_NOT_JSONB: Final = r"\\u|[eE][+-]?[0-9][0-9][0-9]|[0-9]{255}"


class _Number(str):
    """A number of a parsed text, in canonical form."""

    __slots__ = ()


def text(value: Any) -> str:
    """The canonical text of a decoded BSON value. Raises `ConversionError`, which names the place inside the value."""
    kind = type(value)
    if kind is dict:
        parts = []
        size = 0
        for name in sorted(value, key=_order):
            try:
                parts.append(f"{_string(name)}: {text(value[name])}")
            except ConversionError as error:
                raise error.inside(f".{name}", value[name]) from None
            size += len(parts[-1])
            _require_room(size)
        return f"{{{', '.join(parts)}}}"
    if kind is list:
        parts = []
        size = 0
        for place, member in enumerate(value):
            try:
                parts.append(text(member))
            except ConversionError as error:
                raise error.inside(f"[{place}]", member) from None
            size += len(parts[-1])
            _require_room(size)
        return f"[{', '.join(parts)}]"
    return _ATOMS.get(kind, _refused)(value)


def _require_room(size: int) -> None:
    if size > LONGEST:
        raise ConversionError(Reason.TOO_LONG)


def _order(name: str) -> tuple[int, str]:
    # The letters of Unicode have the same order as their bytes in UTF-8.
    return len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass")), name


def _string(value: str) -> str:
    require_text(value)
    return _in_quotes(value)


def _double(value: float) -> str:
    shown = repr(value)
    if "e" in shown or "n" in shown:  # an exponent, inf or nan
        return str(_NUMERIC[float](value))
    shown = shown.removesuffix(".0")
    return "0" if shown == "-0" else shown


def _date(value: DatetimeMS) -> str:
    try:
        moment = _EPOCH + dt.timedelta(milliseconds=int(value))
    except OverflowError:
        raise ConversionError(Reason.OUT_OF_RANGE) from None
    return f'"{moment.isoformat(timespec="milliseconds")}Z"'


def _refused(_: Any) -> str:
    raise ConversionError(Reason.NOT_JSON)


_ATOMS: Final[dict[type, Callable[[Any], str]]] = {
    **dict.fromkeys((bytes, Binary, Code, DBRef, MaxKey, MinKey, Regex, Timestamp), _refused),
    str: _string,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    int: str,
    Int64: lambda value: str(int(value)),
    float: _double,
    Decimal128: _NUMERIC[Decimal128],
    ObjectId: lambda value: f'"{value}"',
    uuid.UUID: lambda value: f'"{value}"',
    DatetimeMS: _date,
    _Number: str,
}

#: For json and jsonb.
RULES: Final[numbers.Rules] = dict.fromkeys([dict, list, *(kind for kind in _ATOMS if kind is not _Number)], text)


def canonical(column: pa.Array, column_type: ColumnType) -> pa.Array:
    """Texts as the target's reader gets them, in canonical form. Most are: only the others are parsed."""
    pattern = _PERHAPS_NOT_CANONICAL
    if column_type.name is TypeName.JSON:
        pattern = f"{pattern}|{PERHAPS_NOT_JSONB}"
    doubtful = pc.fill_null(pc.match_substring_regex(column, pattern), False)
    if not pc.any(doubtful, min_count=0).as_py():
        return column
    parsed = pa.array([_reread(value) for value in column.filter(doubtful).to_pylist()], pa.string())
    return pc.replace_with_mask(column, doubtful, parsed)


def _reread(value: str) -> str:
    try:
        return text(json.loads(value, parse_int=_number, parse_float=_number))
    except (ConversionError, RecursionError):
        return NOT_JSONB + value


def _number(shown: str) -> _Number:
    try:
        number = Decimal(shown)
    except ArithmeticError:
        raise ConversionError(Reason.OUT_OF_RANGE) from None
    if number.adjusted() < _SMALLEST:
        raise ConversionError(Reason.NOT_EXACT)
    return _Number(_numeric_text(number))
