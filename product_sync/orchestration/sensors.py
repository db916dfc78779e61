"""The sensors that the daemon evaluates between runs."""

import os
import time

import dagster as dg

from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import NotificationState, notify_of_runs
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.run_history import finished_runs
from product_sync.orchestration.sensor_errors import notifies_of_its_errors
from product_sync.pipeline.databases import Databases
from product_sync.schema.definition import SyncDefinition


def reap_dead_runs_sensor(definition: SyncDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name="reap_dead_runs",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks syncs whose process was killed as failed, so that the queue and the schedule go on.",
    )
    @notifies_of_its_errors("reap_dead_runs")
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reaped = reap_dead_runs(
            context.instance,
            lock_is_free=lambda: Databases.of(definition, os.environ).lock_holder() is None,
        )
        return dg.SkipReason(f"Marked as failed: {', '.join(reaped)}." if reaped else "No dead run.")

    return sensor


@dg.sensor(
    name="tell_of_runs",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Sends alerts, heartbeat and metrics for every finished run, once, however it was launched. Undelivered alerts"
        " are sent again. Set PRODUCT_SYNC_ALERT_URLS; see docs/alerts.md"
    ),
)
@notifies_of_its_errors("tell_of_runs")
def tell_of_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    now = time.time()
    channels = resolve_channels(os.environ, writes_metrics=True)
    state = NotificationState.read(context.cursor, now)
    runs = finished_runs(context.instance, state.notified_until, state.seen)
    updates = list(channels.updates(state.alerts, now))
    result = notify_of_runs(state, runs, channels.settings, context.log, updates=updates)
    context.update_cursor(state.write())
    return dg.SkipReason(" ".join([str(result), *map(str, channels.mistakes.values())]))
