"""Compares the documents of one product with its row, by the rules of a sync (`conversion`, `compare.rule`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa
from bson.dbref import DBRef
from bson.errors import InvalidBSON

from product_sync.compare.diff_lines import Difference, lines_of, shown
from product_sync.compare.rule import compare_rows
from product_sync.conversion.document import RowConverter, decode
from product_sync.conversion.extended_json import cut, excerpt
from product_sync.conversion.ids import source_key, to_bson
from product_sync.schema.records import Defect, Op, Reason, SourceId
from product_sync.schema.row_schema import ID_TYPE, RowSchema


class State(StrEnum):
    """How the two sides of a product compare. ``NOWHERE``: neither side has it."""

    EQUAL = "equal"
    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"
    QUARANTINED = "quarantined"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Document:
    """``fields`` are the mapped fields by their dotted path or expression, as extended JSON cut to a limit; ``None``
    for an absent one, and ``failed`` for an expression that failed. ``row`` is the converted document
    (``RowSchema.source_schema``). It is ``None`` if there are ``defects``."""

    key: str
    identity: SourceId | None
    fields: Mapping[str, str | None]
    row: pa.Table | None
    defects: tuple[Defect, ...]


def read_documents(raw: Sequence[bytes], row_schema: RowSchema) -> list[Document]:
    """Read and convert documents that have the same text id."""
    converter = RowConverter(row_schema)
    documents = [_read(document, converter, row_schema) for document in raw]
    if sum(document.identity is not None for document in documents) < 2:
        return documents
    return [_sharing_its_id(document, row_schema) for document in documents]


def _read(raw: bytes, converter: RowConverter, row_schema: RowSchema) -> Document:
    batch = converter.batch([raw])
    fields = _fields(raw, row_schema)
    if batch.rejects:
        reject = batch.rejects[0]
        failed = {defect.column for defect in reject.defects if defect.reason is Reason.EXPRESSION_FAILED}
        fields |= {column.origin: "failed" for column in row_schema.columns if column.name in failed}
        return Document(reject.source_key, reject.source_id, fields, None, reject.defects)
    row = pa.Table.from_batches([batch.rows])
    identity = SourceId(row[ID_TYPE][0].as_py(), row[row_schema.key.name][0].as_py())
    key = source_key(to_bson(identity))
    return Document(key, identity, fields, row, ())


def _fields(raw: bytes, row_schema: RowSchema) -> dict[str, str | None]:
    try:
        document = decode(raw)
    except InvalidBSON:
        return {}
    return {column.origin: _at(document, column.path) for column in row_schema.columns if column.path}


def _at(document: Any, path: Sequence[str]) -> str | None:
    """The value at the end of ``path``, or the value on the way that is not a document."""
    for name in path:
        if isinstance(document, DBRef):
            document = document.as_doc()
        if not isinstance(document, dict):
            break
        if name not in document:
            return None
        document = document[name]
    return excerpt(document)


def _sharing_its_id(document: Document, row_schema: RowSchema) -> Document:
    """As `quarantine.add_duplicates`, for one document."""
    if document.identity is None:
        return document
    shared = Defect(row_schema.key.name, Reason.DUPLICATE_ID, cut(document.key))
    return replace(document, row=None, defects=(*document.defects, shared))


def shown_row(row: pa.Table, row_schema: RowSchema) -> dict[str, str | None]:
    """The first row of a table by column, for people; ``None`` for NULL."""
    return {column.name: shown(row, column) for column in row_schema.columns}


_STATES = {Op.INSERT: State.MISSING, Op.UPDATE: State.CHANGED}


def compare(
    documents: Sequence[Document], target: pa.Table, refused: pa.Table, row_schema: RowSchema
) -> tuple[State, list[Difference]]:
    """The state of the product, and the columns that differ. ``target`` has its row or none
    (``RowSchema.target_schema``), ``refused`` the values that the database refused (`quarantine.refused_rows`)."""
    if not documents:
        return (State.EXTRA if target.num_rows else State.NOWHERE), []
    if len(documents) > 1 or documents[0].row is None:
        return State.QUARANTINED, []
    nothing_rejected = pa.array([], pa.string())
    found = list(compare_rows(row_schema, documents[0].row, target, nothing_rejected, refused))
    if not found:
        return State.EQUAL, []
    [(was_refused, op, rows)] = found
    state = State.QUARANTINED if was_refused else _STATES[op]
    return state, list(lines_of(rows, op, row_schema)) if op is Op.UPDATE else []
