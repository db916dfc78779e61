"""The lines of a run's log: one for each step, with all counts, including zeros.

A line in the event log takes 5 to 9 ms, so a run has about a dozen. The UI and `dagster job execute` show the same
lines. All functions take plain values.
"""

from collections.abc import Mapping

import dagster as dg

from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.load.result import LoadResult
from product_sync.pipeline.change_pass import Pass
from product_sync.pipeline.dry_run import DryRunResult
from product_sync.pipeline.sync_run import DiffSummary
from product_sync.schema.definition import Labels
from product_sync.schema.records import Reason
from product_sync.schema.scope import Scope
from product_sync.settings import RunOptions
from product_sync.verify.checks import CheckResult, Severity

#: With fewer events, no hint says that a full run is quicker.
MANY = 1_000
DRY_RUN = "Dry run: nothing is written."


def opening(run: dg.DagsterRun, settings: RunOptions, labels: Labels, sides: str) -> str:
    """The first line: the kind of the run, and its two sides."""
    if settings.dry_run:
        kind = DRY_RUN
    elif run.job_name.startswith("validate_"):
        kind = "Validation: nothing is written."
    else:
        kind = f"Sync{_of(settings, labels)} in {_pace(settings)}; extra rows: {settings.extra}."
    plan = f" Plan {settings.plan}." if settings.plan else ""
    return f"{kind} {sides}.{plan} Run {run.run_id}."


def _of(settings: RunOptions, labels: Labels) -> str:
    if settings.changes:
        return " of what the source has changed"
    return f" of {_count(len(settings.ids), f'named {labels.item}', f'named {labels.items}')}" if settings.ids else ""


def _pace(settings: RunOptions) -> str:
    rows = _count(settings.batch_size, "row")
    if settings.pacing == "adaptive":
        return f"batches of adaptive size, the first of {rows}"
    return f"batches of {rows}, {settings.batch_delay_ms} ms apart"


def changes_read(read: Pass, scope: Scope, in_collection: int) -> str:
    """With a hint if a full run is quicker: from about a tenth of the catalogue on."""
    more = "" if read.at_end else " More follow: start the next pass, or a full sync."
    more += " A full sync would be quicker." if len(read.scope) > in_collection / 10 and read.events > MANY else ""
    return f"Changes: {_count(read.events, 'event')}; {scope} are compared; {read.lag_s:,.0f} s behind.{more}"


def source_read(snapshot: SourceSnapshot) -> str:
    return (
        f"Source: {_count(snapshot.documents, 'document')} read in {_seconds(snapshot.duration_s)},"
        f" {snapshot.rejected:,} of them cannot be copied{_by(snapshot.rejects)}." + _filtered_out(snapshot)
    )


def _filtered_out(snapshot: SourceSnapshot) -> str:
    if snapshot.filtered_out is not None:
        return f" The filter leaves out {_count(snapshot.filtered_out, 'document')}."
    if snapshot.filtered_out_about is not None:
        return f" The filter leaves out about {_count(snapshot.filtered_out_about, 'document')}."
    return ""


def target_read(snapshot: TargetSnapshot) -> str:
    return f"Target: {_count(snapshot.rows, 'row')} read in {_seconds(snapshot.duration_s)}."


def differences(found: DiffSummary) -> str:
    counts = found.counts
    columns = {name: count for name, count in found.changed_columns.items() if count}
    return (
        f"Differences: {counts.missing:,} missing, {counts.changed:,} changed{_by(columns)},"
        f" {counts.extra:,} extra, {counts.quarantined:,} quarantined"
        f" ({counts.refused:,} of them were refused by the database before)."
    )


def loaded(result: LoadResult) -> str:
    return (
        f"Load: {_written(result)}; {_batches(result)}, {result.not_attempted_batches:,} not attempted,"
        f" {result.retries:,} retries; {_seconds(result.duration_s)}."
    )


def quarantined(count: int, by_reason: Mapping[Reason, int]) -> str:
    return f"Quarantine: {_count(count, 'document')}{_by(by_reason)}."


def dry_run(preview: DryRunResult) -> str:
    """What a sync would do now, and the checks that it would fail."""
    counts, estimate = preview.counts, preview.estimate
    seconds = "" if estimate.seconds is None else f" in about {_seconds(estimate.seconds)}"
    because = f" No estimate: {estimate.because}" if estimate.because else ""
    return (
        f"Dry run: nothing was written. {preview.prediction.sentence} To do: {counts.missing:,} to insert,"
        f" {counts.changed:,} to update, {counts.extra:,} extra, {counts.quarantined:,} in quarantine;"
        f" {_count(estimate.batches, 'batch', 'batches')}{seconds}.{because} Plan {preview.plan_id}."
    )


def compared(matches: CheckResult) -> str:
    """The counts of target_matches_source: what the comparison after the load, or of a validation, found."""
    counts = matches.numbers
    differing = ", ".join(
        f"{counts[name]:,} {name.replace('_', ' ')}"
        for name in ("missing", "changed", "extra", "quarantined", "in_flight")
    )
    return f"Result: {counts['source_count']:,} documents, {counts['target_count']:,} rows; {differing}."


def check_result(check_result: CheckResult) -> str:
    word = "passed" if check_result.passed else "failed" if check_result.severity is Severity.ERROR else "warning"
    return f"Check {check_result.check}: {word}. {check_result.description}"


def report(link: str) -> str:
    return f"Drift report: {link}"


def interrupted(result: LoadResult | None) -> str:
    """``result`` is what the load of this run has done so far; ``None`` if it had not started."""
    if result is None:
        return "The run was interrupted. Nothing was written. Run it again."
    return f"The run was interrupted. The current batch was rolled back. {unfinished(result)} Run it again to continue."


def unfinished(result: LoadResult) -> str:
    return f"Written before that, and kept: {_written(result)}; {_batches(result)}."


def _written(result: LoadResult) -> str:
    return (
        f"{result.inserted:,} inserted, {result.updated:,} updated, {result.deleted:,} deleted,"
        f" {result.conflicts:,} conflicts, {result.taken_back:,} taken back, {result.kept_referenced:,} kept because"
        f" other rows reference them, {result.skipped_since_plan:,} skipped because they changed since the plan"
        + (f", {result.excluded:,} not written because of other rows" if result.excluded else "")
    )


def _batches(result: LoadResult) -> str:
    return f"{_count(result.batches, 'batch', 'batches')}, {result.failed_batches:,} failed"


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _by(counts: Mapping[Reason, int] | Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))})" if counts else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"
