"""From a document to a row, exactly, or to the quarantine with every reason why not.

This is where the promise "it never lies" is kept: each value either becomes the canonical value of its column
(`model`) that stands for the very same number, text or instant, or the document is rejected. Nothing is rounded, cut,
replaced or skipped. The rules are the one table `_RULES`; every path from source to target goes through it.

Missing and null are the same (and so is BSON's deprecated ``undefined``): the default if the mapping has one, else
``missing_field`` if the column is required, else NULL.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import bson
import pyarrow as pa
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.errors import InvalidBSON

from product_sync.conversion import numbers
from product_sync.conversion.db_pointer import tell_apart
from product_sync.conversion.elements import RepeatedFields, document_key
from product_sync.conversion.error import ConversionError
from product_sync.conversion.extended_json import cut, excerpt
from product_sync.conversion.ids import (
    id_element,
    is_canonical_uuid,
    possible_ids,
    source_id,
    source_key,
    to_bson,
)
from product_sync.conversion.numbers import Rule
from product_sync.errors import MappingError
from product_sync.schema.mapping import Kind
from product_sync.schema.records import ColumnType, Defect, Reason, Reject, SourceBatch, SourceId, TypeName
from product_sync.schema.row_schema import RowColumn, RowSchema

__all__ = [
    "CODEC_OPTIONS",
    "RowConverter",
    "decode",
    "possible_ids",
    "projection",
    "source_id",
    "source_key",
    "to_bson",
]

#: Decoding without loss: dates keep the whole int64 range, int32 (``int``) and int64 (``Int64``) stay apart, as
#: do UUIDs of subtype 4 (``UUID``) and 3 (``Binary``), and a byte that is not UTF-8 becomes a lone surrogate.
CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=dt.UTC,
    uuid_representation=UuidRepresentation.STANDARD,
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)

#: The name of a field that no shop has.
_IN_NO_DOCUMENT = "product_sync: in no document"

Row = tuple[Any, ...]

# timestamptz holds 4713-11-24 BC to the end of 294276 AD (Julian day 0, and END_TIMESTAMP of PostgreSQL's
# timestamp.h). Microseconds since 1970 in an int64 end before that, on 294247-01-10.
EARLIEST_MS = -210_866_803_200_000
LATEST_MS = (2**63 - 1) // 1000


def decode(raw: bytes) -> dict[str, Any]:
    """One BSON document, without loss. Raises `bson.errors.InvalidBSON`, whatever is wrong with it."""
    return bson.decode(raw, CODEC_OPTIONS)


def projection(row_schema: RowSchema) -> dict[str, int]:
    """What to ask MongoDB for: whole top-level fields.

    Not the dotted paths: projecting ``price.amount`` makes the server leave out a ``price`` that is not a
    document, and what is of the wrong type would look missing, and get the default.

    And one field more than any document has. The server stops when it has found as many elements as were asked for: a
    field that comes twice would hide one that comes later, or be hidden itself. Among one more element there is always
    one of the two (docs/decisions/0025).
    """
    return {"_id": 1} | {column.path[0]: 1 for column in row_schema.columns} | {_IN_NO_DOCUMENT: 1}


def _text_rule(length: int | None) -> Rule:
    """text and varchar(n): strings only; BSON's Code is one to Python, so the very type counts.

    The first reason that applies: ``invalid_utf8``, ``nul_character``, ``too_long`` (in characters). Trailing
    blanks count: PostgreSQL would cut them off without an error.
    """

    def convert(value: Any) -> str:
        if type(value) is not str:
            raise ConversionError(Reason.WRONG_TYPE)
        if not value.isascii() and not _is_utf8(value):
            raise ConversionError(Reason.INVALID_UTF8)
        if "\0" in value:
            raise ConversionError(Reason.NUL_CHARACTER)
        if length is not None and len(value) > length:
            raise ConversionError(Reason.TOO_LONG)
        return value

    return convert


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the lone surrogates of CODEC_OPTIONS
        return False
    return True


def _to_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ConversionError(Reason.WRONG_TYPE)
    return value


def _to_timestamp(value: Any) -> int:
    """timestamptz: BSON dates, as microseconds since 1970 UTC."""
    if type(value) is not DatetimeMS:
        raise ConversionError(Reason.WRONG_TYPE)
    milliseconds = int(value)
    if not EARLIEST_MS <= milliseconds <= LATEST_MS:
        raise ConversionError(Reason.OUT_OF_RANGE)
    return milliseconds * 1000


def _to_uuid(value: Any) -> str:
    """uuid: subtype 4, or text of 8-4-4-4-12 hexadecimal digits in either case. Other text is of the wrong type."""
    text = str(value).lower() if type(value) is uuid.UUID or type(value) is str else ""
    if not is_canonical_uuid(text):
        raise ConversionError(Reason.WRONG_TYPE)
    return text


#: The table of rules: how a value that is not null becomes the canonical value of a column type.
_RULES: dict[TypeName, Callable[[ColumnType], Rule]] = {
    TypeName.SMALLINT: lambda _: numbers.integer_rule(16),
    TypeName.INTEGER: lambda _: numbers.integer_rule(32),
    TypeName.BIGINT: lambda _: numbers.integer_rule(64),
    TypeName.NUMERIC: lambda column_type: numbers.numeric_rule(column_type.precision, column_type.scale),
    TypeName.REAL: lambda _: numbers.to_real,
    TypeName.DOUBLE: lambda _: numbers.to_double,
    TypeName.TEXT: lambda _: _text_rule(None),
    TypeName.VARCHAR: lambda column_type: _text_rule(column_type.length),
    TypeName.BOOLEAN: lambda _: _to_boolean,
    TypeName.TIMESTAMPTZ: lambda _: _to_timestamp,
    TypeName.UUID: lambda _: _to_uuid,
}


def _rule(column_type: ColumnType) -> Rule:
    return _RULES[column_type.name](column_type)


def _reference_rule(column_type: ColumnType) -> Rule:
    """The id of another document as text, within what the column can hold of text."""
    rule = _rule(column_type)

    def convert(value: Any) -> Any:
        reference = source_id(value)
        if reference is None:
            raise ConversionError(Reason.WRONG_TYPE)
        return rule(reference.text)

    return convert


def _key_rule(column_type: ColumnType) -> Callable[[Any], SourceId]:
    """The document's own id. The target holds its very text, from which the ``_id`` can be rebuilt: a uuid
    column would write upper-case text as lower case, so there only canonical text is supported."""
    if column_type.name is TypeName.UUID:

        def convert_to_uuid(value: Any) -> SourceId:
            identity = source_id(value)
            if identity is None or not is_canonical_uuid(identity.text):
                raise ConversionError(Reason.UNSUPPORTED_ID)
            return identity

        return convert_to_uuid

    check = _text_rule(column_type.length)

    def convert(value: Any) -> SourceId:
        identity = source_id(value)
        if identity is None:
            raise ConversionError(Reason.UNSUPPORTED_ID)
        check(identity.text)
        return identity

    return convert


class _Field:
    """One column to fill: where its value is, and what becomes of it."""

    def __init__(self, column: RowColumn) -> None:
        self.name = column.name
        self.path = column.path
        self._rule = _reference_rule(column.type) if column.kind is Kind.REFERENCE else _rule(column.type)
        self.required = column.required and not column.has_default
        self.default = self._canonical_default(column) if column.has_default else None

    def _canonical_default(self, column: RowColumn) -> Any:
        try:
            return self._rule(_default_as_bson(column.default))
        except ConversionError as misfit:
            raise MappingError(
                f"The default of column {column.name!r}, {cut(repr(column.default))}, does not fit {column.type}: "
                f"{misfit.reason}.",
                hint="Change the default in the mapping file; it is converted by the rules for documents.",
            ) from misfit

    def read(self, document: dict[str, Any]) -> Any:
        """The canonical value, or `ConversionError`."""
        path = self.path
        value = document.get(path[0])
        if len(path) > 1:
            value, inside = _descend(value, path[1:])
            if not inside:
                raise ConversionError(Reason.WRONG_TYPE)
        if value is None:
            if self.required:
                raise ConversionError(Reason.MISSING_FIELD)
            return self.default
        return self._rule(value)

    def offending(self, document: dict[str, Any]) -> Any:
        """The value that `read` could not use, or the one that stands in its way."""
        return _descend(document, self.path)[0]


def _descend(value: Any, path: tuple[str, ...]) -> tuple[Any, bool]:
    """Follow ``path`` through embedded documents: the value, ``None`` if it is missing, and True; or what is in
    the way and False. A DBRef is an embedded document that the decoder has given a class of its own."""
    for name in path:
        if value is None:
            return None, True
        if type(value) is DBRef:
            value = value.as_doc()
        if not isinstance(value, dict):
            return value, False
        value = value.get(name)
    return value, True


def _default_as_bson(default: object) -> object:
    """A default as a document would hold it. YAML's dates are instants: midnight or the given time, UTC unless
    it says otherwise (yaml.org/type/timestamp.html)."""
    if isinstance(default, dt.datetime):
        instant = default if default.tzinfo else default.replace(tzinfo=dt.UTC)
        if instant.microsecond % 1000:
            raise ConversionError(Reason.NOT_EXACT)  # a BSON date has milliseconds
        return DatetimeMS(instant)
    if isinstance(default, dt.date):
        return DatetimeMS(dt.datetime(default.year, default.month, default.day, tzinfo=dt.UTC))
    return default


class RowConverter:
    """Turns documents into rows of a layout. Made once per run: it prepares a rule for every column.

    Raises `MappingError` if a default of the mapping does not fit its column.
    """

    def __init__(self, row_schema: RowSchema) -> None:
        self._schema = row_schema.source_schema
        self._key_name = row_schema.key.name
        self._key = _key_rule(row_schema.key.type)
        self._fields = tuple(_Field(column) for column in row_schema.values)
        self._readers = tuple(field.read for field in self._fields)
        self._by_name = {field.name: field for field in self._fields}
        self._dotted = [field.path for field in self._fields if len(field.path) > 1]
        self._repeated = RepeatedFields([column.path for column in row_schema.columns])

    def convert(self, document: dict[str, Any]) -> Row | Reject:
        """A row of canonical values in the order of ``RowSchema.source_schema``, or the document's reject with
        *all* columns that fail. ``document`` is as `decode` gives it."""
        try:
            id_type, text = self._key(document.get("_id"))
            return (id_type, text, *[read(document) for read in self._readers])
        except ConversionError:
            return self._reject(document)

    def batch(self, raw_documents: Iterable[bytes]) -> SourceBatch:
        """Decode and convert one page of documents.

        A document that cannot be decoded is rejected as ``invalid_bson``, under its ``_id`` if that can be read,
        else under the hash of its bytes.
        """
        outcomes = self.each(raw_documents)
        rejects = tuple(outcome for outcome in outcomes if isinstance(outcome, Reject))
        rows = [outcome for outcome in outcomes if not isinstance(outcome, Reject)]
        return SourceBatch(self.assemble(rows), rejects, len(outcomes))

    def each(self, raw_documents: Iterable[bytes]) -> list[Row | Reject]:
        """What becomes of each document, in order; as `batch`."""
        return [self._outcome(raw) for raw in raw_documents]

    def may_be_absent(self, name: str) -> bool:
        """Whether a document without a value for this column of ``layout.values`` is a row all the same."""
        return not self._by_name[name].required

    def default(self, name: str) -> Any:
        """The canonical value of this column of ``layout.values`` where a document has none."""
        return self._by_name[name].default

    def _outcome(self, raw: bytes) -> Row | Reject:
        try:
            document = decode(raw)
        except InvalidBSON as error:
            return self._undecodable(raw, error)
        repeated = self._repeated.among(raw)
        if not repeated:
            for path in self._dotted:
                if type(document.get(path[0])) in (dict, DBRef):
                    tell_apart(document, raw, path)
        outcome = self._reject(document, repeated) if repeated else self.convert(document)
        if isinstance(outcome, Reject):
            return replace(outcome, source_key=document_key(raw, document.get("_id")))
        return outcome

    def assemble(self, rows: list[Row]) -> pa.RecordBatch:
        """Rows of canonical values as columns, with ``RowSchema.source_schema``."""
        columns = zip(*rows, strict=True) if rows else [()] * len(self._schema)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _reject(self, document: dict[str, Any], repeated: Collection[tuple[str, ...]] = ()) -> Reject:
        """``repeated`` are the paths on which a name stands twice in the document."""
        bson_id = document.get("_id")
        identity, defects = self._identify(bson_id)
        if ("_id",) in repeated:
            identity, defects = None, [Defect(self._key_name, Reason.REPEATED_FIELD, excerpt(bson_id))]
        for field in self._fields:
            if field.path in repeated:
                defects.append(Defect(field.name, Reason.REPEATED_FIELD, excerpt(field.offending(document))))
                continue
            try:
                field.read(document)
            except ConversionError as misfit:
                # Behind a repetition the server may have left fields out (`projection`): who knows what is missing?
                if not (repeated and misfit.reason is Reason.MISSING_FIELD):
                    defects.append(Defect(field.name, misfit.reason, excerpt(field.offending(document))))
        return Reject(source_key(bson_id), identity, tuple(defects))

    def _identify(self, bson_id: Any) -> tuple[SourceId | None, list[Defect]]:
        try:
            return self._key(bson_id), []
        except ConversionError as misfit:
            return None, [Defect(self._key_name, misfit.reason, excerpt(bson_id))]

    def _undecodable(self, raw: bytes, error: InvalidBSON) -> Reject:
        """The defect stands for the whole document, so it is laid to the key column."""
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
        digest = hashlib.sha256(raw).hexdigest()
        return Reject(f'{{"$undecodable": "{digest}"}}', None, (defect,))
