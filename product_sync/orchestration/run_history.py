"""Every query on what Dagster has recorded: the events of a run, the newest loads, the finished runs.

A run is new if it ended since the last reading, with an overlap, and its id was not seen. Two other ways would lose
alerts. Dagster creates the rows of check evaluations when a check is planned, so a later row may hold an earlier
result. And the times by which Dagster selects runs are local times if its PostgreSQL is not set to UTC.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard

import dagster as dg
from dagster import DagsterEventType as Kind

from product_sync.notify.events import FinishedRun
from product_sync.orchestration.failures import failure_of
from product_sync.orchestration.names import (
    PRODUCT,
    SCOPE_TAG,
    SKIPPED_TAG,
    STATE_KEY,
    TARGET_MATCHES_SOURCE,
    SyncNames,
    syncs_of,
)
from product_sync.verify.checks import CheckResult, Severity

Metadata = Mapping[str, dg.MetadataValue[Any]]

_READ = {
    Kind.ASSET_CHECK_EVALUATION, Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.STEP_FAILURE, Kind.RUN_FAILURE
}  # fmt: skip
#: Materializations that are fetched with one query.
_PAGE = 100
_SUCCEEDED = {dg.DagsterRunStatus.SUCCESS: True, dg.DagsterRunStatus.FAILURE: False, dg.DagsterRunStatus.CANCELED: None}
#: Seconds by which the clocks of two hosts may differ, or a record may be late.
OVERLAP_S = 3_600.0
#: Number of runs to read, the newest first; more if all of them are new, up to a bound.
_READ_FIRST, _AT_MOST = 100, 5_000
#: How many loads are searched for a successful one.
_LOADS = 1_000


@dataclass(slots=True)
class RunEvents:
    """The events of one run, in their order. ``recorded`` has the metadata of each materialization and observation;
    ``materialized`` are the assets with a materialization."""

    recorded: list[tuple[dg.AssetKey, Metadata]] = field(default_factory=list)
    materialized: set[dg.AssetKey] = field(default_factory=set)
    checks: dict[str, CheckResult] = field(default_factory=dict)
    failures: list[dg.DagsterEvent] = field(default_factory=list)

    def values(self, assets: Collection[dg.AssetKey]) -> dict[str, Any]:
        """The plain values of the metadata of ``assets`` by name; a later value replaces an earlier one."""
        recorded = [metadata for asset, metadata in self.recorded if asset in assets]
        return {name: _plain(value) for metadata in recorded for name, value in metadata.items()}


def read_events(instance: dg.DagsterInstance, run_id: str, assets: Collection[dg.AssetKey]) -> RunEvents:
    """What the run recorded about ``assets`` and their checks, and its failures."""
    events = RunEvents()
    for entry in instance.all_logs(run_id, of_type=_READ):
        event = entry.dagster_event
        if event is None or (event.asset_key is not None and event.asset_key not in assets):
            continue
        if event.event_type is Kind.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if evaluation.asset_key not in assets:
                continue
            events.checks[evaluation.check_name] = CheckResult(
                evaluation.check_name,
                evaluation.passed,
                Severity(evaluation.severity.value),
                {name: value.value for name, value in evaluation.metadata.items()},
                evaluation.description or "",
            )
        elif event.event_type in (Kind.STEP_FAILURE, Kind.RUN_FAILURE):
            events.failures.append(event)
        elif event.event_type is Kind.ASSET_OBSERVATION:
            observation = event.asset_observation_data.asset_observation
            events.recorded.append((observation.asset_key, observation.metadata))
        else:
            materialization = event.step_materialization_data.materialization
            events.recorded.append((materialization.asset_key, materialization.metadata))
            events.materialized.add(materialization.asset_key)
    return events


def _plain(value: dg.MetadataValue[Any]) -> Any:
    if not isinstance(value, dg.TableMetadataValue):
        return value.value
    counts = [each.data for each in value.records if each.data.keys() == {"name", "rows"}]
    return {str(each["name"]): int(each["rows"] or 0) for each in counts}


def last_event_at(instance: dg.DagsterInstance, run_id: str) -> float | None:
    """The time of the run's last event, in seconds since 1970."""
    last = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    return last[0].event_log_entry.timestamp if last else None


