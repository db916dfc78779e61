"""The supported PostgreSQL types and the canonical form of their values.

Values have one *canonical* form per column type in the whole program. Two canonical values are equal exactly if
the two databases hold the same value. Otherwise the diff would report `99.9` against `99.90`, or miss a change that a
driver rounds away.

==================  ====================================  =========================================
column type         canonical Python value                Arrow type
==================  ====================================  =========================================
smallint            int                                   int16
integer             int                                   int32
bigint              int                                   int64
numeric(p,s)        str, fixed-point, no trailing zeros   string  (``"99.9"``, ``"0"``, ``"-12000"``)
real                float holding a float32 value         float32
double precision    float, never -0.0                     float64
text, varchar(n)    str                                   string
char(n)             str, without the blanks at its end    string
citext              str, letter case counts               string
enum                str, one of its labels                string
boolean             bool                                  bool
date                int, days since 1970                  date32
timestamp           int, microseconds since 1970 local    timestamp[us]
timestamptz         int, microseconds since 1970 UTC      timestamp[us, UTC]
uuid                str, canonical lower case             string
json, jsonb         str, as PostgreSQL writes a jsonb     string (`product_sync.conversion.json_values`)
array               str, its literal                      string (`product_sync.conversion.arrays`)
==================  ====================================  =========================================

A domain has the form of the type below it.

The target may hold values that the source cannot: a NaN or infinite numeric or float, which reads as ``"NaN"``,
``"Infinity"``, ``"-Infinity"`` or the float, and an infinite timestamp or date, which reads as the largest or smallest
int64 or int32. They differ from every value of the source, so such a row is *changed* and gets repaired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa


class TypeName(StrEnum):
    SMALLINT = "smallint"
    INTEGER = "integer"
    BIGINT = "bigint"
    NUMERIC = "numeric"
    REAL = "real"
    DOUBLE = "double precision"
    TEXT = "text"
    VARCHAR = "varchar"
    CHAR = "char"
    CITEXT = "citext"
    ENUM = "enum"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    JSON = "json"
    JSONB = "jsonb"
    ARRAY = "array"


#: All other types are strings.
_ARROW: dict[TypeName, pa.DataType] = {
    TypeName.SMALLINT: pa.int16(),
    TypeName.INTEGER: pa.int32(),
    TypeName.BIGINT: pa.int64(),
    TypeName.REAL: pa.float32(),
    TypeName.DOUBLE: pa.float64(),
    TypeName.BOOLEAN: pa.bool_(),
    TypeName.DATE: pa.date32(),
    TypeName.TIMESTAMP: pa.timestamp("us"),
    TypeName.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A supported PostgreSQL type. ``length`` is that of varchar and char, in characters. ``precision`` and ``scale``
    are those of numeric, in decimal digits, and ``None`` for a numeric without them. ``as_text`` is set for an integer
    column that holds the id: ids are text in the whole program. ``own_name`` is the schema and the name of a type that
    is not built in, ``labels`` are those of an enum. ``zone`` is the time zone in which a timestamp or a date is meant;
    the mapping gives it. ``element`` is the type of the elements of an array."""

    name: TypeName
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    as_text: bool = False
    own_name: tuple[str, str] | None = None
    labels: tuple[str, ...] = ()
    zone: str | None = None
    element: ColumnType | None = None

    @property
    def scalar(self) -> ColumnType:
        """The type of a value, which in an array is an element."""
        return self.element or self

    def detailed(self, **details: Any) -> ColumnType:
        """The same type with details of its `scalar`."""
        if self.element is not None:
            details = {"element": self.element.detailed(**details)}
        return replace(self, **details)

    @property
    def arrow(self) -> pa.DataType:
        return pa.string() if self.as_text else _ARROW.get(self.name, pa.string())

    def __str__(self) -> str:
        if self.element is not None:
            return f"{self.element}[]"
        if self.name is TypeName.ENUM and self.own_name is not None:
            return ".".join(self.own_name)
        if self.zone is not None:
            return f"{self.name} in {self.zone}"
        if self.length is not None:
            return f"{self.name}({self.length})"
        if self.precision is not None:
            return f"{self.name}({self.precision},{self.scale})"
        return str(self.name)


def is_json(column_type: ColumnType) -> bool:
    return column_type.name in (TypeName.JSON, TypeName.JSONB)
