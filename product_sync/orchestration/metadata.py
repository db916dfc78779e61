"""What the UI shows of a step: it is done here, and told in the same names everywhere, zeros included.

Numbers are plotted over time by the UI, so a count that is left out when it is zero would leave a gap that looks
like "fine".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import dagster as dg

from product_sync.core import quarantine
from product_sync.core.diff import Difference
from product_sync.core.layout import Layout, LayoutColumn
from product_sync.core.load_result import LoadResult
from product_sync.core.model import Op
from product_sync.core.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.core.tables import row_count
from product_sync.core.verify import Verification
from product_sync.drift_report import DriftReport
from product_sync.orchestration.names import STATE_KEY
from product_sync.session import SHOWN, Found, Preview, Session

Metadata = dict[str, Any]
_DIFFERENCE = ("op", "id", "column", "old", "new")
_EXPLAINED = 20
_ENTRY = ("source_key", "reasons", "columns", "values", "stage")
#: Dagster's own names: the UI shows them in the asset's list, sidebar and Columns.
_ROW_COUNT, _COLUMNS, _TABLE = "dagster/row_count", "dagster/column_schema", "dagster/table_name"


def source_metadata(session: Session, snapshot: SourceSnapshot) -> Metadata:
    return {
        **_numbers(snapshot),
        _ROW_COUNT: snapshot.documents - snapshot.rejected,
        _COLUMNS: _columns(session.layout),
        "rejected_by_reason": _by_name(snapshot.rejects),
        "first_rejects": _entries(session.first_rejects()),
    }


def target_metadata(session: Session, snapshot: TargetSnapshot) -> Metadata:
    return {**_numbers(snapshot), _ROW_COUNT: snapshot.rows, _COLUMNS: _columns(session.layout)}


def diff_metadata(found: Found) -> Metadata:
    return {
        **_numbers(found.counts),
        _ROW_COUNT: found.counts.to_write + found.counts.extra,
        "duration_s": round(found.duration_s, 3),
        "rows_per_second": round(found.rows_per_second, 3),
        "changed_by_column": _by_name(found.changed_columns),
        **_by_kind(found.first),
        "first_differences": _table([asdict(line) for line in found.first], _DIFFERENCE),
    }


def preview_metadata(session: Session, preview: Preview) -> Metadata:
    return {
        **_numbers(preview.counts),
        "inserted": 0,
        "updated": 0,
        "deleted": 0,
        "batches": preview.estimate.batches,
        "estimated_s": None if preview.estimate.seconds is None else round(preview.estimate.seconds, 3),
        "estimate": preview.estimate.because or "measured: the first batch was run and rolled back",
        "plan_id": preview.plan_id,
        "privileges": preview.lacking or "sufficient",
        "first_differences": _table([asdict(line) for line in preview.first], _DIFFERENCE),
        "quarantined_by_reason": _by_name(preview.rejects_by_reason),
        "first_quarantined": _entries(session.first_rejects()),
    }


def load_metadata(session: Session, result: LoadResult) -> Metadata:
    return {
        **_numbers(result),
        STATE_KEY: session.folder.key,
        "plan_id": session.settings.plan or "",
        "stopped": f"{result.stop.message} {result.stop.hint}".strip() if result.stop else "",
        "no_deletion_because": result.no_deletion_because or "",
        "failed": _table([asdict(failure) for failure in result.failures], ("batch", "rows", "cause", "keys")),
        "first_differences": _table([asdict(line) for line in session.first_differences()], _DIFFERENCE),
    }


def quarantine_metadata(session: Session, result: LoadResult) -> Metadata:
    path = session.folder.quarantine
    quarantined = row_count(path)
    return {
        "quarantined": quarantined,
        _ROW_COUNT: quarantined,
        "duration_s": round(result.quarantine_s, 3),
        "rows_per_second": round(quarantined / result.quarantine_s, 3) if result.quarantine_s else 0.0,
        "quarantined_by_reason": _by_name(quarantine.summary(path)),
        "first_quarantined": _entries(quarantine.first_entries(path, SHOWN).to_pylist()),
    }


def drift_metadata(report: DriftReport, link: dg.MetadataValue[str | None], duration_s: float) -> Metadata:
    """The drift of this run in one place, with what was found out about it; the whole of it is behind ``link``."""
    counts = report.counts
    lines = [
        {
            "id": line.difference.id,
            "cause": line.explanation.cause,
            "difference": _in_short(line.difference),
            "evidence": line.explanation.because,
        }
        for line in report.differences[:_EXPLAINED]
    ]
    return {
        "report": link,
        "missing": counts.missing,
        "changed": counts.changed,
        "extra": counts.extra,
        "quarantined": counts.quarantined,
        **({"conflicts": report.done["conflicts"]} if report.done else {}),
        "causes": _by_name(report.causes),
        "first_explained": _table(lines, ("id", "cause", "difference", "evidence")),
        "report_s": round(duration_s, 3),
    }


def proof_metadata(session: Session, proven: Verification) -> Metadata:
    """Under names of its own: what was *found* by this run has the plain ones, and is told by the diff."""
    return {
        _ROW_COUNT: proven.target_count,
        _TABLE: session.layout.table.qualified_name,
        STATE_KEY: session.folder.key,
        "proven_source_count": proven.source_count,
        "proven_target_count": proven.target_count,
        "extra_left": proven.extra,
        "kept_out_by_quarantine": proven.quarantined,
        "still_in_flight": proven.in_flight,
    }


def _by_kind(first: Sequence[Difference]) -> Metadata:
    """The first differences once more, in tables that are narrow enough for the UI to show whole."""
    rows = [asdict(line) for line in first]
    return {
        "first_changed": _table([row for row in rows if row["op"] is Op.UPDATE], ("id", "column", "old", "new")),
        "first_missing": _table([row for row in rows if row["op"] is Op.INSERT], ("id", "new")),
        "first_extra": _table([row for row in rows if row["op"] is Op.EXTRA], ("id", "old")),
    }


def _in_short(line: Difference) -> str:
    if line.op is Op.UPDATE:
        return f"{line.column}: {_or_null(line.old)} → {_or_null(line.new)}"
    return "only in the source" if line.op is Op.INSERT else "only in the target"


def _or_null(value: str | None) -> str:
    return "NULL" if value is None else value


def _columns(layout: Layout) -> dg.TableSchema:
    """The mapped columns as the UI's Columns show them, each with where it comes from."""
    return dg.TableSchema(columns=[_column(column, is_key=column is layout.key) for column in layout.columns])


