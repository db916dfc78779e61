"""Converts documents one by one, exactly: each becomes a row or a reject with every reason.

This keeps the promise "it never lies". A value becomes the canonical value of its column (`rules`), or the document is
quarantined. Nothing is rounded, cut, replaced or skipped.

A missing value and null are the same, and so is BSON's deprecated ``undefined``: the column gets the default of the
mapping. Without a default it gets NULL, or the document is refused as ``missing_field`` if the column is required.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import bson
import pyarrow as pa
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.errors import BSONError, InvalidBSON

from product_sync.conversion import rules
from product_sync.conversion.elements import BsonType, RepeatedFields, document_of, elements, id_element
from product_sync.conversion.error import ConversionError
from product_sync.conversion.extended_json import cut, excerpt
from product_sync.conversion.ids import document_key, source_key
from product_sync.errors import MappingError
from product_sync.schema.records import Defect, Reason, Reject, SourceBatch, SourceId
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.source_filter import expression_of
from product_sync.schema.types import TypeName, is_json

#: Decoding without loss. Dates keep the whole int64 range. int32 (``int``) and int64 (``Int64``) stay apart, and so do
#: UUIDs of subtype 4 (``UUID``) and 3 (``Binary``). A byte that is not UTF-8 becomes a lone surrogate.
CODEC_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=dt.UTC,
    uuid_representation=UuidRepresentation.STANDARD,
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)

#: Characters of the place of a fault inside a value.
_PLACE_LENGTH: Final = 100
#: The name of a field that no document contains.
IN_NO_DOCUMENT: Final = "product_sync: in no document"
#: The name of the field that `with_failures` adds. It is not in the projection, so no document of MongoDB has it.
_FAILURES: Final = "product_sync: failed expressions"

#: Bytes of a document that may be encoded again, which needs up to three times as much memory.
_ENCODED_AGAIN: Final = 1_000_000

Row = tuple[Any, ...]


def decode(raw: bytes) -> dict[str, Any]:
    """One document, without loss. Raises `InvalidBSON` for any malformed one."""
    return bson.decode(raw, CODEC_OPTIONS)


def key_of(other: SourceId) -> str:
    """`document_key` of the document with this ``_id``, whose BSON type is not supported."""
    raw = base64.b64decode(other.text)
    return document_key(raw, decode(raw)["_id"])


def encoded(document: dict[str, Any]) -> bytes | None:
    """The bytes of a decoded document; ``None`` if it has a value that cannot be encoded. The bytes from which it was
    decoded are the same only if no name was repeated in it."""
    try:
        return bson.encode(document, codec_options=CODEC_OPTIONS)
    except (BSONError, ValueError, TypeError, OverflowError):
        return None


def projection(row_schema: RowSchema) -> dict[str, Any]:
    """The fields that MongoDB is asked for: whole top-level fields, the expressions, plus one field that no document
    contains.

    The dotted path ``price.amount`` would make the server leave out a ``price`` that is not a document. Its wrong type
    would look like a missing value and get the default.

    The server stops after as many elements as there are fields in the projection, so a repeated field would hide
    a later one. One field more makes sure that the repetition or the later field is returned (docs/decisions/0025).
    """
    fields = {column.path[0]: 1 for column in row_schema.columns if column.path}
    return {"_id": 1} | fields | {IN_NO_DOCUMENT: 1} | expressions(row_schema)


def expressions(row_schema: RowSchema) -> dict[str, Any]:
    """The part of the `projection` that MongoDB evaluates, by the name of the field in which the value arrives."""
    return {
        column.path[0]: expression_of(column.expression)
        for column in row_schema.columns
        if column.expression is not None
    }


def with_failures(document: bytes, failures: Mapping[str, str]) -> bytes:
    """A document of the `projection` that lacks the `expressions` in ``failures``, with the server's messages."""
    return document_of(memoryview(document)[4:-1], bson.encode({_FAILURES: failures})[4:-1])


class DBPointer(DBRef):
    """BSON's deprecated DBPointer. The decoder makes the same `DBRef` of it and of a document ``{$ref, $id}``. A dotted
    path reaches into the document, not into the pointer. If the two were mixed up, a column would get its default
    instead of a refusal."""


def _mark_pointers(document: dict[str, Any], raw: bytes, path: tuple[str, ...]) -> None:
    """Replace each `DBRef` along ``path`` in ``document``, which was decoded from ``raw``, by a `DBPointer` or by a
    plain document. No name on the path is repeated."""
    within: Any = document
    at = 0
    for name in path[:-1]:
        element = next((element for element in elements(raw, at) if element.name == name.encode()), None)
        if element is None or element.kind not in (BsonType.DB_POINTER, BsonType.DOCUMENT):
            return
        value = within[name]
        is_pointer = element.kind == BsonType.DB_POINTER
        if type(value) is DBRef:
            value = within[name] = DBPointer(value.collection, value.id) if is_pointer else value.as_doc()
        if is_pointer:
            return
        within, at = value, element.start


