"""One product on a terminal: from its documents to its row, with its quarantine and earlier snapshots."""

from __future__ import annotations

from collections.abc import Mapping

from product_sync.results import DefectReport, EarlierReport, ProductReport
from product_sync.terminal.text import heading, line, moment, runs, table

_STATES = {
    "equal": ("Both sides have it and agree.", "green"),
    "missing": ("The target does not have it; the next sync inserts it.", "red"),
    "changed": ("The target has other values; the next sync updates it.", "red"),
    "extra": ("Only the target has it.", "red"),
    "quarantined": ("It cannot be copied as it is; see why above.", "red"),
    "nowhere": ("Neither side has it.", "red"),
}


def show_product(report: ProductReport) -> None:
    if report.state is None:
        return
    for document in report.documents or ():
        kind = f" ({document.id_type})" if document.id_type else ""
        _pairs(f"Document {document.source_key}{kind}", document.fields, absent="absent")
        if document.row:
            _pairs("Converted", document.row)
        _defects("Cannot be copied", document.defects)
    if report.target_row:
        _pairs("Row of the target", report.target_row)
    for each in report.differences or ():
        line(f"{each.column}: {_value(each.target)} in the target, {_value(each.source)} in the source")
    for exclusion in report.exclusions or ():
        line(f"In its way now: {exclusion.message} A sync writes it after that row, if that row makes way.")
    for entry in report.quarantine or ():
        _defects(f"In quarantine: {entry.source_key}", entry.defects)
        line(
            f"First seen {moment(entry.first_seen)}, last seen {moment(entry.last_seen)}, in {runs(entry.attempts)},"
            f" last in run {entry.run_id}"
        )
    if report.earlier:
        _earlier(report.earlier)
    said, style = _STATES[report.state]
    line(f"{said.partition(';')[0]}; another row is in its way." if report.exclusions else said, style)


def _earlier(snapshots: list[EarlierReport]) -> None:
    heading("Earlier snapshots")
    rows = []
    for each in snapshots:
        values = ", ".join(f"{name}: {_value(value)}" for name, value in (each.row or {}).items())
        found = f"in quarantine: {', '.join(each.reasons)}" if each.reasons else values or "not there"
        rows.append((moment(each.at), each.side, found))
    table(rows)


def _pairs(title: str, values: Mapping[str, str | None], absent: str = "NULL") -> None:
    heading(title)
    table([(name, _value(value, absent)) for name, value in values.items()])


def _defects(title: str, defects: list[DefectReport]) -> None:
    if defects:
        heading(title)
        table([(defect.column, defect.reason, defect.value) for defect in defects])


def _value(value: str | None, absent: str = "NULL") -> str:
    return absent if value is None else value.replace("\n", "\\n") or '""'
