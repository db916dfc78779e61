"""The watch: compares what the source has changed every half minute, and starts a run only for products that differ.

The comparison runs in the code location's process, which is warm: in the steady state no process starts. A run that the
watch asks for passes through the queue like any other, so there is one run at a time (docs/decisions/0171).
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from product_sync.errors import NotAttempted, SourceReadError, StateStoreError
from product_sync.notify.alerts import Level, StatusUpdate, read_state, write_state
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates
from product_sync.orchestration.full_proof_check import full_proof
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.resources import Steps
from product_sync.orchestration.schedules import UNFINISHED, why_not_now
from product_sync.orchestration.ticks import Cursor, notifies_of_its_errors
from product_sync.pipeline import watch
from product_sync.pipeline.kept_databases import KeptDatabases
from product_sync.pipeline.sides import stored_position
from product_sync.pipeline.watch import Look
from product_sync.schema.changes import LostReason
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import RunOptions, ScheduleSettings, state_root
from product_sync.state.store import StateFolder

#: Seconds until a run tries again what it could not settle, or after a run that failed or was cancelled.
RETRY_S = 600.0
#: The least seconds between two full runs that the watch starts because changes were lost.
FULL_S = 3_600.0
#: Seconds between two records of a watch that finds changes, and of one that finds none.
RECORD_S, RECORD_QUIET_S = 600.0, 3_600.0
#: Losses that another full run would not mend.
_NOT_MENDED = (LostReason.TOO_MANY_UNSETTLED, LostReason.UNAVAILABLE)
_LAG, _STREAM = "changes/lag", "changes/stream"


@dataclass(slots=True)
class WatchState(Cursor):
    """``events`` and ``compared`` count since the last record."""

    events: int = 0
    compared: int = 0


def watch_sensor(
    steps: Steps, settings: ScheduleSettings, jobs: Sequence[UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """The watch of a sync. ``jobs`` are those of the sync."""
    definition = steps.definition
    names = SyncNames.of(definition.name)
    kept = KeptDatabases(definition)

    @dg.sensor(
        name=names.watch_sensor,
        jobs=[job for job in jobs if job.name in (names.changes_job, names.sync_job)],
        minimum_interval_seconds=settings.changes_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED,
        description=(
            f"Compares the {definition.labels.items} that the source has changed, and starts a run only if one differs."
            " Set by SYNC_CHANGES_SECONDS and ENABLE_SCHEDULER, or by the `schedule` of a component. The page of the"
            f" asset `{names.changes}` has the results. See docs/changes.md"
        ),
    )
    @notifies_of_its_errors(names.watch_sensor)
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state, now = read_state(WatchState(), context.cursor), time.time()

        def without_a_look(why: str) -> dg.SensorResult:
            _notify(context, state, _lag(settings, definition, _not_seen(definition, now)))
            return dg.SensorResult(skip_reason=why, cursor=write_state(state))

        def unfinished_pass() -> str:
            """Opens Dagster's storage, which costs more than a look: nothing else in a quiet tick does."""
            passes = dg.RunsFilter(job_name=names.changes_job, statuses=list(UNFINISHED))
            return next((run.run_id for run in context.instance.get_runs(passes, limit=1)), "")

        settle_s = RunOptions.resolve(os.environ, steps.defaults).settle_seconds
        try:
            with kept.use(os.environ) as databases:
                folder = StateFolder(state_root(os.environ), databases.state_key)
                found = watch.look(databases, folder, settle_s=settle_s, unfinished_pass=unfinished_pass)
        except (NotAttempted, SourceReadError) as error:
            return without_a_look(str(error))
        if found.waits_for:
            return without_a_look(f"Run {found.waits_for} compares the changes; the next tick looks again.")
        _notify(context, state, [*_lag(settings, definition, found), *_stream(definition, found)])
        text, request = _decide(context, definition, found)
        state.events += found.events
        state.compared += found.compared
        events: list[Any] = []
        if state.must_record(_condition(found), now, RECORD_S if state.events else RECORD_QUIET_S):
            proof = full_proof(dg.AssetCheckEvaluation, names, settings, folder, now)
            events = [*_observations(definition, found, state), proof]
            state.events = state.compared = 0
        cursor = write_state(state)
        if request is None:
            return dg.SensorResult(skip_reason=text, cursor=cursor, asset_events=events)
        context.log.info(text)
        return dg.SensorResult(run_requests=[request], cursor=cursor, asset_events=events)

    return sensor


