"""What the UI shows of a step: it is done here, and told in the same names everywhere, zeros included.

Numbers are plotted over time by the UI, so a count that is left out when it is zero would leave a gap that looks
like "fine".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import dagster as dg

from product_sync.core import quarantine
from product_sync.core.load_result import LoadResult
from product_sync.core.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.core.tables import row_count
from product_sync.orchestration.names import STATE_KEY
from product_sync.session import SHOWN, Found, Preview, Session

Metadata = dict[str, Any]
_DIFFERENCE = ("op", "id", "column", "old", "new")
_ENTRY = ("source_key", "stage", "columns", "reasons", "values")


def source_metadata(session: Session, snapshot: SourceSnapshot) -> Metadata:
    return {
        **_numbers(snapshot),
        "rejected_by_reason": _by_name(snapshot.rejects),
        "first_rejects": _entries(session.first_rejects()),
    }


def target_metadata(snapshot: TargetSnapshot) -> Metadata:
    return _numbers(snapshot)


def diff_metadata(found: Found) -> Metadata:
    return {
        **_numbers(found.counts),
        "duration_s": found.duration_s,
        "rows_per_second": found.rows_per_second,
        "changed_by_column": _by_name(found.changed_columns),
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
        "duration_s": result.quarantine_s,
        "rows_per_second": quarantined / result.quarantine_s if result.quarantine_s else 0.0,
        "quarantined_by_reason": _by_name(quarantine.summary(path)),
        "first_quarantined": _entries(quarantine.first_entries(path, SHOWN).to_pylist()),
    }


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
