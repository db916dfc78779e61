"""The four assets, the quarantine, the two systems they stand between, and what is recorded at the end of a run.

Each body only wires. Documentation, owners of ours and freshness are added by `asset_pages`, which knows the settings.
"""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from product_sync.core.errors import NotAttempted, SyncAlreadyRunning
from product_sync.orchestration import names
from product_sync.orchestration.drift_reports import DRY, LOADED, NOT_LOADED, record_drift_report
from product_sync.orchestration.metadata import (
    diff_metadata,
    load_metadata,
    preview_metadata,
    quarantine_metadata,
    source_metadata,
    target_metadata,
)
from product_sync.orchestration.resources import SyncResource
from product_sync.orchestration.schedules import is_automatic
from product_sync.orchestration.skipped import record_skipped

_GROUP = "product_sync"

mongodb_products = dg.AssetSpec(
    names.MONGODB,
    kinds={"mongodb"},
    group_name=_GROUP,
    owners=["team:product_service"],
    description="The product service's collection: the truth.",
)
postgres_product = dg.AssetSpec(
    names.POSTGRES,
    kinds={"postgres"},
    group_name=_GROUP,
    owners=["team:cart_service"],
    description="The cart service's table: the copy. Events keep it fresh; the sync repairs what they lost.",
)
# Recorded by a step of the load or of its checks, and not a step of its own: docs/decisions/0040.
proven_copy = dg.AssetSpec(
    names.PROOF,
    deps=[names.LOAD, names.QUARANTINE],
    kinds={"postgres"},
    group_name=_GROUP,
    description=(
        "The copy, proven: recorded when a sync has loaded, read the target afresh, and no check was red. Red itself"
        " when that is too long ago. Dry runs do not count."
    ),
)
drift_report = dg.AssetSpec(
    names.DRIFT_REPORT,
    deps=[names.DIFF, names.LOAD],
    kinds={"html"},
    group_name=_GROUP,
    description=(
        "A page about the drift of each run that can be sent to a person: what differs, what earlier snapshots prove"
        " about where it comes from, what was done. Dry runs and refused changes have one too."
    ),
)
# Recorded by a sensor: docs/decisions/0060.
health = dg.AssetSpec(
    names.HEALTH,
    deps=[mongodb_products, postgres_product],
    kinds={"mongodb", "postgres"},
    group_name=_GROUP,
    description=(
        "Both connections as the health sensor sees them: latency, estimated counts, replication. Recorded when it"
        " changes, and once an hour."
    ),
)


@dg.asset(
    name=names.SOURCE_SNAPSHOT,
    deps=[mongodb_products],
    group_name=_GROUP,
    kinds={"mongodb", "parquet"},
    description="Every product of MongoDB, converted exactly; what cannot be converted is rejected with a reason.",
)
def mongo_product_snapshot(context: dg.AssetExecutionContext, sync: SyncResource) -> dg.MaterializeResult[None]:
    session = sync.session(context)
    return dg.MaterializeResult(metadata=source_metadata(session, session.snapshot_source()))


@dg.asset(
    name=names.TARGET_SNAPSHOT,
    deps=[postgres_product],
    group_name=_GROUP,
    kinds={"postgres", "parquet"},
    description="Every row of the cart service's product table, from one consistent snapshot.",
)
def postgres_cart_snapshot(context: dg.AssetExecutionContext, sync: SyncResource) -> dg.MaterializeResult[None]:
    session = sync.session(context)
    return dg.MaterializeResult(metadata=target_metadata(session, session.snapshot_target()))


@dg.asset(
    name=names.DIFF,
    deps=[mongo_product_snapshot, postgres_cart_snapshot],
    group_name=_GROUP,
    kinds={"duckdb", "parquet"},
    description="Every difference, one row a product: missing (insert), changed (update) or extra (target only).",
)
def product_diff(context: dg.AssetExecutionContext, sync: SyncResource) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata=diff_metadata(sync.session(context).diff()))


class LoadConfig(dg.Config):
    dry_run: bool = Field(default=False, description="Do everything but write. Any switch that says so is enough.")


@dg.multi_asset(
    name=names.LOAD,
    specs=[
        dg.AssetSpec(
            names.LOAD,
            deps=[names.DIFF],
            skippable=True,
            group_name=_GROUP,
            kinds={"postgres"},
            description="The differences, written in batches, each in a transaction of its own.",
        ),
        dg.AssetSpec(
            names.QUARANTINE,
            deps=[names.SOURCE_SNAPSHOT, names.LOAD],
            skippable=True,
            group_name=_GROUP,
            kinds={"parquet"},
            description="The products that cannot be copied exactly, and why. Each is tried again on every run.",
        ),
    ],
)
def product_load(
    context: dg.AssetExecutionContext, config: LoadConfig, sync: SyncResource
) -> Iterator[dg.MaterializeResult[None]]:
    session = sync.session(context)
    if config.dry_run or session.settings.dry_run:
        metadata = preview_metadata(session, session.preview())
        context.log_event(dg.AssetObservation(asset_key=names.LOAD, metadata=metadata))
        record_drift_report(context.op_execution_context, session, DRY)
        return
    try:
        result = session.load()
    except SyncAlreadyRunning as taken:
        if is_automatic(context.run):
            record_skipped(context, taken)
            return
        record_drift_report(context.op_execution_context, session, NOT_LOADED)
        raise
    except NotAttempted:
        record_drift_report(context.op_execution_context, session, NOT_LOADED)
        raise
    yield dg.MaterializeResult(asset_key=names.LOAD, metadata=load_metadata(session, result))
    yield dg.MaterializeResult(asset_key=names.QUARANTINE, metadata=quarantine_metadata(session, result))
    record_drift_report(context.op_execution_context, session, LOADED, result)


ASSETS: list[dg.AssetsDefinition | dg.AssetSpec] = [
    mongodb_products,
    postgres_product,
    mongo_product_snapshot,
    postgres_cart_snapshot,
    product_diff,
    product_load,
    proven_copy,
    drift_report,
    health,
]