class _Field:
    """One column: where its value is in the document, and how it is converted."""

    def __init__(self, column: RowColumn) -> None:
        self.name = column.name
        self.path = column.path
        self._rules = rules.rules(column)
        self.required = column.required and not column.has_default
        self.default = self._canonical_default(column) if column.has_default else None

    def _canonical_default(self, column: RowColumn) -> Any:
        try:
            return self._convert(_default_as_bson(column.default, column.type.scalar.name))
        except ConversionError as error:
            key = "default" if column.path else "value"
            raise MappingError(
                f"The {key} of column {column.name!r}, {cut(repr(column.default))}, does not fit {column.type}: "
                f"{error.reason}.",
                hint=f"Change the {key} in the mapping file; it is converted by the rules for documents.",
            ) from error

    def _convert(self, value: Any) -> Any:
        rule = self._rules.get(type(value))
        if rule is None:
            raise ConversionError(Reason.WRONG_TYPE)
        return rule(value)

    def read(self, document: dict[str, Any], absent: list[str]) -> Any:
        """The canonical value. Raises `ConversionError`. Adds the column to ``absent`` if its path has no value."""
        path = self.path
        if not path:
            return self.default
        value = document.get(path[0])
        if len(path) > 1:
            value, is_inside = descend(value, path[1:])
            if not is_inside:
                absent.append(self.name)
                raise ConversionError(Reason.WRONG_TYPE)
        if value is None:
            absent.append(self.name)
            if self.required:
                raise ConversionError(Reason.MISSING_FIELD)
            return self.default
        return self._convert(value)


def constant(column: RowColumn) -> Any:
    """The canonical value of a column that has the same one in every row. Raises `MappingError` if it does not fit."""
    return _Field(column).default


def descend(value: Any, path: tuple[str, ...]) -> tuple[Any, bool]:
    """Follow ``path`` through embedded documents. Returns the value (``None`` if it is missing) and True, or the value
    that is not a document and False. The decoder makes a `DBRef` of some documents."""
    for name in path:
        if value is None:
            return None, True
        if type(value) is DBRef:
            value = value.as_doc()
        if not isinstance(value, dict):
            return value, False
        value = value.get(name)
    return value, True


def _default_as_bson(default: object, type_name: TypeName) -> object:
    """A default as a document would contain it. A date or time of YAML without a zone is UTC
    (yaml.org/type/timestamp.html). A date for a date column is that date, whatever its zone."""
    if isinstance(default, list):
        return [_default_as_bson(member, type_name) for member in default]
    if isinstance(default, dict):
        return {name: _default_as_bson(member, type_name) for name, member in default.items()}
    if isinstance(default, dt.datetime):
        instant = default if default.tzinfo else default.replace(tzinfo=dt.UTC)
        if instant.microsecond % 1000:
            raise ConversionError(Reason.NOT_EXACT)  # a BSON date has milliseconds
        return DatetimeMS(instant)
    if isinstance(default, dt.date):
        if type_name is TypeName.DATE:
            return default.isoformat()
        return DatetimeMS(dt.datetime(default.year, default.month, default.day, tzinfo=dt.UTC))
    return default


