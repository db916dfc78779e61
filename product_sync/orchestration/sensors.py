"""The sensors that the daemon evaluates between runs, for all syncs of the code location."""

import os
import time
from functools import partial
from typing import Any

import dagster as dg

from product_sync.errors import ConfigurationError, LocalStorageError, NotAttempted, ProductSyncError
from product_sync.notify.alerts import write_state
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import NotificationState, notify_of_runs
from product_sync.notify.run_metrics import FOLLOWED, RunMetrics
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.jobs import definitions_of
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.run_history import finished_runs
from product_sync.orchestration.ticks import notifies_of_its_errors
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sides import stored_position
from product_sync.schema.definition import SyncDefinition


class ProjectSensor(dg.SensorDefinition):
    """A sensor of the whole code location, which the definitions of each sync contain. Dagster keeps one of several
    equal objects and refuses two sensors of one name. It copies the definitions of each component to note where they
    come from, but not this one."""

    def with_attributes(self, **_: Any) -> dg.SensorDefinition:
        return self


def _reap_dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    reaped: list[str] = []
    problems: list[ProductSyncError] = []
    for definition in definitions_of(context.repository_def):
        names, lock_is_free = SyncNames.of(definition.name), partial(_lock_is_free, definition)
        try:
            reaped += reap_dead_runs(context.instance, names, lock_is_free=lock_is_free)
        except ProductSyncError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return dg.SkipReason(f"Marked as failed: {', '.join(reaped)}." if reaped else "No dead run.")


def _lock_is_free(definition: SyncDefinition) -> bool:
    return Databases.of(definition, os.environ).lock_holder() is None


def _notify_of_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    now = time.time()
    channels = resolve_channels(os.environ, writes_metrics=True)
    state = NotificationState.read(context.cursor, now)
    definitions = definitions_of(context.repository_def)
    syncs = [SyncNames.of(definition.name) for definition in definitions]
    moved = [_follow(state.metrics, definition) for definition in definitions]
    runs = finished_runs(context.instance, state.notified_until, state.seen, syncs)
    updates = list(channels.updates(state.alerts, now))
    result = notify_of_runs(state, runs, channels.settings, context.log, updates=updates, has_followed=any(moved))
    context.update_cursor(write_state(state))
    return dg.SkipReason(" ".join([str(result), *map(str, channels.mistakes.values())]))


def _follow(metrics: RunMetrics, definition: SyncDefinition) -> bool:
    """Note in the metrics how far the changes are compared. Opens no connection. A state folder that this process
    cannot read keeps back no alert."""
    try:
        stored = stored_position(definition, os.environ)
    except (ConfigurationError, LocalStorageError, NotAttempted, OSError):
        return False
    followed: dict[str, int | float] = {}
    if stored is not None:
        values = (float(stored.position.time.seconds), stored.proof.at.timestamp(), len(stored.unsettled))
        followed = dict(zip(FOLLOWED, values, strict=True))
    return metrics.follow(definition.name, followed) if followed else False


reap_dead_runs_sensor = ProjectSensor(
    name="reap_dead_runs",
    evaluation_fn=notifies_of_its_errors("reap_dead_runs")(_reap_dead_runs),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks syncs whose process was killed as failed, so that the queue and the schedule go on.",
)
tell_of_runs_sensor = ProjectSensor(
    name="tell_of_runs",
    evaluation_fn=notifies_of_its_errors("tell_of_runs")(_notify_of_runs),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Sends alerts, heartbeat and metrics for every finished run, once, however it was launched. Undelivered alerts"
        " are sent again. Set PRODUCT_SYNC_ALERT_URLS; see docs/alerts.md"
    ),
)
