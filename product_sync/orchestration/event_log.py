"""Every query on what Dagster has recorded: the events of a run, the newest loads, the time of the last event."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import dagster as dg
from dagster import DagsterEventType as Kind

from product_sync.verify.checks import CheckResult, Severity

Metadata = Mapping[str, dg.MetadataValue[Any]]

_READ = {
    Kind.ASSET_CHECK_EVALUATION, Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.STEP_FAILURE, Kind.RUN_FAILURE
}  # fmt: skip
#: Materializations that are fetched with one query.
_PAGE = 100


@dataclass(slots=True)
class RunEvents:
    """The events of one run, in their order. ``recorded`` has the metadata of each materialization and observation;
    ``materialized`` are the assets with a materialization."""

    recorded: list[tuple[dg.AssetKey, Metadata]] = field(default_factory=list)
    materialized: set[dg.AssetKey] = field(default_factory=set)
    checks: dict[str, CheckResult] = field(default_factory=dict)
    failures: list[dg.DagsterEvent] = field(default_factory=list)

    def metadata(self, assets: Collection[dg.AssetKey] | None = None) -> dict[str, dg.MetadataValue[Any]]:
        """The metadata of ``assets``, or of all, merged; a later value replaces an earlier one."""
        merged: dict[str, dg.MetadataValue[Any]] = {}
        for asset, metadata in self.recorded:
            if assets is None or asset in assets:
                merged |= metadata
        return merged


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


def engine_messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What Dagster itself recorded about the run's process."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=Kind.ENGINE_EVENT)]
    return [event.message for event in events if event is not None and event.message]


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
