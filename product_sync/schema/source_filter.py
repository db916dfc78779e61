"""The parts of a mapping that MongoDB evaluates: the filter of a source and the expressions of its columns.

YAML has no ObjectIds, so both are written in extended JSON: ``{"$oid": …}``, ``{"$date": …}``. The driver's own parser
is not used for the whole of them: it would take ``$regex`` out of a condition and silently drop the operators beside
it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion

_OPTIONS: Final = json_util.JSONOptions(
    tz_aware=True,
    tzinfo=dt.UTC,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
#: The keys of extended JSON that stand for a value (MongoDB manual, "Extended JSON v2"). All others are operators.
_VALUES: Final = frozenset(
    {
        "$binary", "$date", "$maxKey", "$minKey", "$numberDecimal", "$numberDouble", "$numberInt", "$numberLong",
        "$oid", "$regularExpression", "$timestamp", "$uuid",
    }
)  # fmt: skip


def query_of(source_filter: Mapping[str, Any]) -> dict[str, Any]:
    """The query with BSON values. A date or time without a zone is UTC. Raises `ValueError` if it cannot be a query."""
    return dict(_encodable(source_filter, "a query"))


def checked(source_filter: dict[str, Any]) -> dict[str, Any]:
    """For pydantic: the same filter, if it is a query."""
    query_of(source_filter)
    return source_filter


def expression_of(expression: Any) -> Any:
    """The expression with BSON values. ``$let`` makes an expression of a number or an embedded document too, which a
    projection would take for something else. The server removes it. Raises `ValueError` as `query_of`."""
    return {"$let": {"vars": {}, "in": _encodable(expression, "an expression")}}


def checked_expression(expression: Any) -> Any:
    """For pydantic: the same expression, if it can be one."""
    expression_of(expression)
    return expression


def _encodable(written: Any, what: str) -> Any:
    values = _bson(written)
    try:
        bson.encode({"": values})
    except Exception as error:  # the encoder raises InvalidDocument, OverflowError, UnicodeEncodeError and others
        raise ValueError(f"{what} that MongoDB can store: {error}") from error
    return values


def _bson(value: Any) -> Any:
    if isinstance(value, Mapping):
        members = {str(name): _bson(member) for name, member in value.items()}
        if len(members) != 1 or not members.keys() <= _VALUES:
            return members
        try:
            return json_util.object_hook(members, _OPTIONS)
        except Exception as error:  # a bad ``$oid`` or ``$date`` raises one of ten kinds
            raise ValueError(f"valid extended JSON in place of {value!r}: {error}") from error
    if isinstance(value, list):
        return [_bson(member) for member in value]
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    return value
