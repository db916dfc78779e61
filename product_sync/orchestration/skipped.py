"""A scheduled run that finds another sync at work ends without a load, and without an alarm (docs/decisions/0089).

Dagster has no status "skipped" for a run that has started. So the run ends green, and everything that could take the
green for a sync is told otherwise: nothing is materialised, the checks of the load are skipped, and the run has a tag
by which alerts, heartbeat and metrics leave it out.
"""

import dagster as dg

from product_sync.errors import SyncAlreadyRunning
from product_sync.orchestration.names import LOAD, SKIPPED_TAG


def record_skipped(context: dg.AssetExecutionContext, taken: SyncAlreadyRunning) -> None:
    """Say in the log, on the asset's page and on the run that the other sync does this one's work."""
    reason = f"Skipped: {taken.message} Nothing was written; the next scheduled run looks again."
    context.log.warning(reason)
    context.log_event(dg.AssetObservation(asset_key=LOAD, metadata={"skipped": reason, "holder": taken.holder}))
    context.instance.add_run_tags(context.run.run_id, {SKIPPED_TAG: taken.holder})


def is_skipped(run: dg.DagsterRun) -> bool:
    return SKIPPED_TAG in run.tags
