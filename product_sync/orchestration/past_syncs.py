"""What the run history knows of earlier syncs."""

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from product_sync.orchestration.names import LOAD, STATE_KEY

#: How many loads back a successful one is looked for.
_LOOK_BACK = 1_000


@dataclass(frozen=True, slots=True)
class PastSync:
    run_id: str
    ended_at: datetime


def last_successful_sync(instance: dg.DagsterInstance, state_key: str) -> PastSync | None:
    """The newest run that loaded these two sides and succeeded. A dry run records no load, so it is none."""
    cursor = None
    for _ in range(_LOOK_BACK // 100):
        found = instance.fetch_materializations(dg.AssetKey(LOAD), limit=100, cursor=cursor)
        for record in found.records:
            materialization = record.asset_materialization
            if (
                materialization is None
                or materialization.metadata.get(STATE_KEY, dg.MetadataValue.null()).value != state_key
            ):
                continue
            run = instance.get_run_record_by_id(record.run_id)
            if run and run.dagster_run.status is dg.DagsterRunStatus.SUCCESS and run.end_time:
                return PastSync(record.run_id, datetime.fromtimestamp(run.end_time, UTC))
        if not found.has_more:
            break
        cursor = found.cursor
    return None
