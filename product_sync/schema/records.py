"""The words of the domain as plain values: column types, the table, ids, quarantine reasons.

Values travel through the whole program in one *canonical* form per column type, so that equality of
canonical values is equality of what the two databases hold. Without it the diff would report `99.9`
against `99.90`, or miss a change that a driver rounds away.

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
==================  ====================================  =========================================

The target may hold what the source may not: a numeric or float ``NaN``/``Infinity`` reads as
``"NaN"``/``"Infinity"``/``"-Infinity"`` or the float, an infinite timestamp as the largest or smallest
int64. They differ from every value of the source, so such a row is *changed*, and is mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

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
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A supported PostgreSQL type. ``length`` is varchar's, in characters; ``precision`` and ``scale``
    are numeric's, in decimal digits, both ``None`` for an unconstrained numeric."""

    name: TypeName
    length: int | None = None
    precision: int | None = None
    scale: int | None = None

    @property
    def arrow(self) -> pa.DataType:
        return _ARROW[self.name]

    def __str__(self) -> str:
        if self.length is not None:
            return f"{self.name}({self.length})"
        if self.precision is not None:
            return f"{self.name}({self.precision},{self.scale})"
        return str(self.name)


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the target table as reflected from its catalogue.

    ``type`` is ``None`` where the column's type is not supported; ``declared`` is the type as the
    server writes it. An unmapped column needs no supported type.
    """

    name: str
    declared: str
    type: ColumnType | None
    nullable: bool
    has_default: bool


@dataclass(frozen=True, slots=True)
class TargetTable:
    schema: str
    name: str
    columns: tuple[TableColumn, ...]
    primary_key: tuple[str, ...]

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"


class IdType(StrEnum):
    """The BSON types an ``_id`` may have (design section 4). With the text it names one ``_id``."""

    OBJECT_ID = "objectId"
    STRING = "string"
    INT = "int"
    LONG = "long"
    UUID = "uuid"


class SourceId(NamedTuple):
    """An ``_id`` without loss: its BSON type and its text form, from which it can be rebuilt."""

    type: str
    text: str


class Op(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    EXTRA = "extra"


class Stage(StrEnum):
    """Where a document was quarantined."""

    CONVERT = "convert"
    LOAD = "load"


class Reason(StrEnum):
    """Why a document is quarantined: the codes of design section 4, and those of the load."""

    UNSUPPORTED_ID = "unsupported_id"
    DUPLICATE_ID = "duplicate_id"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    NOT_EXACT = "not_exact"
    OUT_OF_RANGE = "out_of_range"
    NOT_FINITE = "not_finite"
    NUL_CHARACTER = "nul_character"
    INVALID_UTF8 = "invalid_utf8"
    TOO_LONG = "too_long"
    INVALID_BSON = "invalid_bson"
    REPEATED_FIELD = "repeated_field"
    REFUSED_BY_DATABASE = "refused_by_database"
    SUPPRESSED_BY_DATABASE = "suppressed_by_database"


@dataclass(frozen=True, slots=True)
class Defect:
    """One value that cannot be copied. ``value`` is its canonical extended JSON, cut to a bounded length
    (for the load stage: the server's message, without the row's other values)."""

    column: str
    reason: Reason
    value: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A source document that goes to the quarantine.

    ``source_key`` names it (`ids.source_key`). ``source_id`` is ``None`` only where the
    ``_id`` itself cannot be converted. All failing columns are named, not only the first.
    """

    source_key: str
    source_id: SourceId | None
    defects: tuple[Defect, ...]


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """What one page of the source became.

    ``rows`` has the layout's source schema (`RowSchema.source_schema`), ``documents`` counts everything read:
    ``documents == rows.num_rows + len(rejects)``.
    """

    rows: pa.RecordBatch
    rejects: tuple[Reject, ...]
    documents: int
