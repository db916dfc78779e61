"""Converts one column of a whole page at once: each function equals the exact rule of its column type (`rules`).

A value that is not certain is left to the exact rule. So these functions may be slower than necessary, never disagree
(docs/decisions/0015; a property test compares the two).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.conversion.byte_block import ByteBlock, Mask, Positions
from product_sync.conversion.elements import UNCOUNTED_SIZES, BsonType
from product_sync.conversion.numbers import EXACT_AS_DOUBLE
from product_sync.conversion.zones import DAY_MS, UTC, local_times
from product_sync.schema.records import IdType
from product_sync.schema.types import ColumnType, TypeName

#: Milliseconds since 1970 that timestamptz holds: from 4713-11-24 BC (Julian day 0) to the last whole millisecond whose
#: microseconds fit an int64, which comes before PostgreSQL's own limit in the year 294276.
EARLIEST_MS: Final = -210_866_803_200_000
LATEST_MS: Final = (2**63 - 1) // 1000
#: Days since 1970 that date holds: from the same day to 5874898-06-03 without it (DATE_END_JULIAN).
EARLIEST_DAY: Final = EARLIEST_MS // DAY_MS
LATEST_DAY: Final = 2_145_042_905
_YEAR_1: Final = -719_162

NUMBERS: Final = frozenset({BsonType.DOUBLE, BsonType.INT32, BsonType.INT64})
_ALL_NUMBERS: Final = NUMBERS | {BsonType.DECIMAL128}
ID_TYPES: Final[dict[int, IdType]] = {
    BsonType.OBJECT_ID: IdType.OBJECT_ID,
    BsonType.STRING: IdType.STRING,
    BsonType.INT32: IdType.INT,
    BsonType.INT64: IdType.LONG,
    BsonType.BINARY: IdType.UUID,
}
#: The value of a UUID: its length, its subtype, and 16 bytes.
UUID_HEAD: Final = b"\x10\0\0\0\x04"
UUID_SIZE: Final = UNCOUNTED_SIZES[BsonType.BINARY] + 16

#: Up to so many digits, two decimals are never the same double (DBL_DIG of C).
_DOUBLE_DIGITS: Final = 15
#: The most digits after the point that are tried of a double, and the most digits of any number of 64 bits.
_FRACTION_DIGITS: Final = 6
_INT64_DIGITS: Final = 18
_POWERS: Final = 10 ** np.arange(_INT64_DIGITS + 1, dtype=np.int64)
#: Decimal128 in binary: where the exponent begins in the high word, what it is too large by, and the bits below it. The
#: two highest bits of the exponent are set in NaN, infinity and numbers of another form.
_DECIMAL_EXPONENT: Final = np.uint64(49)
_DECIMAL_BIAS: Final = 6176
_DECIMAL_REST: Final = np.uint64(2**49 - 1)


class Values(NamedTuple):
    """The values of one field in many documents: where each begins and ends, and its BSON type."""

    at: Positions
    end: Positions
    kinds: NDArray[np.uint8]

    def only(self, chosen: Mask) -> Values:
        return Values(self.at[chosen], self.end[chosen], self.kinds[chosen])


class Converted(NamedTuple):
    """A converted column. Where ``certain`` is false the value means nothing."""

    values: pa.Array
    certain: Mask


class PageColumn(NamedTuple):
    """``kinds`` are the BSON types that ``convert`` takes. It is given values of one type, or of `NUMBERS` mixed."""

    kinds: frozenset[int]
    convert: Callable[[ByteBlock, Values], Converted]


def _all_certain(values: pa.Array) -> Converted:
    return Converted(values, np.ones(len(values), dtype=bool))


def ids(column_type: ColumnType) -> PageColumn:
    """An ``_id`` or a reference, as text."""
    if column_type.as_text:
        bits = 32 if column_type.name is TypeName.INTEGER else 64
        return PageColumn(frozenset({BsonType.INT32, BsonType.INT64}), partial(_integer_ids, bits=bits))
    kinds = frozenset({BsonType.BINARY}) if column_type.name is TypeName.UUID else frozenset(ID_TYPES)
    return PageColumn(kinds, partial(_ids, column_type=column_type))


def _integer_ids(block: ByteBlock, found: Values, bits: int) -> Converted:
    numbers = block.integers(found.at, "<i4" if found.kinds[0] == BsonType.INT32 else "<i8")
    texts = pa.array(numbers).cast(pa.string())
    return Converted(texts, (numbers >= -(2 ** (bits - 1))) & (numbers <= 2 ** (bits - 1) - 1))


def _ids(block: ByteBlock, found: Values, column_type: ColumnType) -> Converted:
    kind = found.kinds[0]
    if kind == BsonType.STRING:
        return text(column_type).convert(block, found)
    if kind == BsonType.BINARY:
        texts = block.uuids(found.at + len(UUID_HEAD))
    elif kind == BsonType.OBJECT_ID:
        texts = block.hexadecimal(found.at, 12)
    else:
        texts = pa.array(block.integers(found.at, "<i4" if kind == BsonType.INT32 else "<i8")).cast(pa.string())
    length = column_type.length
    return _all_certain(texts) if length is None else Converted(texts, _is_at_most(texts, length))


def text(column_type: ColumnType) -> PageColumn:
    convert = _padded if column_type.name is TypeName.CHAR else _text
    return PageColumn(frozenset({BsonType.STRING}), partial(convert, length=column_type.length))


def _padded(block: ByteBlock, found: Values, length: int | None) -> Converted:
    text, certain = _text(block, found, length)
    return Converted(text, certain & (block.integers(found.end - 2, "u1") != ord(" ")))


def enum(column_type: ColumnType) -> PageColumn | None:
    if not column_type.labels:
        return None
    labels = pa.array([label.encode() for label in column_type.labels], pa.binary())
    return PageColumn(frozenset({BsonType.STRING}), partial(_enum, labels=labels))


def _enum(block: ByteBlock, found: Values, labels: pa.Array) -> Converted:
    places = pc.index_in(block.texts(found.at + 4, found.end - 1), value_set=labels)
    return Converted(labels.cast(pa.string()).take(pc.fill_null(places, 0)), _mask(pc.is_valid(places)))


def _text(block: ByteBlock, found: Values, length: int | None) -> Converted:
    raw = block.texts(found.at + 4, found.end - 1)
    certain = np.ones(len(found.at), dtype=bool)
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:  # a value of the page is not UTF-8: only the ASCII ones are certain
        text = raw.view(pa.string())
        certain &= _mask(pc.string_is_ascii(text))
    if not np.frombuffer(text.buffers()[2] or b"\1", np.uint8).all():
        certain &= ~_mask(pc.match_substring(raw, b"\0"))
    if length is not None:
        # Arrow cannot count the characters of a text that may not be UTF-8.
        text = pc.if_else(pa.array(certain), text, "")
        certain &= _is_at_most(text, length)
    return Converted(text, certain)


def _is_at_most(text: pa.Array, length: int) -> Mask:
    return _mask(pc.less_equal(pc.utf8_length(text), length))


def _boolean(block: ByteBlock, found: Values) -> Converted:
    value = block.integers(found.at, "u1")
    return Converted(pa.array(value == 1), value <= 1)


def timestamp(column_type: ColumnType) -> PageColumn:
    """timestamptz, and timestamp in a zone."""
    convert = partial(_timestamp, arrow=column_type.arrow, zone=column_type.zone or UTC)
    return PageColumn(frozenset({BsonType.DATE}), convert)


def _timestamp(block: ByteBlock, found: Values, arrow: pa.DataType, zone: str) -> Converted:
    milliseconds, certain = local_times(block.integers(found.at, "<i8"), zone)
    certain &= (milliseconds >= EARLIEST_MS) & (milliseconds <= LATEST_MS)
    microseconds = pa.array(np.where(certain, milliseconds, 0) * 1000)
    return Converted(microseconds.cast(arrow), certain)


def date(column_type: ColumnType) -> PageColumn:
    return PageColumn(frozenset({BsonType.DATE, BsonType.STRING}), partial(_date, zone=column_type.zone or UTC))


def _date(block: ByteBlock, found: Values, zone: str) -> Converted:
    if found.kinds[0] == BsonType.STRING:
        return _date_of_text(*_text(block, found, None))
    milliseconds, certain = local_times(block.integers(found.at, "<i8"), zone)
    days = milliseconds // DAY_MS
    certain &= (days * DAY_MS == milliseconds) & (days >= EARLIEST_DAY) & (days <= LATEST_DAY)
    return Converted(pa.array(np.where(certain, days, 0).astype(np.int32)).cast(pa.date32()), certain)


def _date_of_text(text: pa.Array, certain: Mask) -> Converted:
    text = pc.if_else(pa.array(certain), text, "")
    days = pc.strptime(text, format="%Y-%m-%d", unit="s", error_is_null=True).cast(pa.date32())
    # Written out again, it must be the same text: the parser takes 2024-1-1 too.
    is_same = pc.and_(pc.equal(days.cast(pa.string()), text), pc.greater_equal(days.cast(pa.int32()), _YEAR_1))
    return Converted(days, certain & _mask(pc.fill_null(is_same, False)))


def integer(column_type: ColumnType) -> PageColumn:
    """smallint, integer, bigint."""
    return PageColumn(_ALL_NUMBERS, partial(_integer, arrow=column_type.arrow))


def _integer(block: ByteBlock, found: Values, arrow: pa.DataType) -> Converted:
    numbers, certain = _whole_numbers(block, found)
    half = 2 ** (arrow.bit_width - 1)
    certain &= (numbers >= -half) & (numbers <= half - 1)
    return Converted(pa.array(np.where(certain, numbers, 0)).cast(arrow), certain)


def _whole_numbers(block: ByteBlock, found: Values) -> tuple[NDArray[np.int64], Mask]:
    if found.kinds[0] == BsonType.DECIMAL128:
        return _decimal_units(block, found, places=0)
    numbers = np.where(
        found.kinds == BsonType.INT32, block.integers(found.at, "<i4"), block.integers(found.at, "<i8")
    ).astype(np.int64)
    is_double = found.kinds == BsonType.DOUBLE
    if not is_double.any():
        return numbers, np.ones(len(numbers), dtype=bool)
    doubles = _small_doubles(block, found)
    is_whole = (doubles == np.trunc(doubles)) & (np.abs(doubles) < EXACT_AS_DOUBLE)
    return np.where(is_double, np.where(is_whole, doubles, 0).astype(np.int64), numbers), is_whole | ~is_double


def _decimal_units(block: ByteBlock, found: Values, places: int) -> tuple[NDArray[np.int64], Mask]:
    """Values of Decimal128 as whole multiples of the last of ``places``, if they are such multiples below 10^18."""
    low, high = block.integers(found.at, "<u8"), block.integers(found.at + 8, "<u8")
    # The high word: a sign, 14 bits of the exponent, and the coefficient's highest bits, all zero in a small number.
    is_small = (high & _DECIMAL_REST == 0) & (low < 10**_INT64_DIGITS)
    coefficients = np.where(is_small, low, 0).astype(np.int64)
    shifts = (high >> _DECIMAL_EXPONENT & np.uint64(2**14 - 1)).astype(np.int64) - _DECIMAL_BIAS + places
    multiplied = _POWERS[np.clip(shifts, 0, _INT64_DIGITS)]
    divided = _POWERS[np.clip(-shifts, 0, _INT64_DIGITS)]
    whole, rest = np.divmod(coefficients, divided)
    certain = is_small & (rest == 0) & (np.abs(shifts) <= _INT64_DIGITS) & (whole <= (_POWERS[-1] - 1) // multiplied)
    units = np.where(certain, whole * multiplied, 0)
    return np.where(high >> np.uint64(63), -units, units), certain


def _small_doubles(block: ByteBlock, found: Values) -> NDArray[np.float64]:
    """The doubles below 2^53. Every other value becomes 2^53, which is not small."""
    doubles = block.integers(found.at, "<f8")
    is_small = (found.kinds == BsonType.DOUBLE) & (np.abs(doubles) < EXACT_AS_DOUBLE)
    return np.where(is_small, doubles, float(EXACT_AS_DOUBLE))


def _double(block: ByteBlock, found: Values) -> Converted:
    numbers, certain = _whole_numbers(block, found)
    doubles = block.integers(found.at, "<f8")
    is_double = found.kinds == BsonType.DOUBLE
    is_exact = (numbers > -EXACT_AS_DOUBLE) & (numbers < EXACT_AS_DOUBLE)
    certain = np.where(is_double, np.isfinite(doubles), certain & is_exact)
    # Adding 0.0 turns -0.0 into 0.0 and changes no other value.
    values = np.where(certain, np.where(is_double, doubles, numbers), 0.0) + 0.0
    return Converted(pa.array(values), certain)


def numeric(column_type: ColumnType) -> PageColumn | None:
    """numeric and numeric(p,s) with up to six digits after the point."""
    if not 0 <= (column_type.scale or 0) <= _FRACTION_DIGITS:
        return None
    return PageColumn(_ALL_NUMBERS, partial(_numeric, precision=column_type.precision, scale=column_type.scale))


def _numeric(block: ByteBlock, found: Values, precision: int | None, scale: int | None) -> Converted:
    """Numbers as whole multiples of the last place.

    If the quotient is exactly the given double, it is the double nearest to this decimal, because both parts of the
    division are exact. And a decimal of at most 15 digits is the only one so short that is nearest to its double, so
    it is the shortest: the one for which the double stands (`numbers`).
    """
    places = _FRACTION_DIGITS if scale is None and precision is None else scale or 0
    unit = 10**places
    most = 10 ** min(_INT64_DIGITS if precision is None else precision, _INT64_DIGITS)
    if found.kinds[0] == BsonType.DECIMAL128:
        units, certain = _decimal_units(block, found, places)
        return Converted(_decimal_texts(units, places), certain & (np.abs(units) < most))
    whole, certain = _whole_numbers(block, found)
    certain &= (whole < most // unit) & (whole > -(most // unit))
    units = np.where(certain, whole, 0) * unit
    is_double = found.kinds == BsonType.DOUBLE
    if is_double.any():
        doubles = _small_doubles(block, found)
        counted = np.rint(doubles * unit)
        certain_double = (counted / unit == doubles) & (np.abs(counted) < min(most, 10**_DOUBLE_DIGITS))
        units = np.where(is_double, np.where(certain_double, counted, 0).astype(np.int64), units)
        certain = np.where(is_double, certain_double, certain)
    return Converted(_decimal_texts(units, places), certain)


def _decimal_texts(units: NDArray[np.int64], places: int) -> pa.Array:
    """Fixed-point text without trailing zeros."""
    if not places:
        return pa.array(units).cast(pa.string())
    halves = np.empty((len(units), 2), np.int64)
    halves[:, 0], halves[:, 1] = units, units >> 63  # a decimal128 is a number of 128 bits, little end first
    decimals = pa.Array.from_buffers(pa.decimal128(38, places), len(units), [None, pa.py_buffer(halves)])
    return pc.ascii_rtrim(pc.ascii_rtrim(decimals.cast(pa.string()), "0"), ".")


def _mask(values: Any) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False)
    return mask


DOUBLE: Final = PageColumn(NUMBERS, _double)
BOOLEAN: Final = PageColumn(frozenset({BsonType.BOOLEAN}), _boolean)
UUID: Final = PageColumn(
    frozenset({BsonType.BINARY}), lambda block, found: _all_certain(block.uuids(found.at + len(UUID_HEAD)))
)
