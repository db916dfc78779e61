"""Arrays of one dimension, as one text.

The canonical text is the array's literal, as PostgreSQL writes it: ``{red,"dark blue",NULL}``. The elements are
canonical values of their type. Two arrays are equal exactly if their texts are equal.

The target may hold arrays of more dimensions, or with another first index. Their texts differ from those of all arrays
of the source, so such a row is *changed* and gets repaired.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.conversion.error import ConversionError
from product_sync.conversion.json_values import LONGEST
from product_sync.conversion.numbers import Rules
from product_sync.schema.records import Reason
from product_sync.schema.types import ColumnType, TypeName

_NULL: Final = "NULL"
#: A text that is not itself in a literal without quotes (`array_out` of PostgreSQL's ``arrayfuncs.c``).
_NEEDS_QUOTES: Final = re.compile(r'["\\{},\x20\t\n\v\f\r]|\A\Z|\A(?i:null)\Z')
_ESCAPED: Final = re.compile(r'(["\\])')
#: Microseconds and days from 1970 to 2000, where PostgreSQL starts to count.
_EPOCH_US, _EPOCH_DAYS = 946_684_800_000_000, 10_957
_SECOND_US, _DAY_US = 1_000_000, 86_400_000_000


def rules(element: ColumnType, exact: Rules) -> Rules:
    """The rules of a column whose elements have the rules ``exact``. A null is an element, an array is none."""
    shown = _SHOWN[element.name]

    def convert(values: list[Any]) -> str:
        parts: list[str] = []
        size = 0
        for place, value in enumerate(values):
            try:
                parts.append(_NULL if value is None else shown(_element(value, exact)))
            except ConversionError as error:
                raise error.inside(f"[{place}]", value) from None
            size += len(parts[-1])
            if size > LONGEST:
                raise ConversionError(Reason.TOO_LONG)
        return f"{{{','.join(parts)}}}"

    return {list: convert}


def _element(value: Any, exact: Rules) -> Any:
    rule = exact.get(type(value))
    if rule is None:
        raise ConversionError(Reason.WRONG_TYPE)
    return rule(value)


def literal(values: Sequence[Any], element: ColumnType) -> str:
    """The canonical text of an array of canonical values."""
    shown = _SHOWN[element.name]
    return _literal([_NULL if value is None else shown(value) for value in values], [])


def canonical(column: pa.Array, element: ColumnType) -> pa.Array:
    """Arrays as the target's reader gets them, in canonical form: their texts, or their bytes if `is_sent_as_bytes`."""
    if is_sent_as_bytes(element):
        values = [None if raw is None else _of_bytes(raw, element.name) for raw in column.to_pylist()]
        return pa.array(values, pa.string())
    texts = column.cast(pa.string())
    if element.name is not TypeName.NUMERIC:
        return texts
    without_zeros = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+([,}])", r"\1\2")
    return pc.replace_substring_regex(without_zeros, r"\.([,}])", r"\1")


def is_sent_as_bytes(element: ColumnType) -> bool:
    """Whether the text of such an element depends on settings of the session, or is not canonical."""
    return element.name in _OF_BYTES


def _of_bytes(raw: bytes, name: TypeName) -> str:
    """The literal of an array in PostgreSQL's binary form (``array_send`` in ``arrayfuncs.c``)."""
    (dimensions,) = struct.unpack_from("!i", raw)
    bounds = [struct.unpack_from("!ii", raw, 12 + 8 * dimension) for dimension in range(dimensions)]
    form, read = _OF_BYTES[name]
    shown = _SHOWN[name]
    parts = []
    at = 12 + 8 * dimensions
    while at < len(raw):
        (length,) = struct.unpack_from("!i", raw, at)
        at += 4
        if length < 0:
            parts.append(_NULL)
            continue
        parts.append(shown(read(*struct.unpack_from(form, raw, at))))
        at += length
    return _literal(parts, bounds)


def _literal(parts: Sequence[str], bounds: Sequence[tuple[int, ...]]) -> str:
    """``bounds`` are the size and the first index of each dimension."""
    for size, _ in reversed(bounds[1:]):
        parts = [f"{{{','.join(parts[start : start + size])}}}" for start in range(0, len(parts), size)]
    indexes = "".join(f"[{first}:{first + size - 1}]" for size, first in bounds)
    is_plain = all(first == 1 for _, first in bounds)
    return f"{'' if is_plain else indexes + '='}{{{','.join(parts)}}}"


def _text(value: str) -> str:
    if _NEEDS_QUOTES.search(value) is None:
        return value
    return '"' + _ESCAPED.sub(r"\\\1", value) + '"'


def _float(value: float) -> str:
    text = repr(value).removesuffix(".0")
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def _date(days: int, clock: str = "") -> str:
    """NumPy's calendar has no end. It counts the year before the year 1 as 0."""
    if days in _INFINITE_DAYS:
        return _INFINITE_DAYS[days]
    text = str(np.datetime64(days, "D"))
    year, rest = int(text[:-6]), text[-6:]
    shown = f"{year:04}{rest}{clock}" if year > 0 else f"{1 - year:04}{rest}{clock} BC"
    return f'"{shown}"' if " " in shown else shown


_INFINITE_DAYS: Final = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_INFINITE_US: Final = {2**63 - 1: "infinity", -(2**63): "-infinity"}


def _moment(microseconds: int, zone: str = "") -> str:
    if microseconds in _INFINITE_US:
        return _INFINITE_US[microseconds]
    days, rest = divmod(microseconds, _DAY_US)
    seconds, fraction = divmod(rest, _SECOND_US)
    clock = f" {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return _date(days, clock + (f".{fraction:06}".rstrip("0") if fraction else "") + zone)


def _since_1970(infinite: dict[int, str], epoch: int) -> Callable[[int], int]:
    return lambda value: value if value in infinite else value + epoch


#: A canonical value as an element of a literal.
_SHOWN: Final[dict[TypeName, Callable[[Any], str]]] = {
    **dict.fromkeys((TypeName.SMALLINT, TypeName.INTEGER, TypeName.BIGINT, TypeName.NUMERIC, TypeName.UUID), str),
    **dict.fromkeys((TypeName.TEXT, TypeName.VARCHAR, TypeName.CHAR, TypeName.CITEXT, TypeName.ENUM), _text),
    # The double of the shortest decimal of a float32.
    TypeName.REAL: lambda value: _float(float(str(np.float32(value)))),
    TypeName.DOUBLE: _float,
    TypeName.BOOLEAN: lambda value: "t" if value else "f",
    TypeName.DATE: _date,
    TypeName.TIMESTAMP: _moment,
    TypeName.TIMESTAMPTZ: lambda value: _moment(value, "+00"),
}
#: How an element is read from its bytes: as a canonical value. Adding 0.0 makes 0.0 of -0.0.
_OF_BYTES: Final[dict[TypeName, tuple[str, Callable[[Any], Any]]]] = {
    TypeName.REAL: ("!f", lambda value: value + 0.0),
    TypeName.DOUBLE: ("!d", lambda value: value + 0.0),
    TypeName.DATE: ("!i", _since_1970(_INFINITE_DAYS, _EPOCH_DAYS)),
    TypeName.TIMESTAMP: ("!q", _since_1970(_INFINITE_US, _EPOCH_US)),
    TypeName.TIMESTAMPTZ: ("!q", _since_1970(_INFINITE_US, _EPOCH_US)),
}
#: The types that an array can have as elements.
ELEMENTS: Final = frozenset(_SHOWN)
