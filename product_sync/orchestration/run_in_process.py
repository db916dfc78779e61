"""Runs a job in this process and fills the report from the recorded events.

The command line and the UI run the same job and read the same events, so each number of the report is also in the
run's history.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import dagster as dg

from product_sync.errors import ChecksFailed, ConfigurationError, LoadStopped, SyncCancelled
from product_sync.load.result import LoadResult
from product_sync.orchestration.build import build_definitions
from product_sync.orchestration.dead_runs import process_tags, reap_dead_runs
from product_sync.orchestration.event_log import is_number, read_events
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
from product_sync.orchestration.schedules import check_schedule
from product_sync.orchestration.sqlite_connections import kept_open
from product_sync.orchestration.step_errors import INTERRUPTS, CheckFailed, StepFailed
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sync_run import WAIT_STAGE
from product_sync.results import ExclusionReport, PredictedCheck, SampleValue, SyncReport, ValidationReport
from product_sync.runtime.progress import waiting
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import ReportSettings, RunOptions
from product_sync.verify.checks import CheckResult

#: The counts that a load updates while it runs.
_DONE = (
    "inserted", "updated", "deleted", "conflicts", "skipped_since_plan", "taken_back", "kept_referenced", "batches",
    "failed_batches",
)  # fmt: skip
#: Checks that fail because of single rows. The drift report shows these rows.
_ABOUT_DIFFERENCES = {CHANGE_IS_PLAUSIBLE, EVERY_BATCH_LOADED, TARGET_MATCHES_SOURCE}
#: The other counts of the quarantine check, beside those by reason.
_NOT_REASONS = frozenset({"quarantined", "source_count"})
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


def run_sync(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    run_id: str,
    switches: Mapping[str, Any],
    report: SyncReport,
    listener: Listener,
) -> None:
    """Run the sync job and fill ``report``, also when it fails. Raises what ended the run early."""
    check_schedule(os.environ)
    databases = Databases.of(definition, os.environ)
    # A table that does not fit is refused before a run is recorded.
    _ = databases.row_schema
    holder = databases.lock_holder()
    reap_dead_runs(instance, SyncNames.of(definition.name), lock_is_free=lambda: holder is None)
    if holder is not None and not report.dry_run:
        wait_s = RunOptions.resolve(os.environ, switches).lock_wait_s
        databases.wait_until_lock_is_free(wait_s, lambda note: listener.on_progress(waiting(WAIT_STAGE, note)))
    config = {**switches, "loggers": _QUIET}
    report.run_id = run_id
    try:
        names = SyncNames.of(definition.name)
        job = names.changes_job if switches.get("changes") else names.sync_job
        _execute(definition, instance, job, config, run_id, listener)
    finally:
        # First, because the run's record may not be readable: the disk may be full, the server down.
        _fill_load(report, listener.loads)
        recorded = _Recorded(instance, run_id, definition)
        for item in fields(report):
            if (value := recorded.number(item.name)) is not None:
                setattr(report, item.name, value)
        report.duration_s = recorded.duration_s
        report.quarantined_by_reason = recorded.by_name("quarantined_by_reason")
        report.drift_report = recorded.drift_report
        report.plan_id = recorded.text("plan_id") or report.plan_id
        report.position_at = recorded.text("position_at") or None
        report.full_proof_at = recorded.text("full_proof_at") or None
        report.first_differences = recorded.lines("first_differences", DIFFERENCE)
        report.first_quarantined = recorded.lines("quarantine_entries", ENTRY)
        report.found_by_column = recorded.found_by_column
        if report.dry_run:
            recorded.fill_prediction(report)
            report.sample_product = [SampleValue(**value) for value in recorded.records("sample_product")] or None
        if matches := recorded.check(TARGET_MATCHES_SOURCE):
            report.valid, found = matches.passed, matches.numbers
            report.in_flight, report.looked_at = found["in_flight"], found.get("scope")
            report.extra_left, report.warnings = found["extra"], recorded.warnings
            if "position_at" in found:
                report.position_at, report.full_proof_at = found["position_at"], found["full_proof_at"]
                report.unsettled = found["unsettled"]
            if report.compared is not None:  # the asset of the quarantine counts all entries
                report.quarantined = found["quarantined"]
                report.quarantined_by_reason = recorded.quarantined_by_reason()
        if report.excluded is not None:
            report.exclusions = [ExclusionReport(**found) for found in recorded.records("exclusions")]
    if stopped := recorded.text("stopped"):
        raise LoadStopped(stopped)
    recorded.raise_for_checks()


def run_validation(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    run_id: str,
    switches: Mapping[str, Any],
    report: ValidationReport,
    listener: Listener,
) -> None:
    """Run the validation job and fill ``report``. Raises what ended the run early."""
    config = {**switches, "loggers": _QUIET}
    try:
        _execute(definition, instance, SyncNames.of(definition.name).validate_job, config, run_id, listener)
    finally:
        recorded = _Recorded(instance, run_id, definition)
        if matches := recorded.check(TARGET_MATCHES_SOURCE):
            report.valid, found = matches.passed, matches.numbers
            report.source_count, report.target_count = found["source_count"], found["target_count"]
            report.missing_in_target, report.changed = found["missing"], found["changed"]
            report.extra_in_target, report.quarantined = found["extra"], found["quarantined"]
            report.missing_ids, report.changed_ids = found["missing_ids"], found["changed_ids"]
            report.extra_ids, report.warnings = found["extra_ids"], recorded.warnings
        report.quarantined_by_reason = recorded.quarantined_by_reason()
        report.found_by_column = recorded.found_by_column
    recorded.raise_for_checks()


def _execute(
    definition: SyncDefinition,
    instance: dg.DagsterInstance,
    job_name: str,
    config: Mapping[str, Any],
    run_id: str,
    listener: Listener,
) -> None:
    job = build_definitions([definition], listener=listener).resolve_job_def(job_name)
    try:
        with kept_open(instance, run_id):
            job.execute_in_process(instance=instance, run_id=run_id, run_config=dict(config), tags=process_tags())
    except dg.DagsterInvalidConfigError as error:
        raise ConfigurationError(str(error)) from error
    except INTERRUPTS as error:
        if run := instance.get_run_by_id(run_id):
            instance.report_run_canceled(run)
        raise SyncCancelled("Cancelled; the batch under way was rolled back.", hint="Run it again to go on.") from error
    except StepFailed as failure:
        if not isinstance(failure, CheckFailed):
            raise failure.error from None


def _fill_load(report: SyncReport, loads: Sequence[LoadResult]) -> None:
    """Fill in the counts of a load from this process's memory. The number of batches that were not attempted stays
    unknown; only a finished load records it."""
    for result in loads:
        for name in _DONE:
            setattr(report, name, getattr(result, name))


class _Recorded:
    """The events of a run: the metadata of its steps and the evaluations of its checks."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str, definition: SyncDefinition) -> None:
        self._run_id, self._commands = run_id, definition.commands
        self._record = instance.get_run_record_by_id(run_id)
        names = SyncNames.of(definition.name)
        events = read_events(instance, run_id, names.recorded)
        # The drift report and the verified copy have other counts under the same names.
        self._metadata = events.metadata(names.assets)
        self._checks = events.checks
        link = events.metadata([dg.AssetKey(names.drift_report)]).get("report")
        self.drift_report = str(link.value) if link else None

    @property
    def duration_s(self) -> float | None:
        if self._record is None or not self._record.start_time or not self._record.end_time:
            return None
        return round(self._record.end_time - self._record.start_time, 3)

    def number(self, name: str) -> int | float | None:
        value = self._metadata[name].value if name in self._metadata else None
        return value if is_number(value) else None

    def text(self, name: str) -> str:
        value = self._metadata[name].value if name in self._metadata else None
        return value if isinstance(value, str) else ""

    def records(self, name: str) -> list[dict[str, Any]]:
        value = self._metadata.get(name)
        return list(value.value) if isinstance(value, dg.JsonMetadataValue) and isinstance(value.value, list) else []

    def lines(self, name: str, keys: Sequence[str]) -> list[dict[str, str]]:
        """JSON records as text. The keys are given because a storage may sort them."""
        value = self._metadata.get(name)
        found = value.value if isinstance(value, dg.JsonMetadataValue) else None
        return [{key: text(line[key]) for key in keys} for line in found] if isinstance(found, list) else []

    def by_name(self, name: str) -> dict[str, int] | None:
        """The counts of a table with the columns ``name`` and ``rows``."""
        value = self._metadata.get(name)
        if not isinstance(value, dg.TableMetadataValue):
            return None
        return {str(record.data["name"]): int(record.data["rows"] or 0) for record in value.records}

    @property
    def found_by_column(self) -> dict[str, int] | None:
        """``None`` also for a run on some products only, which does not count."""
        fits = self.check(MAPPING_FITS_SOURCE)
        return (fits.numbers["found_by_column"] or None) if fits else None

    def quarantined_by_reason(self) -> dict[str, int] | None:
        """The counts of the check of the quarantine, without those that are zero."""
        budget = self.check(QUARANTINE_WITHIN_BUDGET)
        counts = budget.numbers.items() if budget else ()
        return {name: count for name, count in counts if count and name not in _NOT_REASONS} if budget else None

    def fill_prediction(self, report: SyncReport) -> None:
        """Fill in the prediction of a dry run. If a check stopped the dry run, only the checks up to that one."""
        value = self._metadata.get("predicted_checks")
        if isinstance(value, dg.JsonMetadataValue) and isinstance(value.value, list):
            report.predicted_checks = [PredictedCheck(**record) for record in value.value]
            lacking = self.text("privileges")
            report.lacking = lacking.split(", ") if lacking != "sufficient" else []
            report.prediction = self.text("prediction")
            report.no_estimate_because = self.text("estimate") if report.estimated_s is None else None
        elif self._checks:
            report.predicted_checks = [
                PredictedCheck(check.check, check.passed, check.severity, check.description)
                for check in self._checks.values()
            ]
        if report.predicted_checks is not None:
            failed = any(check.would_fail for check in report.predicted_checks)
            report.would_pass = not failed if failed or report.lacking is not None else None

    @property
    def warnings(self) -> list[str]:
        """What the checks warn of, apart from the quarantine, which has lines of its own."""
        return [
            each.description for each in self._checks.values() if each.warns and each.check != QUARANTINE_WITHIN_BUDGET
        ]

    def check(self, name: str) -> CheckResult | None:
        return self._checks.get(name)

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
        if self.drift_report and failed & _ABOUT_DIFFERENCES:
            return f"The drift report shows what differs: {self.drift_report}"
        is_over_budget = QUARANTINE_WITHIN_BUDGET in failed
        return self._commands.product_sync("quarantine") if is_over_budget else ""