def _decide(
    context: dg.SensorEvaluationContext, definition: SyncDefinition, found: Look
) -> tuple[str, dg.RunRequest | None]:
    """What the tick says, and the run that it asks for."""
    text, names = said(definition, found), SyncNames.of(definition.name)
    if found.stored is None:
        if found.lost is None or found.lost.reason in _NOT_MENDED:
            return text, None
        wanted, wait_s = names.sync_job, FULL_S
    elif found.backlog or found.due:
        wanted, wait_s = names.changes_job, 0.0
    elif found.tried:
        wanted, wait_s = names.changes_job, RETRY_S
    else:
        return text, None
    instance = context.instance
    if reason := why_not_now(instance, definition):
        return f"{text} {reason}", None
    last = next(iter(instance.get_run_records(dg.RunsFilter(job_name=wanted), limit=1)), None)
    if last is not None:
        if last.dagster_run.status is not dg.DagsterRunStatus.SUCCESS:
            wait_s = max(wait_s, RETRY_S)
        age_s = (datetime.now(UTC) - last.create_timestamp).total_seconds()
        if 0 <= age_s < wait_s:
            then = f"the next is in {wait_s - age_s:.0f} s"
            return f"{text} The last run of {wanted} is {last.dagster_run.run_id}; {then}.", None
    return f"{text} A run of {wanted} is requested.", dg.RunRequest(job_name=wanted)


def said(definition: SyncDefinition, found: Look) -> str:
    """What a look found, for people."""
    labels = definition.labels
    if found.stored is None:
        if found.lost is not None:
            return f"{found.lost.message} {found.lost.hint}"
        return f"No full run of the sync {definition.name} has passed on these two sides yet: nothing to follow from."
    up_to = f"Compared up to {found.stored.position.time.at:%Y-%m-%d %H:%M:%S} UTC"
    if found.backlog:
        return f"{up_to}. More follows than a look can read ({found.events:,} changes or more): a run compares it."
    changes = f"{found.events:,} {'change' if found.events == 1 else 'changes'}"
    compared = f"{found.compared:,} {labels.item if found.compared == 1 else labels.items} compared"
    differ = f"{len(found.unsettled):,} {'differs' if len(found.unsettled) == 1 else 'differ'}"
    return f"{up_to}: {changes}, {compared}, {differ}."


def _condition(found: Look) -> str:
    """Changes of this are worth a record of their own: also a new full proof, whose age a check judges."""
    if found.stored is None:
        return found.lost.reason if found.lost else "none"
    return f"{'differ' if found.unsettled else 'agree'} since {found.stored.proof.run_id}"


def _observations(definition: SyncDefinition, found: Look, state: WatchState) -> list[dg.AssetObservation]:
    """The records on the pages of the changes and of the proven copy."""
    names, metadata = SyncNames.of(definition.name), dict[str, Any](state=said(definition, found))
    if found.stored is not None:
        position, proof = found.stored.position.time, found.stored.proof
        oldest = min((each.since.seconds for each in found.unsettled.values()), default=None)
        metadata |= {
            "position_at": dg.MetadataValue.timestamp(float(position.seconds)),
            "lag_s": found.lag_s,
            "events": state.events,
            "compared": state.compared,
            "unsettled": len(found.unsettled),
            "full_proof_at": dg.MetadataValue.timestamp(proof.at),
        }
        if oldest is not None:
            metadata["unsettled_since"] = dg.MetadataValue.timestamp(float(oldest))
    of_proof: dict[str, Any] = {name: metadata[name] for name in ("full_proof_at", "position_at") if name in metadata}
    observed = [dg.AssetObservation(asset_key=names.changes, metadata=metadata)]
    return [*observed, dg.AssetObservation(asset_key=names.proof, metadata=of_proof)] if of_proof else observed


def _not_seen(definition: SyncDefinition, now: float) -> Look | None:
    """The stored position while a side cannot be read. Opens no connection, so this machine's clock gives the lag."""
    try:
        stored = stored_position(definition, os.environ)
    except StateStoreError:
        return None
    return Look(stored, lag_s=max(0.0, now - stored.position.time.seconds)) if stored else None


def _lag(settings: ScheduleSettings, definition: SyncDefinition, found: Look | None) -> list[StatusUpdate]:
    """Whether the position is too old. Nothing if no position is known."""
    if found is None or found.stored is None:
        return []
    is_late = found.lag_s > 60 * settings.changes_lag_minutes
    text = (
        f"Changes of the source are compared up to {found.stored.position.time.at:%Y-%m-%d %H:%M:%S} UTC, which is"
        f" {found.lag_s / 60:.0f} minutes ago. Look at the runs of {SyncNames.of(definition.name).changes_job}."
    )
    level = Level.WARN if is_late else Level.OK
    return [StatusUpdate(_LAG, "the watch of changes", level, time.time(), text if is_late else "", definition.name)]


def _stream(definition: SyncDefinition, found: Look) -> list[StatusUpdate]:
    """Whether the changes can be followed. Nothing before the first full run, and for a source that has no changes to
    follow: that is no failure."""
    if found.stored is None and (found.lost is None or found.lost.reason == LostReason.UNAVAILABLE):
        return []
    level = Level.OK if found.lost is None else Level.WARN
    text = said(definition, found) if found.lost else ""
    return [StatusUpdate(_STREAM, "the source's changes", level, time.time(), text, definition.name)]


def _notify(context: dg.SensorEvaluationContext, state: WatchState, updates: Sequence[StatusUpdate]) -> None:
    """Send what is new. In the steady state nothing is sent, and no channel is set up."""
    due = [each for each in updates if each.level is not Level.OK or each.key in state.alerts.subjects]
    if due or state.alerts.outbox:
        send_updates(state.alerts, due, resolve_channels(os.environ).settings, context.log)
