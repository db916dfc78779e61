"""Numbers, from what MongoDB holds to what a PostgreSQL column holds: the same number, or a reason why not.

MongoDB has four kinds of numbers and lets every document choose; PostgreSQL rounds what does not fit, and most
drivers round before it does. Without these rules a price of 99.999 would arrive as 100.00, in silence.

What a number *is* (design section 4): an int32, int64 or Decimal128 is itself; a double stands for the shortest
decimal that reads back as the same double, which is what every shell, log and JSON shows of it. That holds for large
ones too: the double 2^62 is 4611686018427388000. Zero has no sign.

When it *fits* is asked in this order, and the first no is the reason:

1. ``wrong_type``: it is a number (a string or a boolean never is);
2. ``not_finite``: it is neither NaN nor infinite;
3. ``out_of_range``: it lies within what the column can hold (so 2.5e300 is too large for integer, not a fraction);
4. ``not_exact``: the column holds it without rounding. For real and double precision that means: the shortest
   decimal of the column's float *is* the number. So 0.1 fits real, although a double 0.1 is another float;
   2^53 + 1 does not fit double precision.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from product_sync.conversion.error import ConversionError
from product_sync.schema.records import Reason

Rule = Callable[[Any], Any]

#: Digits that an unconstrained numeric holds before and after the point (PostgreSQL manual, table 8.2).
_NUMERIC_WHOLE_DIGITS, _NUMERIC_FRACTION_DIGITS = 131_072, 16_383

#: Up to this many digits, no two decimals are the same float (FLT_DIG of C), if it is a normal one.
_REAL_SAFE_DIGITS = 6
_REAL_SAFE_RANGE = (Decimal("1E-37"), Decimal("1E+38"))

_EXACT_AS_DOUBLE = 2**53


def integer_rule(bits: int) -> Rule:
    """smallint, integer, bigint: a rule that gives an int of so many bits, sign included."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert(value: Any) -> int:
        kind = type(value)
        if kind is int or kind is Int64:
            if lowest <= value <= highest:
                return int(value)
            raise ConversionError(Reason.OUT_OF_RANGE)
        number = _number(value)
        if not lowest <= number <= highest:
            raise ConversionError(Reason.OUT_OF_RANGE)
        whole = int(number)
        if whole != number:
            raise ConversionError(Reason.NOT_EXACT)
        return whole

    return convert


def numeric_rule(precision: int | None, scale: int | None) -> Rule:
    """numeric(p,s), also with a negative scale or one above the precision, and plain numeric.

    Gives fixed-point text without trailing zeros, see `model`.
    """
    whole_digits = _NUMERIC_WHOLE_DIGITS if precision is None else precision - (scale or 0)
    fraction_digits = _NUMERIC_FRACTION_DIGITS if precision is None else scale or 0

    def convert(value: Any) -> str:
        number = _number(value)
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

    return convert


def _last_place(text: str) -> int:
    """How many digits after the point the last non-zero digit stands; negative before the point (1200: -2)."""
    _, _, fraction = text.partition(".")
    return len(fraction) or len(text.rstrip("0")) - len(text)


def to_double(value: Any) -> float:
    """double precision: a float, never -0.0."""
    kind = type(value)
    if kind is float and math.isfinite(value):
        return float(value) + 0.0  # turns -0.0 into 0.0
    if (kind is int or kind is Int64) and -_EXACT_AS_DOUBLE <= value <= _EXACT_AS_DOUBLE:
        return float(value)
    number = _number(value)
    nearest = float(number)
    if math.isinf(nearest):
        raise ConversionError(Reason.OUT_OF_RANGE)
    if Decimal(repr(nearest)) != number:
        raise ConversionError(Reason.NOT_EXACT)
    return nearest + 0.0


def to_real(value: Any) -> float:
    """real: a float that a float32 holds, never -0.0."""
    number = _number(value)
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


def _number(value: Any) -> Decimal:
    """The number that a BSON value stands for, without rounding. Raises `ConversionError` where there is none.

    Decimals are only compared and written out further on: arithmetic, even ``abs``, rounds to 28 digits, and a
    Decimal128 has 34.
    """
    kind = type(value)
    if kind is int or kind is Int64:
        return Decimal(value)
    if kind is float:
        number = Decimal(repr(value))
    elif kind is Decimal128:
        number = value.to_decimal()
    else:
        raise ConversionError(Reason.WRONG_TYPE)
    if not number.is_finite():
        raise ConversionError(Reason.NOT_FINITE)
    return number
