"""Gathers everything about one product: both sides as they are now, its quarantine, and its rows in past snapshots.

It reads both sides and the state folder, and writes nothing. Documents are converted and compared with the row by the
rules of a sync (`conversion`, `compare.rule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from bson.dbref import DBRef
from bson.errors import InvalidBSON

from product_sync.compare import quarantine
from product_sync.compare.diff_lines import Difference, lines_of, shown
from product_sync.compare.quarantine import entries_of
from product_sync.compare.rule import compare_rows
from product_sync.conversion.document import RowConverter, decode
from product_sync.conversion.extended_json import cut, excerpt, parse_json
from product_sync.conversion.ids import can_be_in, possible_ids, require_utf8, source_id, source_key, to_bson
from product_sync.load.exclusions import in_the_way_now
from product_sync.pipeline.databases import Databases
from product_sync.report.drift_report import earlier_files
from product_sync.results import (
    DefectReport,
    DifferenceReport,
    DocumentReport,
    EarlierReport,
    ExclusionReport,
    ProductReport,
    QuarantineReport,
)
from product_sync.schema.ports import WriteBatch
from product_sync.schema.records import Op, Reason, SourceId
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.state.store import StateFolder
from product_sync.support.quarantine_listing import entry_report
from product_sync.verify.snapshot_lookup import seen_before


@dataclass(frozen=True, slots=True)
class Wanted:
    """A product to look up: by its text id in the target, or by an ``_id`` of any type. ``key`` is the extended JSON of
    that ``_id``, and ``text`` its id in the target, or the given text if it has none."""

    text: str
    bson_id: Any = None
    key: str | None = None


def interpretations_of(given: str) -> list[Wanted]:
    """The ways to read an id. Text comes first, because an id may only look like extended JSON. Raises
    `ConfigurationError` for text that no database accepts."""
    require_utf8(given)
    if not given.startswith(("{", '"')):
        return [Wanted(given)]
    try:
        bson_id = parse_json(given)
    except ValueError:
        return [Wanted(given)]
    identity = source_id(bson_id)
    return [Wanted(given), Wanted(identity.text if identity else given, bson_id, source_key(bson_id))]


def show_product(report: ProductReport, databases: Databases, state_root: Path) -> None:
    """Fill in ``report``. Raises `ConfigurationError` or `NotAttempted` if a side cannot be read."""
    interpretations = interpretations_of(report.id)
    row_schema = databases.row_schema
    folder = StateFolder(state_root, databases.state_key)
    for wanted in interpretations:
        documents = _documents(databases, wanted)
        row = _row(databases, wanted.text)
        if documents or row.num_rows:
            break
    report.documents = [document.report for document in documents]
    report.target_row = _shown_row(row, row_schema) if row.num_rows else None
    quarantine_path = folder.sound_quarantine()
    report.quarantine = _quarantined(quarantine_path, wanted, documents)
    report.earlier = _earlier(folder, row_schema, wanted.text)
    refused = _refused(quarantine_path, row_schema, wanted.text)
    report.state, differences = _compare(documents, row, refused, row_schema)
    report.differences = [
        DifferenceReport(column=line.column, target=line.old, source=line.new) for line in differences
    ]
    if report.state in ("missing", "changed"):
        report.exclusions = _exclusions(databases, documents[0].row, row)
    else:
        report.exclusions = []


def _exclusions(databases: Databases, new: pa.Table, old: pa.Table) -> list[ExclusionReport]:
    """The rows that would keep the product out of the target if it were written now."""
    row_schema = databases.row_schema
    new, nothing = new.select(row_schema.target_schema.names), row_schema.target_schema.empty_table()
    changed = old.num_rows > 0
    batch = WriteBatch(nothing if changed else new, new if changed else nothing, old, nothing)
    return list(map(in_the_way_now, databases.reader().obstacles(batch)))


def _documents(databases: Databases, wanted: Wanted) -> list[_Document]:
    with databases.open_source() as source:
        raw = source.documents(possible_ids(wanted.text))
        if wanted.key is not None and source_id(wanted.bson_id) is None:
            exact = source.document(wanted.bson_id)
            raw += [exact] if exact is not None and exact not in raw else []
    return _read_documents(raw, databases.row_schema)


def _row(databases: Databases, text: str) -> pa.Table:
    """The target's row, or none. Some texts cannot be the id of a row."""
    row_schema = databases.row_schema
    if not can_be_in(row_schema.key.type, text):
        return row_schema.target_schema.empty_table()
    return databases.reader().fetch([text])


