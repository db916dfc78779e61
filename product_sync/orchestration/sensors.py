"""Sensors: what the daemon looks at between runs."""

import os

import dagster as dg

from product_sync.orchestration.reaping import reap_dead_runs
from product_sync.session import lock_holder
from product_sync.settings import TargetAddress, mapping_path


@dg.sensor(
    name="reap_dead_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks syncs whose process was killed as failed, so that the queue and the schedule go on.",
)
def reap_dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    reaped = reap_dead_runs(
        context.instance,
        lock_is_free=lambda: lock_holder(TargetAddress.from_environment(os.environ), mapping_path(os.environ)) is None,
    )
    return dg.SkipReason(f"Marked as failed: {', '.join(reaped)}." if reaped else "No dead run.")
