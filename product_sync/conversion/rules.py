"""The table of conversions: what each column type makes of each BSON type (design section 4).

A column type has two entries. ``exact`` converts one value at a time and knows every reason of refusal. ``page``
converts a column of a whole page; it leaves every value that it is not sure of to ``exact``. A type without ``page``
is only slower.

A rule returns the canonical value (`product_sync.schema.types`), which stands for the same number, text or instant,
or raises `ConversionError`. Nothing is rounded, cut or replaced. A BSON type without a rule is ``wrong_type``.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId

from product_sync.conversion import arrays, json_values, numbers, page_columns
from product_sync.conversion.error import ConversionError, require_text
from product_sync.conversion.ids import is_canonical_uuid, source_id
from product_sync.conversion.numbers import Rules
from product_sync.conversion.page_columns import EARLIEST_DAY, EARLIEST_MS, LATEST_DAY, LATEST_MS, PageColumn
from product_sync.conversion.zones import DAY_MS, UTC, local
from product_sync.schema.column_spec import Kind
from product_sync.schema.records import IdType, Reason, SourceId
from product_sync.schema.row_schema import RowColumn
from product_sync.schema.types import ColumnType, TypeName

_FIRST_DAY: Final = dt.date(1970, 1, 1)


class _Conversions(NamedTuple):
    exact: Callable[[ColumnType], Rules]
    page: Callable[[ColumnType], PageColumn | None] = lambda _: None


def _text(column_type: ColumnType) -> Rules:
    """text and varchar(n): strings. The first reason that applies: ``invalid_utf8``, ``nul_character``, ``too_long``.
    The length counts characters, and trailing blanks too, which PostgreSQL would cut off without an error."""
    length = column_type.length

    def convert(value: str) -> str:
        require_text(value)
        if length is not None and len(value) > length:
            raise ConversionError(Reason.TOO_LONG)
        return value

    return {str: convert}


def _padded(column_type: ColumnType) -> Rules:
    """char(n): as `_text`, then ``not_exact`` for blanks at the end. The server fills the value up with blanks and
    takes all of them for padding."""
    of_text = _text(column_type)[str]

    def convert(value: str) -> str:
        text: str = of_text(value)
        if text.endswith(" "):
            raise ConversionError(Reason.NOT_EXACT)
        return text

    return {str: convert}


def _enum(column_type: ColumnType) -> Rules:
    labels = frozenset(column_type.labels)

    def convert(value: str) -> str:
        if value not in labels:
            raise ConversionError(Reason.NOT_IN_ENUM)
        return value

    return {str: convert}


def _timestamp(column_type: ColumnType) -> Rules:
    """timestamptz: the instant. timestamp: the local time in its zone."""
    zone = column_type.zone or UTC

    def convert(value: DatetimeMS) -> int:
        milliseconds = local(int(value), zone)
        if not EARLIEST_MS <= milliseconds <= LATEST_MS:
            raise ConversionError(Reason.OUT_OF_RANGE)
        return milliseconds * 1000

    return {DatetimeMS: convert}


def _date(column_type: ColumnType) -> Rules:
    """date: an instant that is midnight in the zone, or a text such as 2024-03-01 (docs/decisions/0145)."""
    zone = column_type.zone or UTC

    def of_instant(value: DatetimeMS) -> int:
        days, rest = divmod(local(int(value), zone), DAY_MS)
        if not EARLIEST_DAY <= days <= LATEST_DAY:
            raise ConversionError(Reason.OUT_OF_RANGE)
        if rest:
            raise ConversionError(Reason.NOT_EXACT)
        return days

    return {DatetimeMS: of_instant, str: _date_of_text}


def _date_of_text(value: str) -> int:
    try:
        day = dt.date.fromisoformat(value)
    except ValueError:
        raise ConversionError(Reason.WRONG_TYPE) from None
    if day.isoformat() != value:  # fromisoformat takes 20240301 too
        raise ConversionError(Reason.WRONG_TYPE)
    return (day - _FIRST_DAY).days


def _uuid_of_text(value: str) -> str:
    text = value.lower()
    if not is_canonical_uuid(text):
        raise ConversionError(Reason.WRONG_TYPE)
    return text


CONVERSIONS: Final[dict[TypeName, _Conversions]] = {
    TypeName.SMALLINT: _Conversions(numbers.integer, page_columns.integer),
    TypeName.INTEGER: _Conversions(numbers.integer, page_columns.integer),
    TypeName.BIGINT: _Conversions(numbers.integer, page_columns.integer),
    TypeName.NUMERIC: _Conversions(numbers.numeric, page_columns.numeric),
    TypeName.REAL: _Conversions(lambda _: numbers.REAL),
    TypeName.DOUBLE: _Conversions(lambda _: numbers.DOUBLE, lambda _: page_columns.DOUBLE),
    TypeName.TEXT: _Conversions(_text, page_columns.text),
    TypeName.VARCHAR: _Conversions(_text, page_columns.text),
    TypeName.CHAR: _Conversions(_padded, page_columns.text),
    TypeName.CITEXT: _Conversions(_text, page_columns.text),
    TypeName.ENUM: _Conversions(_enum, page_columns.enum),
    TypeName.BOOLEAN: _Conversions(lambda _: {bool: bool}, lambda _: page_columns.BOOLEAN),
    TypeName.DATE: _Conversions(_date, page_columns.date),
    TypeName.TIMESTAMP: _Conversions(_timestamp, page_columns.timestamp),
    TypeName.TIMESTAMPTZ: _Conversions(_timestamp, page_columns.timestamp),
    TypeName.UUID: _Conversions(lambda _: {uuid.UUID: str, str: _uuid_of_text}, lambda _: page_columns.UUID),
    TypeName.JSON: _Conversions(lambda _: json_values.RULES),
    TypeName.JSONB: _Conversions(lambda _: json_values.RULES),
}


def rules(column: RowColumn) -> Rules:
    """The rules for the values of a column, by the Python type of the decoded value."""
    if column.type.element is not None:
        return arrays.rules(column.type.element, rules(replace(column, type=column.type.element)))
    exact = CONVERSIONS[column.type.name].exact(column.type)
    return exact if column.kind is not Kind.REFERENCE else _reference(exact[str])


def _reference(of_text: Callable[[str], Any]) -> Rules:
    """The id of another document as text."""

    def convert(value: Any) -> Any:
        reference = source_id(value)
        if reference is None:
            raise ConversionError(Reason.WRONG_TYPE)
        return of_text(reference.text)

    return dict.fromkeys((ObjectId, str, int, Int64, uuid.UUID), convert)


def key_rule(column_type: ColumnType) -> Callable[[Any], SourceId]:
    """The document's own ``_id``. The target holds exactly its text, from which the ``_id`` can be rebuilt. A uuid
    column would store upper-case text in lower case, so it takes canonical text only. An integer column takes int32 and
    int64 only: the text "7" would be taken for the number 7."""
    if column_type.as_text:
        return _integer_key(column_type)
    of_text = (
        _canonical_uuid if column_type.name is TypeName.UUID else CONVERSIONS[column_type.name].exact(column_type)[str]
    )

    def convert(value: Any) -> SourceId:
        identity = source_id(value)
        if identity is None:
            raise ConversionError(Reason.UNSUPPORTED_ID)
        of_text(identity.text)
        return identity

    return convert


def _integer_key(column_type: ColumnType) -> Callable[[Any], SourceId]:
    in_range = numbers.integer(replace(column_type, as_text=False))[int]

    def convert(value: Any) -> SourceId:
        identity = source_id(value)
        if identity is None or identity.type not in (IdType.INT, IdType.LONG):
            raise ConversionError(Reason.UNSUPPORTED_ID)
        in_range(int(value))
        return identity

    return convert


def _canonical_uuid(text: str) -> str:
    if not is_canonical_uuid(text):
        raise ConversionError(Reason.UNSUPPORTED_ID)
    return text


def page_column(column: RowColumn, *, is_key: bool) -> PageColumn | None:
    """How a column of a whole page is converted; ``None`` if its values are converted one by one."""
    if is_key or column.kind is Kind.REFERENCE:
        return page_columns.ids(column.type)
    return CONVERSIONS[column.type.name].page(column.type)
