"""Runs a job in this process and fills the report from the recorded events.

The command line and the UI run the same job and read the same events, so each number of the report is also in the
run's history.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

import dagster as dg

from product_sync.compare.diff_lines import or_null
from product_sync.errors import ChecksFailed, ConfigurationError, LoadStopped, SyncCancelled
from product_sync.notify.run_metrics import FOLLOWED
from product_sync.orchestration.build import build_definitions
from product_sync.orchestration.dead_runs import process_tags, reap_dead_runs
from product_sync.orchestration.failures import INTERRUPTS, CheckFailed, StepFailed
from product_sync.orchestration.names import (
    CHANGE_IS_PLAUSIBLE,
    EVERY_BATCH_LOADED,
    MAPPING_FITS_SOURCE,
    QUARANTINE_WITHIN_BUDGET,
    SOURCE_LOOKS_COMPLETE,
    TARGET_MATCHES_SOURCE,
    SyncNames,
)
from product_sync.orchestration.narrow_tables import DIFFERENCE, ENTRY, text
from product_sync.orchestration.resources import Listener
from product_sync.orchestration.run_history import is_number, read_events
from product_sync.orchestration.schedules import check_schedule
from product_sync.orchestration.sqlite_connections import kept_open
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sync_run import WAIT_STAGE
from product_sync.results import ExclusionReport, PredictedCheck, SampleValue, SyncReport, ValidationReport
from product_sync.runtime.progress import OnProgress, waiting
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import ReportSettings, RunOptions

#: The counts that a load updates while it runs.
_DONE = (
    "inserted", "updated", "deleted", "conflicts", "skipped_since_plan", "taken_back", "kept_referenced", "batches",
    "failed_batches",
)  # fmt: skip
#: Checks that fail because of single rows. The drift report shows these rows.
_ABOUT_DIFFERENCES = {CHANGE_IS_PLAUSIBLE, EVERY_BATCH_LOADED, TARGET_MATCHES_SOURCE}
#: The other counts of the quarantine check, beside those by reason.
_NOT_REASONS = frozenset({"quarantined", "source_count"})
#: What a validation reports under the names of the check target_matches_source.
_FOUND = ("source_count", "target_count", "changed", "quarantined", "missing_ids", "changed_ids", "extra_ids")


def run(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    options: Mapping[str, Any],
    report: SyncReport | ValidationReport,
    on_progress: OnProgress,
) -> None:
    """Run the job of ``report`` and fill it, also when the run fails. Raises what ended the run early."""
    names, listener, run_id = SyncNames.of(definition.name), Listener(on_progress), str(uuid.uuid4())
    job = names.validate_job
    if isinstance(report, SyncReport):
        _admit(definition, instance, options, report, on_progress)
        report.run_id, job = run_id, names.changes_job if options.get("changes") else names.sync_job
    try:
        _execute(definition, instance, job, options, run_id, listener)
    finally:
        if isinstance(report, SyncReport):
            # First, because the run's record may not be readable: the disk may be full, the server down. The number of
            # batches that were not attempted stays unknown; only a finished load records it.
            for result, name in product(listener.loads, _DONE):
                setattr(report, name, getattr(result, name))
        recorded = _Recorded(instance, run_id, definition)
        if isinstance(report, SyncReport):
            recorded.fill_sync(report)
        else:
            recorded.fill_validation(report)
    if stopped := recorded.values.get("stopped"):
        raise LoadStopped(stopped)
    recorded.raise_for_checks()


def _admit(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    options: Mapping[str, Any],
    report: SyncReport,
    on_progress: OnProgress,
) -> None:
    """Refuse a sync that cannot run before it is recorded: its table does not fit, or another sync is running."""
    check_schedule(os.environ)
    databases = Databases.of(definition, os.environ)
    _ = databases.row_schema
    holder = databases.lock_holder()
    reap_dead_runs(instance, SyncNames.of(definition.name), lock_is_free=lambda: holder is None)
    if holder is not None and not report.dry_run:
        wait_s = RunOptions.resolve(os.environ, options).lock_wait_s
        databases.wait_until_lock_is_free(wait_s, lambda note: on_progress(waiting(WAIT_STAGE, note)))


def _execute(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    job_name: str,
    options: Mapping[str, Any],
    run_id: str,
    listener: Listener,
) -> None:
    job = build_definitions([definition], listener=listener).resolve_job_def(job_name)
    config = {**options, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    try:
        with kept_open(instance, run_id):
            job.execute_in_process(instance=instance, run_id=run_id, run_config=config, tags=process_tags())
    except dg.DagsterInvalidConfigError as error:
        raise ConfigurationError(str(error)) from error
    except INTERRUPTS as error:
        if run := instance.get_run_by_id(run_id):
            instance.report_run_canceled(run)
        raise SyncCancelled("Cancelled; the batch under way was rolled back.", hint="Run it again to go on.") from error
    except StepFailed as failure:
        if not isinstance(failure, CheckFailed):
            raise failure.error from None


def _texts(record: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """A JSON record as text. The keys are given because a storage may sort them."""
    return {key: text(record[key]) for key in keys}


def _difference(record: Mapping[str, Any]) -> dict[str, str]:
    """One difference as text. An insert and an extra row have no column and only one value."""
    values = {side: or_null(record[side]) for side in ("old", "new")} if record["column"] else {}
    return _texts(record, DIFFERENCE) | values


class _Recorded:
    """What a run has recorded: the values of its steps by name, and the results of its checks."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str, definition: SyncDefinition) -> None:
        self._run_id, self._commands = run_id, definition.commands
        names, record = SyncNames.of(definition.name), instance.get_run_record_by_id(run_id)
        self._start, self._end = (record.start_time, record.end_time) if record else (None, None)
        events = read_events(instance, run_id, names.recorded)
        # The drift report and the verified copy have other counts under the same names.
        self.values, self._checks = events.values(names.assets), events.checks
        self._drift_report: str | None = events.values([dg.AssetKey(names.drift_report)]).get("report")

    def fill_sync(self, report: SyncReport) -> None:
        values = self.values
        for item in fields(report):
            if is_number(value := values.get(item.name)):
                setattr(report, item.name, value)
        for name in ("plan_id", "position_at", "full_proof_at", "quarantined_by_reason"):
            setattr(report, name, values.get(name, getattr(report, name)))
        report.duration_s = round(self._end - self._start, 3) if self._start and self._end else None
        report.drift_report, report.found_by_column = self._drift_report, self._found_by_column
        report.first_differences = list(map(_difference, values.get("first_differences", ())))
        report.first_quarantined = [_texts(each, ENTRY) for each in values.get("quarantine_entries", ())]
        if report.dry_run:
            self._fill_prediction(report)
            report.sample_product = [SampleValue(**each) for each in values.get("sample_product", ())] or None
        if matches := self._checks.get(TARGET_MATCHES_SOURCE):
            report.valid, found = matches.passed, matches.numbers
            report.in_flight, report.looked_at = found["in_flight"], found.get("scope")
            report.extra_left, report.warnings = found["extra"], self._warnings
            for name in FOLLOWED:
                setattr(report, name, found.get(name, getattr(report, name)))
            if report.compared is not None:  # the asset of the quarantine counts all entries
                report.quarantined = found["quarantined"]
                report.quarantined_by_reason = self._quarantined_by_reason
        if report.excluded is not None:
            report.exclusions = [ExclusionReport(**each) for each in values.get("exclusions", ())]

    def fill_validation(self, report: ValidationReport) -> None:
        if matches := self._checks.get(TARGET_MATCHES_SOURCE):
            report.valid, found = matches.passed, matches.numbers
            report.missing_in_target, report.extra_in_target = found["missing"], found["extra"]
            report.warnings = self._warnings
            for name in _FOUND:
                setattr(report, name, found[name])
        report.quarantined_by_reason, report.found_by_column = self._quarantined_by_reason, self._found_by_column

    @property
    def _found_by_column(self) -> dict[str, int] | None:
        """``None`` also for a run on some products only, which does not count."""
        fits = self._checks.get(MAPPING_FITS_SOURCE)
        return (fits.numbers["found_by_column"] or None) if fits else None

    @property
    def _quarantined_by_reason(self) -> dict[str, int] | None:
        """The counts of the check of the quarantine, without those that are zero."""
        budget = self._checks.get(QUARANTINE_WITHIN_BUDGET)
        counts = budget.numbers.items() if budget else ()
        return {name: count for name, count in counts if count and name not in _NOT_REASONS} if budget else None

    def _fill_prediction(self, report: SyncReport) -> None:
        """If a check stopped the dry run, there are only the checks up to that one."""
        if "predicted_checks" in self.values:
            report.predicted_checks = [PredictedCheck(**record) for record in self.values["predicted_checks"]]
            lacking = self.values["privileges"]
            report.lacking = lacking.split(", ") if lacking != "sufficient" else []
            report.prediction = self.values["prediction"]
            report.no_estimate_because = self.values["estimate"] if report.estimated_s is None else None
        elif self._checks:
            report.predicted_checks = [
                PredictedCheck(check.check, check.passed, check.severity, check.description)
                for check in self._checks.values()
            ]
        if report.predicted_checks is not None:
            failed = any(check.would_fail for check in report.predicted_checks)
            report.would_pass = not failed if failed or report.lacking is not None else None

    @property
    def _warnings(self) -> list[str]:
        """What the checks warn of, apart from the quarantine, which has lines of its own."""
        return [
            each.description for each in self._checks.values() if each.warns and each.check != QUARANTINE_WITHIN_BUDGET
        ]

    def raise_for_checks(self) -> None:
        if failed := [check for check in self._checks.values() if check.is_red]:
            said = " ".join(f"{check.check}: {check.description}" for check in failed)
            raise ChecksFailed(said, hint=self._where_to_look({check.check for check in failed}))

    def _where_to_look(self, failed: set[str]) -> str:
        """Where the details are: the run's page if the UI has an address and the run compared anything; else the drift
        report, or the quarantine."""
        ui_url = ReportSettings.from_environment(os.environ).ui_url
        if ui_url and SOURCE_LOOKS_COMPLETE not in failed:
            return f"The first differences are on the run's page: {ui_url}/runs/{self._run_id}"
        if self._drift_report and failed & _ABOUT_DIFFERENCES:
            return f"The drift report shows what differs: {self._drift_report}"
        is_over_budget = QUARANTINE_WITHIN_BUDGET in failed
        return self._commands.product_sync("quarantine") if is_over_budget else ""
