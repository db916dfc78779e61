"""Builds the metadata that the UI shows of each step, under the same names everywhere, zeros included.

Numbers are plotted over time by the UI, so a count that is left out when it is zero would leave a gap in
the plot.
"""

from dataclasses import asdict, fields
from typing import Any

import dagster as dg

from product_sync.compare import quarantine
from product_sync.compare.diff_lines import SHOWN
from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.load.result import LoadResult
from product_sync.orchestration.names import STATE_KEY
from product_sync.orchestration.narrow_tables import (
    by_kind,
    by_name,
    entries,
    found_by_column,
    line_of,
    named,
    sample,
    table,
    whole_differences,
    whole_entries,
)
from product_sync.pipeline import change_pass, read_back
from product_sync.pipeline.change_pass import Followed
from product_sync.pipeline.dry_run import DryRunResult
from product_sync.pipeline.load_diff import loaded
from product_sync.pipeline.sync_run import DiffSummary, SyncRun
from product_sync.report.drift_report import DriftReport
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.scope import Everything
from product_sync.verify.verification import Verification

Metadata = dict[str, Any]
#: Differences of each kind that are shown with their cause.
_EXPLAINED = 8
_TOLD_BY_THE_END = frozenset({"planned", "not_attempted_batches", "duration_s", "rows_per_second", "quarantine_s"})
_PREDICTED = ("check", "passed", "severity", "description")
#: Dagster's own names: the UI shows them in the asset's list, sidebar and Columns.
_ROW_COUNT, _COLUMNS, _TABLE = "dagster/row_count", "dagster/column_schema", "dagster/table_name"


def source_metadata(sync_run: SyncRun, snapshot: SourceSnapshot) -> Metadata:
    return {
        **_numbers(snapshot),
        _ROW_COUNT: snapshot.documents - snapshot.rejected,
        _COLUMNS: _columns(sync_run.row_schema),
        "found_by_column": found_by_column(sync_run.row_schema, snapshot.found),
        "rejected_by_reason": by_name(snapshot.rejects),
        "first_rejects": entries(read_back.first_rejects(sync_run) if snapshot.rejected else []),
    }


def target_metadata(sync_run: SyncRun, snapshot: TargetSnapshot) -> Metadata:
    return {**_numbers(snapshot), _ROW_COUNT: snapshot.rows, _COLUMNS: _columns(sync_run.row_schema)}


def diff_metadata(found: DiffSummary) -> Metadata:
    return {
        **_numbers(found.counts),
        _ROW_COUNT: found.counts.to_write + found.counts.extra,
        "changed_by_column": by_name(found.changed_columns),
        **by_kind(found.first),
        "first_differences": whole_differences(found.first),
        "duration_s": _rounded(found.duration_s),
        "rows_per_second": _rounded(found.rows_per_second),
    }


def scope_metadata(sync_run: SyncRun) -> Metadata:
    """What a partial run looked at. The position is that of a pass if it ends well."""
    scope = sync_run.scope
    if isinstance(scope, Everything):
        return {}
    said: Metadata = {"scope": str(scope), "compared": len(scope)}
    if sync_run.settings.changes:
        read = change_pass.of(sync_run.files)
        said |= {
            "events": read.events,
            "lag_s": read.lag_s,
            "position_at": read.position.time.at.isoformat(),
            "full_proof_at": read.since.proof.at.isoformat(),
        }
    return said


def preview_metadata(sync_run: SyncRun, preview: DryRunResult) -> Metadata:
    rejects = read_back.first_rejects(sync_run) if preview.rejects_by_reason else []
    return {
        "dry_run": "nothing was written",
        "plan_id": preview.plan_id,
        "prediction": preview.prediction.sentence,
        **_numbers(preview.counts),
        "inserted": 0,
        "updated": 0,
        "deleted": 0,
        "batches": preview.estimate.batches,
        "estimated_s": None if preview.estimate.seconds is None else _rounded(preview.estimate.seconds),
        "estimate": preview.estimate.because or "measured: the first batch was run and rolled back",
        "privileges": preview.lacking or "sufficient",
        "predicted_checks": dg.MetadataValue.json(
            [{name: getattr(each, name) for name in _PREDICTED} for each in preview.prediction.check_results]
        ),
        **by_kind(preview.first),
        "sample": sample(preview.sample_product),
        "sample_product": dg.MetadataValue.json([asdict(value) for value in preview.sample_product]),
        "quarantined_by_reason": by_name(preview.rejects_by_reason),
        "first_quarantined": entries(rejects),
        "first_differences": whole_differences(preview.first),
        "quarantine_entries": whole_entries(rejects),
    }


def load_metadata(sync_run: SyncRun, result: LoadResult) -> Metadata:
    """What went wrong comes first. All counts are there in any case."""
    failed = [asdict(failure) for failure in result.failures]
    said = {
        "stopped": f"{result.stop.message} {result.stop.hint}".strip() if result.stop else "",
        "no_deletion_because": result.no_deletion_because or "",
        "failed": table(failed, ("batch", "rows", "cause", "keys")) if failed else "",
        "plan_id": sync_run.settings.plan or "",
        "exclusions": dg.MetadataValue.json([asdict(found) for found in result.exclusions])
        if result.exclusions
        else "",
    }
    return {
        **{name: value for name, value in said.items() if value},
        **_load_numbers(result),
        **by_kind(read_back.first_differing(sync_run)),
        # The last sync of these two sides is found by it. A partial run does not count as one.
        **({} if sync_run.is_partial else {STATE_KEY: sync_run.folder.key}),
    }


