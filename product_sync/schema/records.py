"""Plain values that the whole program uses: the target table, ids, quarantine reasons, a page of the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

from product_sync.schema.types import ColumnType


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the target table, reflected from the catalogue. ``declared`` is the type as the server writes it.
    ``type`` is ``None`` for an unsupported type, which only an unmapped column may have."""

    name: str
    declared: str
    type: ColumnType | None
    nullable: bool
    has_default: bool


@dataclass(frozen=True, slots=True)
class TargetTable:
    """Each of ``keys`` identifies a row: its columns are NOT NULL and have a unique index."""

    schema: str
    name: str
    columns: tuple[TableColumn, ...]
    has_primary_key: bool = False
    keys: tuple[tuple[str, ...], ...] = ()

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"


class IdType(StrEnum):
    """The supported BSON types of an ``_id`` (design section 4). Type and text together name one ``_id``."""

    OBJECT_ID = "objectId"
    STRING = "string"
    INT = "int"
    LONG = "long"
    UUID = "uuid"
    #: An unsupported type: the document is a reject. The text is the base64 of its BSON (`ids.id_of_element`).
    OTHER = "other"


class SourceId(NamedTuple):
    """The BSON type and the text of an ``_id``, from which it can be rebuilt."""

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
    """Why a document is quarantined: the codes of design section 4 and of the load."""

    UNSUPPORTED_ID = "unsupported_id"
    DUPLICATE_ID = "duplicate_id"
    MISSING_FIELD = "missing_field"
    EXPRESSION_FAILED = "expression_failed"
    WRONG_TYPE = "wrong_type"
    NOT_JSON = "not_json"
    NOT_EXACT = "not_exact"
    OUT_OF_RANGE = "out_of_range"
    NOT_FINITE = "not_finite"
    NUL_CHARACTER = "nul_character"
    INVALID_UTF8 = "invalid_utf8"
    TOO_LONG = "too_long"
    NOT_IN_ENUM = "not_in_enum"
    INVALID_BSON = "invalid_bson"
    REPEATED_FIELD = "repeated_field"
    REFUSED_BY_DATABASE = "refused_by_database"
    SUPPRESSED_BY_DATABASE = "suppressed_by_database"


@dataclass(frozen=True, slots=True)
class Defect:
    """A value that cannot be copied. ``value`` is an excerpt of its canonical extended JSON. If the fault is inside an
    object or an array, the place and a colon come first, such as ``.sizes[2]: …``. For `EXPRESSION_FAILED` it is the
    server's message, and in the load stage the server's message without the other values of the row."""

    column: str
    reason: Reason
    value: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A source document that goes to the quarantine. ``source_key`` names it (`ids.source_key`). ``source_id`` is
    ``None`` if the ``_id`` itself cannot be converted. ``defects`` name all failing columns."""

    source_key: str
    source_id: SourceId | None
    defects: tuple[Defect, ...]


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """A converted page of the source. ``rows`` have `RowSchema.source_schema`. ``documents`` counts all: ``documents ==
    rows.num_rows + len(rejects)``. ``absent`` counts by column the documents in which its path has no value. It may
    leave out a column that has none."""

    rows: pa.RecordBatch
    rejects: tuple[Reject, ...]
    documents: int
    absent: Mapping[str, int] = field(default_factory=dict)