def materializations(instance: dg.DagsterInstance, asset: dg.AssetKey, at_most: int) -> Iterator[tuple[str, Metadata]]:
    """The run id and the metadata of each materialization of ``asset``, the newest first."""
    cursor, left = None, at_most
    while left > 0:
        page = instance.fetch_materializations(asset, limit=min(_PAGE, left), cursor=cursor)
        for record in page.records:
            if record.asset_materialization is not None:
                yield record.run_id, record.asset_materialization.metadata
        cursor, left = page.cursor, left - _PAGE
        if not page.has_more:
            return


def successful_run(instance: dg.DagsterInstance, run_id: str) -> dg.RunRecord | None:
    """The record of the run, if it is still there and the run succeeded."""
    record = instance.get_run_record_by_id(run_id)
    return record if record and record.dagster_run.status is dg.DagsterRunStatus.SUCCESS else None


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def finished_runs(
    instance: dg.DagsterInstance, since: float, seen: Collection[str], syncs: Collection[SyncNames] = (PRODUCT,)
) -> list[FinishedRun]:
    """Runs of ours that ended after ``since`` (seconds since 1970) minus `OVERLAP_S` and are not ``seen``, the oldest
    first. A run of the Materialize button is known by the assets of ``syncs``; one of several syncs counts for each.
    Skipped runs are left out: they did nothing because another sync was running."""
    new = [
        record
        for record in _newest(instance, since - OVERLAP_S)
        if record.dagster_run.run_id not in seen and SKIPPED_TAG not in record.dagster_run.tags
    ]
    return [
        _finished_run(instance, record, names)
        for record in sorted(new, key=_ended_at)
        for names in syncs_of(record.dagster_run, syncs)
    ]


@dataclass(frozen=True, slots=True)
class PastSync:
    run_id: str
    ended_at: datetime


def last_successful_sync(instance: dg.DagsterInstance, names: SyncNames, state_key: str) -> PastSync | None:
    """The newest successful run that loaded these two sides. A dry run records no load, so it does not count."""
    for run_id, metadata in materializations(instance, dg.AssetKey(names.load), _LOADS):
        if STATE_KEY in metadata and metadata[STATE_KEY].value == state_key:
            run = successful_run(instance, run_id)
            if run and run.end_time:
                return PastSync(run_id, datetime.fromtimestamp(run.end_time, UTC))
    return None


def _newest(instance: dg.DagsterInstance, since: float) -> list[dg.RunRecord]:
    limit, finished = _READ_FIRST, dg.RunsFilter(statuses=list(_SUCCEEDED))
    while True:
        records = list(instance.get_run_records(finished, limit=limit, order_by="update_timestamp"))
        new = [record for record in records if _ended_at(record) > since]
        if len(records) < limit or len(new) < len(records) or limit >= _AT_MOST:
            return new
        limit *= 4


def _ended_at(record: dg.RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()


def _finished_run(instance: dg.DagsterInstance, record: dg.RunRecord, names: SyncNames) -> FinishedRun:
    """The run, with what its event log says. If the log cannot be read, that is the run's failure, so that one such run
    does not stop the alerts about all others."""
    run, sync = record.dagster_run, names.sync
    try:
        events = read_events(instance, run.run_id, names.recorded)
        # The drift report has counts of other moments under the same names.
        counts = _numbers(events.values(names.assets))
        if matches := events.checks.get(TARGET_MATCHES_SOURCE):
            # A validation has no other counts. A sync's own counts win: its check counts what is left at the end.
            counts = _numbers(matches.numbers) | counts
        failures = [found for event in events.failures if (found := failure_of(instance, run.run_id, event))]
        return FinishedRun(
            run_id=run.run_id,
            job=run.job_name,
            succeeded=_SUCCEEDED[run.status],
            ended_at=_ended_at(record),
            duration_s=record.end_time - record.start_time if record.start_time and record.end_time else None,
            failure=failures[0] if failures else "",
            checks=list(events.checks.values()),
            counts=counts,
            loaded=dg.AssetKey(names.load) in events.materialized,
            sync=sync,
            scope=run.tags.get(SCOPE_TAG, "everything"),
        )
    except (LookupError, TypeError, ValueError, AttributeError, dg.DagsterError) as error:
        failure = f"The event log of run {run.run_id} cannot be read ({type(error).__name__}). See its page in the UI."
        return FinishedRun(run.run_id, run.job_name, False, _ended_at(record), failure=failure, sync=sync)


def _numbers(values: Mapping[str, object]) -> dict[str, int | float]:
    return {name: value for name, value in values.items() if is_number(value)}