def _column(column: LayoutColumn, *, is_key: bool) -> dg.TableColumn:
    said = [f"from `{'.'.join(column.path)}`"]
    said += [f"{column.default!r} where it is missing"] if column.has_default else []
    said += [] if column.update or is_key else ["written on insert only"]
    constraints = dg.TableColumnConstraints(nullable=not column.required and not is_key, unique=is_key)
    return dg.TableColumn(column.name, str(column.type), description=", ".join(said), constraints=constraints)


def _numbers(values: Any) -> Metadata:
    """All numbers of a dataclass, by the names of its fields; seconds and rates to the third place."""
    found = {item.name: getattr(values, item.name) for item in fields(values)}
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in found.items()
        if isinstance(value, int | float)
    }


def _by_name(values: Mapping[Any, int]) -> dg.TableMetadataValue:
    schema = dg.TableSchema(columns=[dg.TableColumn("name", "string"), dg.TableColumn("rows", "int")])
    records = [dg.TableRecord({"name": str(name), "rows": value}) for name, value in values.items()]
    return dg.MetadataValue.table(records=records, schema=schema)


def _entries(entries: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    return _table(entries, _ENTRY)


def _table(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dg.TableMetadataValue:
    """The named columns as text; what is absent stays empty, lists are joined."""
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in names])
    records = [dg.TableRecord({name: _text(row[name]) for name in names}) for row in rows]
    return dg.MetadataValue.table(records=records, schema=schema)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
