"""Ends a scheduled run without a load and without an alert if another sync is running (docs/decisions/0089).

Dagster has no status "skipped" for a run that has started, so the run ends green. Nothing is materialised, the checks
of the load are skipped, and a tag excludes the run from alerts, heartbeat and metrics.
"""

import dagster as dg

from product_sync.errors import SyncAlreadyRunning
from product_sync.orchestration.names import SKIPPED_TAG, SyncNames


def record_skipped(context: dg.AssetExecutionContext, names: SyncNames, taken: SyncAlreadyRunning) -> None:
    """Say so in the log, on the asset's page and in a tag of the run."""
    reason = f"Skipped: {taken.message} Nothing was written; the next scheduled run tries again."
    context.log.warning(reason)
    context.log_event(dg.AssetObservation(asset_key=names.load, metadata={"skipped": reason, "holder": taken.holder}))
    context.instance.add_run_tags(context.run.run_id, {SKIPPED_TAG: taken.holder})


def is_skipped(run: dg.DagsterRun) -> bool:
    return SKIPPED_TAG in run.tags