class RowConverter:
    """Converts documents to rows of a `RowSchema`. Made once per run: it prepares the rules of every column. Raises
    `MappingError` if a default of the mapping does not fit its column."""

    def __init__(self, row_schema: RowSchema) -> None:
        self._schema = row_schema.source_schema
        self._key_name = row_schema.key.name
        self._key = rules.key_rule(row_schema.key.type)
        self._fields = tuple(_Field(column) for column in row_schema.values)
        self._readers = tuple(field.read for field in self._fields)
        self._by_name = {field.name: field for field in self._fields}
        self._has_expressions = bool(row_schema.expressions)
        self._dotted = [field.path for field in self._fields if len(field.path) > 1]
        self._repeated = RepeatedFields(
            [column.path for column in row_schema.columns if column.path],
            whole=[column.path for column in row_schema.values if column.path and is_json(column.type)],
        )

    def convert(self, document: dict[str, Any], absent: list[str]) -> Row | Reject:
        """The canonical values of a decoded document in the order of ``RowSchema.source_schema``, or its reject with
        all columns that fail. Adds each column without a value to ``absent``."""
        if self._has_expressions and _FAILURES in document:
            return self._reject(document, absent)
        before = len(absent)
        try:
            id_type, text = self._key(document.get("_id"))
            return (id_type, text, *[read(document, absent) for read in self._readers])
        except ConversionError:
            del absent[before:]
            return self._reject(document, absent)

    def batch(self, raw_documents: Iterable[bytes]) -> SourceBatch:
        """Decode and convert the documents. A document that cannot be decoded is rejected as ``invalid_bson``, under
        its ``_id`` if that can be read, else under the hash of its bytes."""
        absent: list[str] = []
        outcomes = self.each(raw_documents, absent)
        rejects = tuple(outcome for outcome in outcomes if isinstance(outcome, Reject))
        rows = [outcome for outcome in outcomes if not isinstance(outcome, Reject)]
        return SourceBatch(self.assemble(rows), rejects, len(outcomes), Counter(absent))

    def each(self, raw_documents: Iterable[bytes], absent: list[str]) -> list[Row | Reject]:
        """As `batch`: the row or the reject of each document, in order. Adds a column to ``absent`` for each document
        that has no value for it."""
        return [self._outcome(raw, absent) for raw in raw_documents]

    def is_required(self, name: str) -> bool:
        """Whether a document without a value for this column is rejected."""
        return self._by_name[name].required

    def default(self, name: str) -> Any:
        """The canonical value of this column for a document without one."""
        return self._by_name[name].default

    def assemble(self, rows: list[Row]) -> pa.RecordBatch:
        """Rows of canonical values as a batch with ``RowSchema.source_schema``."""
        columns = zip(*rows, strict=True) if rows else [()] * len(self._schema)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _outcome(self, raw: bytes, absent: list[str]) -> Row | Reject:
        try:
            document = decode(raw)
            repeated = self._repeated.among(
                raw, holds_all=lambda: len(raw) <= _ENCODED_AGAIN and encoded(document) == raw
            )
            if not repeated:
                for path in self._dotted:
                    if type(document.get(path[0])) in (dict, DBRef):
                        _mark_pointers(document, raw, path)
        except InvalidBSON as error:
            absent += [field.name for field in self._fields if field.path]
            return self._undecodable(raw, error)
        outcome = self._reject(document, absent, repeated) if repeated else self.convert(document, absent)
        if isinstance(outcome, Reject):
            return replace(outcome, source_key=document_key(raw, document.get("_id")))
        return outcome

    def _reject(
        self, document: dict[str, Any], absent: list[str], repeated: Collection[tuple[str, ...]] = ()
    ) -> Reject:
        """``repeated`` are the paths on which the document contains a name twice."""
        bson_id = document.get("_id")
        identity, defects = self._identify(bson_id)
        if ("_id",) in repeated:
            identity, defects = None, [Defect(self._key_name, Reason.REPEATED_FIELD, excerpt(bson_id))]
        failures = document.get(_FAILURES, {}) if self._has_expressions else {}
        for field in self._fields:
            if field.path and field.path[0] in failures:
                absent.append(field.name)
                defects.append(Defect(field.name, Reason.EXPRESSION_FAILED, cut(failures[field.path[0]])))
                continue
            if field.path in repeated:
                defects.append(Defect(field.name, Reason.REPEATED_FIELD, excerpt(descend(document, field.path)[0])))
                continue
            try:
                field.read(document, absent)
            except ConversionError as error:
                # After a repetition the server may have left fields out (`projection`), so none is called missing.
                if not (repeated and error.reason is Reason.MISSING_FIELD):
                    shown = excerpt(error.value if error.place else descend(document, field.path)[0])
                    place = f"{error.place[:_PLACE_LENGTH]}: " if error.place else ""
                    defects.append(Defect(field.name, error.reason, cut(place + shown)))
        return Reject(source_key(bson_id), identity, tuple(defects))

    def _identify(self, bson_id: Any) -> tuple[SourceId | None, list[Defect]]:
        try:
            return self._key(bson_id), []
        except ConversionError as error:
            return None, [Defect(self._key_name, error.reason, excerpt(bson_id))]

    def _undecodable(self, raw: bytes, error: InvalidBSON) -> Reject:
        """The defect concerns the whole document; it is given to the key column."""
        defect = Defect(self._key_name, Reason.INVALID_BSON, cut(str(error)))
        element = id_element(raw)
        if element is not None:
            try:
                bson_id = decode(element)["_id"]
            except InvalidBSON:
                pass
            else:
                identity, defects = self._identify(bson_id)
                return Reject(document_key(raw, bson_id), identity, (*defects, defect))
        return Reject(f'{{"$undecodable": "{hashlib.sha256(raw).hexdigest()}"}}', None, (defect,))
