"""Reads from the run history what finished runs came to, whoever launched them.

What is new is told by when a run ended, with an overlap, and by its id. Two other ways lose alerts: rows of check
evaluations are made when a check is planned, so that a later one may hold an earlier answer; and the times by which
Dagster selects runs are local ones where its PostgreSQL is not set to UTC, an hour of which comes twice in autumn.
"""

from collections.abc import Collection
from typing import TypeGuard

import dagster as dg
from dagster import DagsterEventType as Kind

from product_sync.notify.alerts import DEFAULT_SYNC
from product_sync.notify.events import CheckOutcome, FinishedRun, Number
from product_sync.orchestration.failures import failure_of
from product_sync.orchestration.names import LOAD, SYNC_TAG, TARGET_MATCHES_SOURCE
from product_sync.orchestration.schedules import is_ours
from product_sync.orchestration.skipped import is_skipped
from product_sync.verify.checks import Severity

_SUCCEEDED = {dg.DagsterRunStatus.SUCCESS: True, dg.DagsterRunStatus.FAILURE: False, dg.DagsterRunStatus.CANCELED: None}
_READ = {
    Kind.ASSET_CHECK_EVALUATION, Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.STEP_FAILURE, Kind.RUN_FAILURE
}  # fmt: skip
#: Seconds by which the clocks of two hosts may differ, or a record come late.
OVERLAP_S = 3_600.0
#: Runs looked at, the newest first; more where all of them are new, up to a bound.
_LOOK_AT, _AT_MOST = 100, 5_000


def finished_runs(instance: dg.DagsterInstance, since: float, seen: Collection[str]) -> list[FinishedRun]:
    """Our runs that ended after ``since`` (seconds since 1970), or within `OVERLAP_S` before, and are not ``seen``; the
    oldest first. Without those that gave way to another sync: they came to nothing."""
    new = [
        record
        for record in _newest(instance, since - OVERLAP_S)
        if record.dagster_run.run_id not in seen and is_ours(record.dagster_run) and not is_skipped(record.dagster_run)
    ]
    return [_finished_run(instance, record) for record in sorted(new, key=_ended_at)]


def _finished_run(instance: dg.DagsterInstance, record: dg.RunRecord) -> FinishedRun:
    """What the run's event log holds; that it cannot be read, where it cannot: one such run must not silence the others
    for ever."""
    try:
        return finished_run(instance, record)
    except (LookupError, TypeError, ValueError, AttributeError, dg.DagsterError) as error:
        run = record.dagster_run
        failure = f"What run {run.run_id} recorded cannot be read ({type(error).__name__}). Look at its log."
        return FinishedRun(
            run.run_id,
            run.job_name,
            succeeded=False,
            ended_at=_ended_at(record),
            failure=failure,
            sync=run.tags.get(SYNC_TAG, DEFAULT_SYNC),
        )


def _newest(instance: dg.DagsterInstance, since: float) -> list[dg.RunRecord]:
    looked_at = _LOOK_AT
    while True:
        finished = dg.RunsFilter(statuses=list(_SUCCEEDED))
        records = list(instance.get_run_records(finished, limit=looked_at, order_by="update_timestamp"))
        new = [record for record in records if _ended_at(record) > since]
        if len(records) < looked_at or len(new) < len(records) or looked_at >= _AT_MOST:
            return new
        looked_at *= 4


def _ended_at(record: dg.RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()


def finished_run(instance: dg.DagsterInstance, record: dg.RunRecord) -> FinishedRun:
    """What the run's event log holds."""
    run = record.dagster_run
    checks: dict[str, CheckOutcome] = {}
    counts: dict[str, Number] = {}
    failure, loaded = "", False
    for entry in instance.all_logs(run.run_id, of_type=_READ):
        if (event := entry.dagster_event) is None:
            continue
        if event.event_type is Kind.ASSET_CHECK_EVALUATION:
            outcome = _check(event.asset_check_evaluation_data)
            checks[outcome.check] = outcome
        elif event.event_type in (Kind.STEP_FAILURE, Kind.RUN_FAILURE):
            failure = failure or failure_of(instance, run.run_id, event)
        else:
            counts |= _numbers(event)
            loaded |= event.event_type is Kind.ASSET_MATERIALIZATION and event.asset_key == dg.AssetKey(LOAD)
    if matches := checks.get(TARGET_MATCHES_SOURCE):
        # A validation records nothing else. In a sync it looks at what is left; what was found comes from the diff.
        counts = {name: value for name, value in matches.numbers.items() if _is_number(value)} | counts
    duration = record.end_time - record.start_time if record.start_time and record.end_time else None
    return FinishedRun(
        run_id=run.run_id,
        job=run.job_name,
        succeeded=_SUCCEEDED[run.status],
        ended_at=_ended_at(record),
        duration_s=duration,
        failure=failure,
        checks=tuple(checks.values()),
        counts=counts,
        loaded=loaded,
        sync=run.tags.get(SYNC_TAG, DEFAULT_SYNC),
    )


def _check(evaluation: dg.AssetCheckEvaluation) -> CheckOutcome:
    return CheckOutcome(
        evaluation.check_name,
        evaluation.passed,
        Severity(evaluation.severity.value),
        evaluation.description or "",
        {name: value.value for name, value in evaluation.metadata.items()},
    )


def _numbers(event: dg.DagsterEvent) -> dict[str, Number]:
    if event.event_type is Kind.ASSET_OBSERVATION:
        metadata = event.asset_observation_data.asset_observation.metadata
    else:
        metadata = event.step_materialization_data.materialization.metadata
    return {name: value.value for name, value in metadata.items() if _is_number(value.value)}


def _is_number(value: object) -> TypeGuard[Number]:
    return isinstance(value, int | float) and not isinstance(value, bool)