def unfinished_metadata(result: LoadResult) -> Metadata:
    """What an interrupted load had done. Values that are known only at the end are left out."""
    return {name: value for name, value in _load_numbers(result).items() if name not in _TOLD_BY_THE_END}


def _load_numbers(result: LoadResult) -> Metadata:
    """The rows that this load put into quarantine have their own name: on the same asset, ``quarantined`` of a dry run
    counts all documents that cannot be copied."""
    numbers = _numbers(result)
    quarantined = numbers.pop("quarantined")
    return {**numbers, "quarantined_in_load": quarantined}


def quarantine_metadata(sync_run: SyncRun, result: LoadResult) -> Metadata:
    quarantined, by_reason = read_back.quarantine_summary(sync_run)
    first = quarantine.first_entries(sync_run.folder.quarantine, SHOWN) if quarantined else []
    return {
        "quarantined": quarantined,
        _ROW_COUNT: quarantined,
        "quarantined_by_reason": by_name(by_reason),
        "first_quarantined": entries(first),
        "quarantine_entries": whole_entries(first),
        "duration_s": _rounded(result.quarantine_s),
        "rows_per_second": _rounded(quarantined / result.quarantine_s) if result.quarantine_s else 0.0,
    }


def drift_metadata(report: DriftReport, link: dg.MetadataValue[str | None], duration_s: float) -> Metadata:
    """The drift of this run with its causes; ``link`` leads to the whole report."""
    counts = report.counts
    shown = [line for op in Op for line in report.of(op)[:_EXPLAINED]]
    lines = (
        {"id": line.difference.id, "cause": line.explanation.cause, "difference": named(line.difference)}
        for line in shown
    )
    evidence = [
        {**line_of(line.difference), "cause": str(line.explanation.cause), "because": line.explanation.because}
        for line in shown
    ]
    return {
        "report": link,
        "missing": counts.missing,
        "changed": counts.changed,
        "extra": counts.extra,
        "quarantined": counts.quarantined,
        **({"conflicts": report.done["conflicts"]} if report.done else {}),
        "causes": by_name(report.causes),
        "first_explained": table(lines, ("id", "cause", "difference")),
        "evidence": dg.MetadataValue.json(evidence),
        "report_s": _rounded(duration_s),
    }


def followed_metadata(sync_run: SyncRun, followed: Followed) -> Metadata:
    """Up to when changes are compared, after a pass or a full run; of a pass also what it has repaired."""
    said: Metadata = {
        "position_at": dg.MetadataValue.timestamp(followed.position_at),
        "full_proof_at": dg.MetadataValue.timestamp(followed.full_proof_at),
        "unsettled": followed.unsettled,
    }
    if sync_run.settings.changes:
        read, done = change_pass.of(sync_run.files), loaded(sync_run)
        said |= {
            "lag_s": read.lag_s,
            "events": read.events,
            "compared": len(read.scope),
            "repaired": done.inserted + done.updated + done.deleted,
        }
        if followed.change_to_repair_s is not None:
            said["change_to_repair_s"] = _rounded(followed.change_to_repair_s)
    return said


def proof_metadata(sync_run: SyncRun, proven: Verification) -> Metadata:
    """The counts of the verification, under their own names: the plain names are those of the diff."""
    return {
        _ROW_COUNT: proven.target_count,
        _TABLE: sync_run.row_schema.table.qualified_name,
        "proven_source_count": proven.source_count,
        "proven_target_count": proven.target_count,
        "extra_left": proven.extra,
        "kept_out_by_quarantine": proven.quarantined,
        "still_in_flight": proven.in_flight,
        STATE_KEY: sync_run.folder.key,
    }


def _columns(row_schema: RowSchema) -> dg.TableSchema:
    """The mapped columns as the UI's Columns show them, each with where it comes from."""
    return dg.TableSchema(
        columns=[
            _column(column, is_key=column is row_schema.key, is_tenant=column in row_schema.tenant)
            for column in row_schema.columns
        ]
        + [
            dg.TableColumn(column.name, str(column.type), description="the time of the write, never compared")
            for column in row_schema.written_at
        ]
    )


def _column(column: RowColumn, *, is_key: bool, is_tenant: bool) -> dg.TableColumn:
    said = [f"from `{column.origin}`"] if column.path else [f"always {column.default_text}"]
    said += [f"{column.default_text} where it is missing"] if column.path and column.has_default else []
    if is_tenant:
        said.append("part of the key: only the rows with this value are synced")
    elif not column.update and not is_key:
        said.append("written on insert only")
    constraints = dg.TableColumnConstraints(nullable=not column.required and not is_key, unique=is_key)
    return dg.TableColumn(column.name, str(column.type), description=", ".join(said), constraints=constraints)


def _numbers(values: Any) -> Metadata:
    """All numbers of a dataclass, by the names of its fields."""
    found = {item.name: getattr(values, item.name) for item in fields(values)}
    return {name: _rounded(value) for name, value in found.items() if isinstance(value, int | float)}


def _rounded(value: float) -> float:
    """Seconds with three decimals, larger numbers with one. Counts stay whole."""
    return value if isinstance(value, int) else round(value, 3 if abs(value) < 10 else 1)
