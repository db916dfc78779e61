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
boolean             bool                                  bool
timestamptz         int, microseconds since 1970 UTC      timestamp[us, UTC]
uuid                str, canonical lower case             string
json, jsonb         str, as PostgreSQL writes a jsonb      string (`product_sync.conversion.json_values`)
==================  ====================================  =========================================

The target may hold values that the source cannot: a NaN or infinite numeric or float, which reads as ``"NaN"``,
``"Infinity"``, ``"-Infinity"`` or the float, and an infinite timestamp, which reads as the largest or smallest int64.
They differ from every value of the source, so such a row is *changed* and gets repaired.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    BOOLEAN = "boolean"
    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    JSON = "json"
    JSONB = "jsonb"


_ARROW: dict[TypeName, pa.DataType] = {
    TypeName.SMALLINT: pa.int16(),
    TypeName.INTEGER: pa.int32(),
    TypeName.BIGINT: pa.int64(),
    TypeName.NUMERIC: pa.string(),
    TypeName.REAL: pa.float32(),
    TypeName.DOUBLE: pa.float64(),
    TypeName.TEXT: pa.string(),
    TypeName.VARCHAR: pa.string(),
    TypeName.BOOLEAN: pa.bool_(),
    TypeName.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
    TypeName.UUID: pa.string(),
    TypeName.JSON: pa.string(),
    TypeName.JSONB: pa.string(),
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A supported PostgreSQL type. ``length`` is that of varchar, in characters. ``precision`` and ``scale`` are those
    of numeric, in decimal digits, and ``None`` for a numeric without them. ``as_text`` is set for an integer column
    that holds the id: ids are text in the whole program."""

    name: TypeName
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    as_text: bool = False

    @property
    def arrow(self) -> pa.DataType:
        return pa.string() if self.as_text else _ARROW[self.name]

    def __str__(self) -> str:
        if self.length is not None:
            return f"{self.name}({self.length})"
        if self.precision is not None:
            return f"{self.name}({self.precision},{self.scale})"
        return str(self.name)


def is_json(column_type: ColumnType) -> bool:
    return column_type.name in (TypeName.JSON, TypeName.JSONB)
