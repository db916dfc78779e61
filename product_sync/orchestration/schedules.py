"""The schedule of a sync. It skips a tick while another run of the sync is queued or running (docs/decisions/0089).

If another sync is running when a run that nobody has asked for begins to load, that run ends without a load and without
an alert. Dagster has no status "skipped" for a run that has started, so it ends green: nothing is materialised, the
checks of the load are skipped, and a tag excludes the run from alerts, heartbeat and metrics.
"""

import os
from collections.abc import Collection

import dagster as dg

from product_sync.errors import ConfigurationError, ProductSyncError, SyncAlreadyRunning
from product_sync.orchestration.names import SKIPPED_TAG, SyncNames, syncs_of
from product_sync.orchestration.ticks import notifies_of_its_errors
from product_sync.pipeline.databases import Databases
from product_sync.runtime.typed_settings import Environment
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import CRON, ScheduleSettings

#: Limit for the connection that a tick opens, in seconds.
_CONNECT_WITHIN_S = 5.0
#: Dagster's own tags of a run that no person has launched.
_LAUNCHED_BY = ("dagster/schedule_name", "dagster/sensor_name")

#: Dagster adds statuses: one that we do not know is of a run that may go on. MANAGED runs are not executed by Dagster.
_ENDED = ("SUCCESS", "FAILURE", "CANCELED", "MANAGED")
UNFINISHED = tuple(status for status in dg.DagsterRunStatus if status.name not in _ENDED)


def unfinished_runs(instance: dg.DagsterInstance, syncs: Collection[SyncNames]) -> list[dg.RunRecord]:
    """Runs of these syncs that are queued or in progress: of their jobs, or started by the UI's Materialize button."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    return [record for record in records if any(names in syncs for names in syncs_of(record.dagster_run, syncs))]


def is_automatic(run: dg.DagsterRun) -> bool:
    return any(tag in run.tags for tag in _LAUNCHED_BY)


def lock_holder_now(definition: SyncDefinition) -> str | None:
    """The holder of the sync's lock. ``None`` also if the server cannot be asked: the run then reports the cause."""
    try:
        return Databases.of(definition, os.environ).lock_holder(within_s=_CONNECT_WITHIN_S)
    except ProductSyncError:
        return None


def why_not_now(instance: dg.DagsterInstance, definition: SyncDefinition) -> str:
    """Why a tick starts no run of this sync now; empty if it may start one."""
    if unfinished := unfinished_runs(instance, [SyncNames.of(definition.name)]):
        run = unfinished[0].dagster_run
        return f"Run {run.run_id} is {run.status.value.lower()}; the next tick looks again."
    # Syncs of the tenants of one table have one lock and one cron. Skipped, the later ones would never run.
    if not definition.distinct_from_others and (holder := lock_holder_now(definition)):
        return f"Another sync holds the lock: {holder}; the next tick looks again."
    return ""


def check_schedule(env: Environment) -> None:
    """Raise `ConfigurationError` for a cron expression that Dagster refuses."""
    _require_cron(ScheduleSettings.from_environment(env).cron, CRON)


def _require_cron(cron: str, name: str) -> None:
    try:
        dg.ScheduleDefinition(name="trial", job_name="trial", cron_schedule=cron)
    except dg.DagsterInvalidDefinitionError as error:
        raise ConfigurationError(
            f"{name} is {cron!r}.", hint="Expected: a cron expression of five fields, such as `*/10 * * * *`."
        ) from error


def sync_schedule(definition: SyncDefinition, settings: ScheduleSettings) -> dg.ScheduleDefinition:
    """The schedule of the sync job. Raises `ConfigurationError` for a cron expression that Dagster refuses."""
    names = SyncNames.of(definition.name)
    _require_cron(settings.cron, f"The cron expression of {names.schedule}")

    @notifies_of_its_errors(names.schedule)
    def run_unless_one_is_in_flight(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reason = why_not_now(context.instance, definition)
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    return dg.ScheduleDefinition(
        name=names.schedule,
        job_name=names.sync_job,
        cron_schedule=settings.cron,
        execution_timezone=settings.time_zone,
        execution_fn=run_unless_one_is_in_flight,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED,
        description=(
            "Runs the sync and skips a tick while one is queued or in progress. Set by SYNC_CRON_SCHEDULE, TIMEZONE"
            " and ENABLE_SCHEDULER, or by the `schedule` of a component."
        ),
    )


def record_skipped(context: dg.AssetExecutionContext, names: SyncNames, taken: SyncAlreadyRunning) -> None:
    """Say so in the log, on the asset's page and in a tag of the run."""
    reason = f"Skipped: {taken.message} Nothing was written; the next scheduled run tries again."
    context.log.warning(reason)
    context.log_event(dg.AssetObservation(asset_key=names.load, metadata={"skipped": reason, "holder": taken.holder}))
    context.instance.add_run_tags(context.run.run_id, {SKIPPED_TAG: taken.holder})
