"""The assets of a sync: the two systems, the steps between them, the quarantine, and what a run records at its end.

Each body only wires. Documentation, owners of ours and freshness are added by `asset_pages`, which knows the settings.
"""

import logging
from collections.abc import Iterator

import dagster as dg

from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.errors import ProductSyncError, SyncAlreadyRunning
from product_sync.load.result import LoadResult
from product_sync.orchestration import run_log
from product_sync.orchestration.checks import load_check_specs, load_checks, without_checks
from product_sync.orchestration.drift_reports import DRY, LOADED, NOT_LOADED, record_drift_report
from product_sync.orchestration.metadata import (
    diff_metadata,
    load_metadata,
    preview_metadata,
    quarantine_metadata,
    scope_metadata,
    source_metadata,
    target_metadata,
    unfinished_metadata,
)
from product_sync.orchestration.names import PRODUCT, SyncNames
from product_sync.orchestration.resources import Steps
from product_sync.orchestration.schedules import is_automatic
from product_sync.orchestration.skipped import record_skipped
from product_sync.pipeline import change_pass
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.partial_run import source_size
from product_sync.pipeline.sharded_run import loaded_so_far
from product_sync.pipeline.sync_run import SyncRun
from product_sync.schema.definition import SyncDefinition

Asset = dg.AssetsDefinition | dg.AssetSpec
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]

#: Read by the resource, because the whole run must know it.
LOAD_CONFIG = {
    "dry_run": dg.Field(
        bool, default_value=False, description="Do everything but write. Any switch that says so is enough."
    )
}


def sync_assets(steps: Steps) -> list[Asset]:
    """All assets of one sync."""
    definition, names = steps.definition, SyncNames.of(steps.definition.name)
    recorded = [spec.with_io_manager_key(names.io_manager) for spec in _recorded_assets(definition, names)]
    assets: list[Asset] = [*recorded, *_steps(steps, names)]
    return list(dg.map_asset_specs(lambda spec: spec.replace_attributes(group_name=names.group), assets))


def _recorded_assets(definition: SyncDefinition, names: SyncNames) -> list[dg.AssetSpec]:
    """Those that no step materialises: the two systems, and what a sensor or the load records."""
    labels, is_product = definition.labels, names == PRODUCT
    return [
        dg.AssetSpec(
            names.source,
            kinds={"mongodb"},
            owners=["team:product_service"] if is_product else [],
            description=f"The collection {definition.source.collection} of {labels.source}. It is the truth.",
        ),
        dg.AssetSpec(
            names.target,
            kinds={"postgres"},
            owners=["team:cart_service"] if is_product else [],
            description=(
                f"The table {definition.target.table} of {labels.target}. It is the copy: events keep it up to date,"
                " and the sync repairs what they lost."
            ),
        ),
        # Recorded by a step of the load or of its checks, and not a step of its own: docs/decisions/0040.
        dg.AssetSpec(
            names.proof,
            deps=[names.load, names.quarantine],
            kinds={"postgres"},
            description=(
                "Recorded when a sync has written, has read the target again, and no check has failed. Its freshness"
                " turns red if the last record is too old. Dry runs do not count."
            ),
        ),
        dg.AssetSpec(
            names.drift_report,
            deps=[names.diff, names.load],
            kinds={"html"},
            description=(
                "A web page about the drift of each run, to send to other people: the differences, their causes as far"
                " as earlier snapshots show them, and what was done. Dry runs and refused runs have one too."
            ),
        ),
        # Recorded by a sensor: docs/decisions/0060.
        dg.AssetSpec(
            names.health,
            deps=[names.source, names.target],
            kinds={"mongodb", "postgres"},
            description=(
                "The state of both connections: latency, estimated counts, replication. The health sensor records it"
                " when it changes, and once an hour."
            ),
        ),
        # Recorded by a sensor: docs/decisions/0171.
        dg.AssetSpec(
            names.changes,
            deps=[names.source, names.target],
            kinds={"mongodb", "postgres"},
            description=(
                "Up to when the source's changes are compared, how many products differ and since when, and the age of"
                f" the last full proof. The sensor {names.watch_sensor} records it."
            ),
        ),
    ]


