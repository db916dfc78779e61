"""Sensors: what the daemon looks at between runs."""

import os
import time

import dagster as dg

from product_sync.core.errors import ConfigurationError
from product_sync.orchestration.finished import finished_runs
from product_sync.orchestration.reaping import reap_dead_runs
from product_sync.session import lock_holder
from product_sync.settings import TargetAddress, TellingSettings, mapping_path
from product_sync.telling import Ledger, tell_runs


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


@dg.sensor(
    name="tell_of_runs",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tells of every finished run once, whoever launched it: alerts to PRODUCT_SYNC_ALERT_URLS, the heartbeat, the"
        " metrics. What could not be delivered is tried again. docs/alerts.md"
    ),
)
def tell_of_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    try:
        settings = TellingSettings.from_environment(os.environ)
    except ConfigurationError as error:
        context.log.warning("%s", error)
        return dg.SkipReason(f"{error} Nothing is told until then, and nothing is lost.")
    ledger = Ledger.read(context.cursor, time.time())
    runs = finished_runs(context.instance, ledger.told_until, ledger.seen)
    told = tell_runs(ledger, runs, settings, context.log)
    context.update_cursor(ledger.write())
    return dg.SkipReason(str(told))