def _refused(path: Path | None, row_schema: RowSchema, text: str) -> pa.Table:
    if path is None:
        return row_schema.source_schema.empty_table()
    return quarantine.refused_rows(path, row_schema, text)


def _quarantined(path: Path | None, wanted: Wanted, documents: list[_Document]) -> list[QuarantineReport]:
    if path is None:
        return []
    keys = (
        {document.report.source_key for document in documents} | {wanted.text} | ({wanted.key} if wanted.key else set())
    )
    return [entry_report(entry) for entry in entries_of(path, [wanted.text], sorted(keys))]


def _earlier(folder: StateFolder, row_schema: RowSchema, text: str) -> list[EarlierReport]:
    files = sorted(earlier_files(folder, set(), datetime.now(UTC)), key=lambda file: file.at, reverse=True)
    return [
        EarlierReport(
            side=str(file.side),
            at=file.at.isoformat(),
            run_id=file.rows.parent.name,
            present=bool(row.num_rows or reasons),
            row=_shown_row(row, row_schema) if row.num_rows and not reasons else None,
            reasons=list(reasons),
        )
        for file, row, reasons in seen_before(text, row_schema, files)
    ]


@dataclass(frozen=True, slots=True)
class _Document:
    """``row`` is the converted document (``RowSchema.source_schema``). It is ``None`` if the report has defects."""

    report: DocumentReport
    row: pa.Table | None


def _read_documents(raw: Sequence[bytes], row_schema: RowSchema) -> list[_Document]:
    """Read and convert documents that have the same text id."""
    converter = RowConverter(row_schema)
    documents = [_read(document, converter, row_schema) for document in raw]
    if sum(document.report.id_type is not None for document in documents) < 2:
        return documents
    return [_sharing_its_id(document, row_schema) for document in documents]


def _read(raw: bytes, converter: RowConverter, row_schema: RowSchema) -> _Document:
    batch, row, defects = converter.batch([raw]), None, list[DefectReport]()
    fields = _fields(raw, row_schema)
    if batch.rejects:
        reject = batch.rejects[0]
        identity, key = reject.source_id, reject.source_key
        failed = {defect.column for defect in reject.defects if defect.reason is Reason.EXPRESSION_FAILED}
        fields |= {column.origin: "failed" for column in row_schema.columns if column.name in failed}
        defects = [
            DefectReport(column=each.column, reason=str(each.reason), value=each.value) for each in reject.defects
        ]
    else:
        row = pa.Table.from_batches([batch.rows])
        identity = SourceId(row[ID_TYPE][0].as_py(), row[row_schema.key.name][0].as_py())
        key = source_key(to_bson(identity))
    report = DocumentReport(
        source_key=key,
        id_type=str(identity.type) if identity else None,
        fields=fields,
        row=_shown_row(row, row_schema) if row is not None else None,
        defects=defects,
    )
    return _Document(report, row)


def _fields(raw: bytes, row_schema: RowSchema) -> dict[str, str | None]:
    """The mapped fields by their dotted path or expression; ``failed`` for an expression that failed."""
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


def _sharing_its_id(document: _Document, row_schema: RowSchema) -> _Document:
    """As `quarantine.add_duplicates`, for one document."""
    report = document.report
    if report.id_type is None:
        return document
    shared = DefectReport(column=row_schema.key.name, reason=str(Reason.DUPLICATE_ID), value=cut(report.source_key))
    return _Document(replace(report, row=None, defects=[*report.defects, shared]), None)


def _shown_row(row: pa.Table, row_schema: RowSchema) -> dict[str, str | None]:
    return {column.name: shown(row, column) for column in row_schema.columns}


def _compare(
    documents: Sequence[_Document], target: pa.Table, refused: pa.Table, row_schema: RowSchema
) -> tuple[str, list[Difference]]:
    """The state of the product, and the columns that differ. ``target`` has its row or none
    (``RowSchema.target_schema``), ``refused`` the values that the database refused (`quarantine.refused_rows`)."""
    if not documents:
        return ("extra" if target.num_rows else "nowhere"), []
    if len(documents) > 1 or documents[0].row is None:
        return "quarantined", []
    found = list(compare_rows(row_schema, documents[0].row, target, pa.array([], pa.string()), refused))
    if not found:
        return "equal", []
    [(was_refused, op, rows)] = found
    state = "quarantined" if was_refused else "missing" if op is Op.INSERT else "changed"
    return state, list(lines_of(rows, op, row_schema)) if op is Op.UPDATE else []
