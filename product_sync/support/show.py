"""Gathers everything about one product: both sides as they are now, its quarantine, and its rows in past snapshots.

It reads both sides and the state folder, and writes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from product_sync.compare import quarantine
from product_sync.compare.quarantine import entries_of
from product_sync.conversion.extended_json import parse_json
from product_sync.conversion.ids import can_be_in, possible_ids, require_utf8, source_id, source_key
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
from product_sync.schema.row_schema import RowSchema
from product_sync.state.store import StateFolder
from product_sync.support.document_state import Document, State, compare, read_documents, shown_row
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
    report.documents = [_document(document, row_schema) for document in documents]
    report.target_row = shown_row(row, row_schema) if row.num_rows else None
    quarantine_path = folder.sound_quarantine()
    report.quarantine = _quarantined(quarantine_path, wanted, documents)
    report.earlier = _earlier(folder, row_schema, wanted.text)
    state, differences = compare(documents, row, _refused(quarantine_path, row_schema, wanted.text), row_schema)
    report.state = str(state)
    report.differences = [
        DifferenceReport(column=line.column, target=line.old, source=line.new) for line in differences
    ]
    report.exclusions = _exclusions(databases, documents[0].row if documents else None, row, state)


def _exclusions(databases: Databases, new: pa.Table | None, old: pa.Table, state: State) -> list[ExclusionReport]:
    """The rows that would keep the product out of the target if it were written now."""
    if new is None or state not in (State.MISSING, State.CHANGED):
        return []
    row_schema = databases.row_schema
    new, nothing = new.select(row_schema.target_schema.names), row_schema.target_schema.empty_table()
    changed = old.num_rows > 0
    batch = WriteBatch(nothing if changed else new, new if changed else nothing, old, nothing)
    found = map(in_the_way_now, databases.reader().obstacles(batch))
    return [ExclusionReport(**asdict(each)) for each in found]


def _documents(databases: Databases, wanted: Wanted) -> list[Document]:
    with databases.open_source() as source:
        raw = source.documents(possible_ids(wanted.text))
        if wanted.key is not None and source_id(wanted.bson_id) is None:
            exact = source.document(wanted.bson_id)
            raw += [exact] if exact is not None and exact not in raw else []
    return read_documents(raw, databases.row_schema)


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


def _quarantined(path: Path | None, wanted: Wanted, documents: list[Document]) -> list[QuarantineReport]:
    if path is None:
        return []
    keys = {document.key for document in documents} | {wanted.text} | ({wanted.key} if wanted.key else set())
    return [entry_report(entry) for entry in entries_of(path, [wanted.text], sorted(keys))]


def _earlier(folder: StateFolder, row_schema: RowSchema, text: str) -> list[EarlierReport]:
    files = sorted(earlier_files(folder, set(), datetime.now(UTC)), key=lambda file: file.at, reverse=True)
    return [
        EarlierReport(
            side=str(file.side),
            at=file.at.isoformat(),
            run_id=file.rows.parent.name,
            present=bool(row.num_rows or reasons),
            row=shown_row(row, row_schema) if row.num_rows and not reasons else None,
            reasons=list(reasons),
        )
        for file, row, reasons in seen_before(text, row_schema, files)
    ]


def _document(document: Document, row_schema: RowSchema) -> DocumentReport:
    return DocumentReport(
        source_key=document.key,
        id_type=str(document.identity.type) if document.identity else None,
        fields=dict(document.fields),
        row=shown_row(document.row, row_schema) if document.row is not None else None,
        defects=[
            DefectReport(column=defect.column, reason=str(defect.reason), value=defect.value)
            for defect in document.defects
        ],
    )