def _steps(steps: Steps, names: SyncNames) -> list[dg.AssetsDefinition]:
    """Those that are steps of a run."""
    definition, labels = steps.definition, steps.definition.labels

    @dg.multi_asset(
        name=names.snapshots,
        required_resource_keys=steps.resource_keys,
        specs=[
            dg.AssetSpec(
                names.source_snapshot,
                deps=[names.source],
                skippable=True,
                kinds={"mongodb", "parquet"},
                description=(
                    f"All {labels.items} of {labels.source}, converted exactly; what cannot be converted is rejected"
                    " with a reason."
                ),
            ).with_io_manager_key(names.io_manager),
            dg.AssetSpec(
                names.target_snapshot,
                deps=[names.target],
                skippable=True,
                kinds={"postgres", "parquet"},
                description=f"All rows of the table {definition.target.table}, from one consistent snapshot.",
            ).with_io_manager_key(names.io_manager),
        ],
        can_subset=True,
    )
    def snapshots(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        """Reads both sides at once, or the one that is selected (docs/decisions/0110)."""
        reads_source = dg.AssetKey(names.source_snapshot) in context.selected_asset_keys
        reads_target = dg.AssetKey(names.target_snapshot) in context.selected_asset_keys
        with steps.open(context, begins=True) as sync_run:
            source, target = sync_run.snapshot(source=reads_source, target=reads_target)
            yield from snapshot_results(context, names, sync_run, source, target)

    @dg.asset(
        name=names.diff,
        required_resource_keys=steps.resource_keys,
        deps=[names.source_snapshot, names.target_snapshot],
        kinds={"parquet"},
        io_manager_key=names.io_manager,
        description=(
            f"Every difference, one row for each {labels.item}: missing (insert), changed (update) or extra (target"
            " only)."
        ),
    )
    def diff(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with steps.open(context) as sync_run:
            found = sync_run.diff()
            context.log.info(run_log.differences(found))
            return dg.MaterializeResult(metadata=diff_metadata(found) | scope_metadata(sync_run))

    @dg.multi_asset(
        name=names.load,
        required_resource_keys=steps.resource_keys,
        config_schema=LOAD_CONFIG,
        specs=[
            dg.AssetSpec(
                names.load,
                deps=[names.diff],
                skippable=True,
                kinds={"postgres"},
                description="Writes the differences in batches, each in its own transaction.",
            ).with_io_manager_key(names.io_manager),
            dg.AssetSpec(
                names.quarantine,
                deps=[names.source_snapshot, names.load],
                skippable=True,
                kinds={"parquet"},
                description=(
                    f"The {labels.items} that cannot be copied exactly, and why. Each is tried again on every run."
                ),
            ).with_io_manager_key(names.io_manager),
        ],
        check_specs=load_check_specs(names),
        can_subset=True,
    )
    def load(context: dg.AssetExecutionContext) -> Results:
        """Without an asset among what is selected, as in a validation, nothing is loaded and only the checks are
        made."""
        with steps.open(context) as sync_run:
            if context.selected_asset_keys:
                yield from load_whole(context, names, sync_run)
            else:
                yield from load_checks(context, sync_run)

    return [snapshots, diff, load]


def snapshot_results(
    context: dg.AssetExecutionContext,
    names: SyncNames,
    sync_run: SyncRun,
    source: SourceSnapshot | None,
    target: TargetSnapshot | None,
) -> Iterator[dg.MaterializeResult[None]]:
    """What is recorded of the sides that were read."""
    if sync_run.settings.changes:
        context.log.info(run_log.changes_read(change_pass.of(sync_run.files), source_size(sync_run.files)))
    if source:
        context.log.info(run_log.source_read(source))
        metadata = source_metadata(sync_run, source)
        yield dg.MaterializeResult(asset_key=names.source_snapshot, metadata=metadata)
    if target:
        context.log.info(run_log.target_read(target))
        metadata = target_metadata(sync_run, target)
        yield dg.MaterializeResult(asset_key=names.target_snapshot, metadata=metadata)


def load_whole(context: dg.AssetExecutionContext, names: SyncNames, sync_run: SyncRun) -> Results:
    """Load all differences, or predict it in a dry run."""
    if sync_run.settings.dry_run:
        record_dry_run(context, names, sync_run)
        return
    try:
        result = load(sync_run)
    except BaseException as error:
        if gives_way(context, names, sync_run, error):
            return
        record_unfinished_load(context, names, sync_run, error)
        raise
    yield from load_results(context, names, sync_run, result)


def gives_way(context: dg.AssetExecutionContext, names: SyncNames, sync_run: SyncRun, error: BaseException) -> bool:
    """Whether a run that nobody has asked for is skipped because of ``error``: another sync is running."""
    if not isinstance(error, SyncAlreadyRunning) or not is_automatic(context.run) or loaded_so_far(sync_run):
        return False
    record_skipped(context, names, error)
    without_checks(context)
    return True


def load_results(context: dg.AssetExecutionContext, names: SyncNames, sync_run: SyncRun, result: LoadResult) -> Results:
    """What is recorded of a load, with its checks."""
    context.log.info(run_log.loaded(result))
    context.log.info(run_log.quarantined(*sync_run.quarantine_summary()))
    yield dg.MaterializeResult(asset_key=names.load, metadata=load_metadata(sync_run, result))
    yield dg.MaterializeResult(asset_key=names.quarantine, metadata=quarantine_metadata(sync_run, result))
    record_drift_report(context.op_execution_context, sync_run, LOADED, result)
    yield from load_checks(context, sync_run)


def record_dry_run(context: dg.AssetExecutionContext, names: SyncNames, sync_run: SyncRun) -> None:
    """Predict the load. Its checks are not made."""
    preview = dry_run(sync_run)
    said, metadata = run_log.dry_run(preview), preview_metadata(sync_run, preview)
    context.log.log(logging.INFO if preview.prediction.would_pass else logging.WARNING, said)
    context.log_event(dg.AssetObservation(names.load, description=said, metadata=metadata))
    record_drift_report(context.op_execution_context, sync_run, f"{DRY} {preview.prediction.sentence}")
    without_checks(context)


def record_unfinished_load(
    context: dg.AssetExecutionContext, names: SyncNames, sync_run: SyncRun, error: BaseException
) -> None:
    """A load that was interrupted, or could not go on, records what it had done: Dagster materialises nothing then."""
    result = loaded_so_far(sync_run)
    if result is not None:
        said, metadata = run_log.unfinished(result), unfinished_metadata(result)
        context.log_event(dg.AssetObservation(names.load, description=said, metadata=metadata))
    if isinstance(error, ProductSyncError):
        record_drift_report(context.op_execution_context, sync_run, LOADED if result else NOT_LOADED, result)
