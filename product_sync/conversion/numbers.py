"""Numbers: a PostgreSQL column holds the same number as MongoDB, or the document is refused with a reason.

MongoDB has four kinds of numbers, and every document may use another one. PostgreSQL rounds what does not fit, and most
drivers round before it does: a price of 99.999 would arrive as 100.00.

An int32, int64 or Decimal128 stands for itself. A double stands for the shortest decimal that reads back as the same
double, which every shell, log and JSON text shows: the double 2^62 is 4611686018427388000. Zero has no sign (design
section 4).

These tests are made in this order; the first that fails is the reason:

1. ``wrong_type``: the value is a number, not a string or a boolean;
2. ``not_finite``: it is neither NaN nor infinite;
3. ``out_of_range``: the column can hold a number of this size (2.5e300 is too large for integer, not a fraction);
4. ``not_exact``: the column holds it without rounding. For real and double precision the shortest decimal of the
   column's float must be the number: 0.1 fits real, 2^53 + 1 does not fit double precision.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from product_sync.conversion.error import ConversionError
from product_sync.schema.records import Reason
from product_sync.schema.types import ColumnType

#: How a value becomes the canonical value of a column, by the Python type that it is decoded to.
Rules = Mapping[type, Callable[[Any], Any]]

#: Digits that a numeric without precision holds before and after the point (PostgreSQL manual, table 8.2).
_NUMERIC_WHOLE_DIGITS, _NUMERIC_FRACTION_DIGITS = 131_072, 16_383

#: Within this range and up to this many digits, every decimal is another float32 (FLT_DIG of C).
_REAL_SAFE_DIGITS = 6
_REAL_SAFE_RANGE = (Decimal("1E-37"), Decimal("1E+38"))

#: Every integer up to here is a double.
EXACT_AS_DOUBLE: Final = 2**53


def _finite(number: Decimal) -> Decimal:
    if not number.is_finite():
        raise ConversionError(Reason.NOT_FINITE)
    return number


#: The number that a BSON value stands for. Nothing calculates with these decimals: arithmetic, even ``abs``, rounds to
#: 28 digits, and a Decimal128 has 34.
_DECIMAL_OF: Final[dict[type, Callable[[Any], Decimal]]] = {
    int: Decimal,
    Int64: Decimal,
    float: lambda value: _finite(Decimal(repr(value))),
    Decimal128: lambda value: _finite(value.to_decimal()),
}


def _rules(convert: Callable[[Decimal], Any]) -> dict[type, Callable[[Any], Any]]:
    """``convert`` for every kind of number."""

    def rule(decimal_of: Callable[[Any], Decimal]) -> Callable[[Any], Any]:
        return lambda value: convert(decimal_of(value))

    return {kind: rule(decimal_of) for kind, decimal_of in _DECIMAL_OF.items()}


def integer(column_type: ColumnType) -> Rules:
    """smallint, integer, bigint: an int."""
    half = 2 ** (column_type.arrow.bit_width - 1)
    lowest, highest = -half, half - 1

    def of_integer(value: int) -> int:
        if not lowest <= value <= highest:
            raise ConversionError(Reason.OUT_OF_RANGE)
        return int(value)

    def of_decimal(number: Decimal) -> int:
        if not lowest <= number <= highest:
            raise ConversionError(Reason.OUT_OF_RANGE)
        whole = int(number)
        if whole != number:
            raise ConversionError(Reason.NOT_EXACT)
        return whole

    return _rules(of_decimal) | {int: of_integer, Int64: of_integer}


def numeric(column_type: ColumnType) -> Rules:
    """numeric and numeric(p,s): fixed-point text without trailing zeros."""
    return _rules(numeric_text(column_type))


def numeric_text(column_type: ColumnType) -> Callable[[Decimal], str]:
    """The canonical text of a finite number. The scale of the type may be negative or above p."""
    precision, scale = column_type.precision, column_type.scale or 0
    whole_digits = _NUMERIC_WHOLE_DIGITS if precision is None else precision - scale
    fraction_digits = _NUMERIC_FRACTION_DIGITS if precision is None else scale

    def of_decimal(number: Decimal) -> str:
        if not number:
            return "0"
        if number.adjusted() >= whole_digits:
            raise ConversionError(Reason.OUT_OF_RANGE)
        text = format(number, "f")
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        if _last_place(text) > fraction_digits:
            raise ConversionError(Reason.NOT_EXACT)
        return text

    return of_decimal


def _last_place(text: str) -> int:
    """The place of the last digit that is not zero: positive after the point, negative before it (1200: -2)."""
    _, _, fraction = text.partition(".")
    return len(fraction) or len(text.rstrip("0")) - len(text)


def _to_double(number: Decimal) -> float:
    nearest = float(number)
    if math.isinf(nearest):
        raise ConversionError(Reason.OUT_OF_RANGE)
    if Decimal(repr(nearest)) != number:
        raise ConversionError(Reason.NOT_EXACT)
    return nearest + 0.0  # turns -0.0 into 0.0


def _double_to_double(value: float) -> float:
    if not math.isfinite(value):
        raise ConversionError(Reason.NOT_FINITE)
    return value + 0.0


def _to_real(number: Decimal) -> float:
    try:
        (nearest,) = struct.unpack("<f", struct.pack("<f", float(number)))
    except OverflowError:
        raise ConversionError(Reason.OUT_OF_RANGE) from None
    if math.isinf(nearest):
        raise ConversionError(Reason.OUT_OF_RANGE)
    if not _is_safe_as_real(number) and Decimal(_shortest_real(nearest)) != number:
        raise ConversionError(Reason.NOT_EXACT)
    return float(nearest) + 0.0


def _is_safe_as_real(number: Decimal) -> bool:
    lowest, highest = _REAL_SAFE_RANGE
    return len(number.as_tuple().digits) <= _REAL_SAFE_DIGITS and lowest <= number.copy_abs() <= highest


def _shortest_real(value: float) -> str:
    """The shortest decimal that reads back as this float32. Python has it for doubles only."""
    return str(pa.scalar(value, pa.float32()).cast(pa.string()).as_py())


#: double precision: a float, never -0.0.
DOUBLE: Final[Rules] = _rules(_to_double) | {float: _double_to_double}
#: real: a float that is a float32, never -0.0.
REAL: Final[Rules] = _rules(_to_real)
