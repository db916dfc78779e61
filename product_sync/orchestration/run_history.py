"""Reads the results of finished runs from the run history, however they were launched.

A run is new if it ended since the last reading, with an overlap, and its id was not seen. Two other ways would lose
alerts. Dagster creates the rows of check evaluations when a check is planned, so a later row may hold an earlier
result. And the times by which Dagster selects runs are local times if its PostgreSQL is not set to UTC.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from product_sync.notify.events import FinishedRun
from product_sync.orchestration.event_log import is_number, materializations, read_events, successful_run
from product_sync.orchestration.failures import failure_of
from product_sync.orchestration.names import PRODUCT, SCOPE_TAG, STATE_KEY, TARGET_MATCHES_SOURCE, SyncNames, syncs_of
from product_sync.orchestration.skipped import is_skipped

_SUCCEEDED = {dg.DagsterRunStatus.SUCCESS: True, dg.DagsterRunStatus.FAILURE: False, dg.DagsterRunStatus.CANCELED: None}
#: Seconds by which the clocks of two hosts may differ, or a record may be late.
OVERLAP_S = 3_600.0
#: Number of runs to read, the newest first; more if all of them are new, up to a bound.
_READ_FIRST, _AT_MOST = 100, 5_000
#: How many loads are searched for a successful one.
_LOADS = 1_000


def finished_runs(
    instance: dg.DagsterInstance, since: float, seen: Collection[str], syncs: Collection[SyncNames] = (PRODUCT,)
) -> list[FinishedRun]:
    """Runs of ours that ended after ``since`` (seconds since 1970) minus `OVERLAP_S` and are not ``seen``, the oldest
    first. A run of the Materialize button is known by the assets of ``syncs``; one of several syncs counts for each.
    Skipped runs are left out: they did nothing because another sync was running."""
    new = [
        record
        for record in _newest(instance, since - OVERLAP_S)
        if record.dagster_run.run_id not in seen and not is_skipped(record.dagster_run)
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
        counts = _numbers({name: value.value for name, value in events.metadata(names.assets).items()})
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
