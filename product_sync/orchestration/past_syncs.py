"""Finds the last successful sync in the run history."""

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from product_sync.orchestration.event_log import materializations, successful_run
from product_sync.orchestration.names import STATE_KEY, SyncNames

#: How many loads are searched for a successful one.
_AT_MOST = 1_000


@dataclass(frozen=True, slots=True)
class PastSync:
    run_id: str
    ended_at: datetime


def last_successful_sync(instance: dg.DagsterInstance, names: SyncNames, state_key: str) -> PastSync | None:
    """The newest successful run that loaded these two sides. A dry run records no load, so it does not count."""
    for run_id, metadata in materializations(instance, dg.AssetKey(names.load), _AT_MOST):
        if STATE_KEY in metadata and metadata[STATE_KEY].value == state_key:
            run = successful_run(instance, run_id)
            if run and run.end_time:
                return PastSync(run_id, datetime.fromtimestamp(run.end_time, UTC))
    return None
