"""The four assets, the quarantine, the two systems they stand between, and what is recorded at the end of a run.

Each body only wires. Documentation, owners of ours and freshness are added by `asset_pages`, which knows the settings.
"""

import logging
from collections.abc import Iterator

import dagster as dg

from product_sync.errors import ProductSyncError, SyncAlreadyRunning
from product_sync.orchestration import names, run_log
from product_sync.orchestration.checks import LOAD_CHECKS, load_checks, without_checks
from product_sync.orchestration.drift_reports import DRY, LOADED, NOT_LOADED, record_drift_report
from product_sync.orchestration.metadata import (
    diff_metadata,
    load_metadata,
    preview_metadata,
    quarantine_metadata,
    source_metadata,
    target_metadata,
    unfinished_metadata,
)
from product_sync.orchestration.resources import SyncResource
from product_sync.orchestration.schedules import is_automatic
from product_sync.orchestration.skipped import record_skipped
from product_sync.pipeline.sync_run import SyncRun

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


@dg.multi_asset(
    name=names.SNAPSHOTS,
    specs=[
        dg.AssetSpec(
            names.SOURCE_SNAPSHOT,
            deps=[mongodb_products],
            skippable=True,
            group_name=_GROUP,
            kinds={"mongodb", "parquet"},
            description=(
                "Every product of MongoDB, converted exactly; what cannot be converted is rejected with a reason."
            ),
        ),
        dg.AssetSpec(
            names.TARGET_SNAPSHOT,
            deps=[postgres_product],
            skippable=True,
            group_name=_GROUP,
            kinds={"postgres", "parquet"},
            description="Every row of the cart service's product table, from one consistent snapshot.",
        ),
    ],
    can_subset=True,
)
def product_snapshots(context: dg.AssetExecutionContext, sync: SyncResource) -> Iterator[dg.MaterializeResult[None]]:
    """Reads both sides at once, or the one that is selected (docs/decisions/0110)."""
    reads_source = dg.AssetKey(names.SOURCE_SNAPSHOT) in context.selected_asset_keys
    reads_target = dg.AssetKey(names.TARGET_SNAPSHOT) in context.selected_asset_keys
    with sync.step(context, begins=True) as sync_run:
        source, target = sync_run.snapshot(source=reads_source, target=reads_target)
        if source:
            context.log.info(run_log.source_read(source))
            metadata = source_metadata(sync_run, source)
            yield dg.MaterializeResult(asset_key=names.SOURCE_SNAPSHOT, metadata=metadata)
        if target:
            context.log.info(run_log.target_read(target))
            metadata = target_metadata(sync_run, target)
            yield dg.MaterializeResult(asset_key=names.TARGET_SNAPSHOT, metadata=metadata)


@dg.asset(
    name=names.DIFF,
    deps=[names.SOURCE_SNAPSHOT, names.TARGET_SNAPSHOT],
    group_name=_GROUP,
    kinds={"parquet"},
    description="Every difference, one row a product: missing (insert), changed (update) or extra (target only).",
)
def product_diff(context: dg.AssetExecutionContext, sync: SyncResource) -> dg.MaterializeResult[None]:
    with sync.step(context) as sync_run:
        found = sync_run.diff()
        context.log.info(run_log.differences(found))
        return dg.MaterializeResult(metadata=diff_metadata(found))


#: Read by `SyncResource`, because the whole run is to know of it.
_LOAD_CONFIG = {
    "dry_run": dg.Field(
        bool, default_value=False, description="Do everything but write. Any switch that says so is enough."
    )
}


@dg.multi_asset(
    name=names.LOAD,
    config_schema=_LOAD_CONFIG,
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
    check_specs=LOAD_CHECKS,
    can_subset=True,
)
def product_load(
    context: dg.AssetExecutionContext, sync: SyncResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Without an asset among what is selected, as in a validation, nothing is loaded and only the checks are made."""
    with sync.step(context) as sync_run:
        if not context.selected_asset_keys:
            yield from load_checks(context, sync_run)
            return
        if sync_run.settings.dry_run:
            _record_dry_run(context, sync_run)
            without_checks(context)
            return
        try:
            result = sync_run.load()
        except BaseException as error:
            if isinstance(error, SyncAlreadyRunning) and is_automatic(context.run) and not sync_run.loaded_so_far():
                record_skipped(context, error)
                without_checks(context)
                return
            _record_unfinished_load(context, sync_run, error)
            raise
        context.log.info(run_log.loaded(result))
        context.log.info(run_log.quarantined(*sync_run.quarantine_summary()))
        yield dg.MaterializeResult(asset_key=names.LOAD, metadata=load_metadata(sync_run, result))
        yield dg.MaterializeResult(asset_key=names.QUARANTINE, metadata=quarantine_metadata(sync_run, result))
        record_drift_report(context.op_execution_context, sync_run, LOADED, result)
        yield from load_checks(context, sync_run)


def _record_dry_run(context: dg.AssetExecutionContext, sync_run: SyncRun) -> None:
    preview = sync_run.preview()
    said, metadata = run_log.dry_run(preview), preview_metadata(sync_run, preview)
    context.log.log(logging.INFO if preview.prediction.would_pass else logging.WARNING, said)
    context.log_event(dg.AssetObservation(names.LOAD, description=said, metadata=metadata))
    record_drift_report(context.op_execution_context, sync_run, f"{DRY} {preview.prediction.sentence}")


def _record_unfinished_load(context: dg.AssetExecutionContext, sync_run: SyncRun, error: BaseException) -> None:
    """A load that was interrupted, or could not go on, records what it had done: Dagster materialises nothing then."""
    result = sync_run.loaded_so_far()
    if result is not None:
        said, metadata = run_log.unfinished(result), unfinished_metadata(result)
        context.log_event(dg.AssetObservation(names.LOAD, description=said, metadata=metadata))
    if isinstance(error, ProductSyncError):
        record_drift_report(context.op_execution_context, sync_run, LOADED if result else NOT_LOADED, result)


ASSETS: list[dg.AssetsDefinition | dg.AssetSpec] = [
    mongodb_products,
    postgres_product,
    product_snapshots,
    product_diff,
    product_load,
    proven_copy,
    drift_report,
    health,
]
