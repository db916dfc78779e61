"""The assets of a sync: the two systems, the steps between them, the quarantine, and what a run records at its end.

Each body only wires. Owners, links to the documentation and the freshness policy depend on settings only, so
`with_pages` adds them where definitions are loaded to be shown.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple

import dagster as dg

from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot
from product_sync.errors import ProductSyncError, SyncAlreadyRunning
from product_sync.load.result import LoadResult
from product_sync.orchestration import run_log
from product_sync.orchestration.checks import load_checks, without_checks
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
from product_sync.orchestration.names import AFTER_LOAD, PRODUCT, SyncNames, check_specs
from product_sync.orchestration.resources import Steps
from product_sync.orchestration.schedules import is_automatic, record_skipped
from product_sync.pipeline import change_pass, read_back
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.sharded_run import loaded_so_far
from product_sync.pipeline.sync_run import SyncRun
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import PageSettings
from product_sync.state.storage_errors import local_storage

Asset = dg.AssetsDefinition | dg.AssetSpec
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]

#: Read by the resource, because the whole run must know it.
LOAD_CONFIG = {
    "dry_run": dg.Field(
        bool, default_value=False, description="Do everything but write. Any switch that says so is enough."
    )
}


def sync_assets(steps: Steps) -> list[Asset]:
    """All assets of one sync: those that no step makes, then the steps."""
    names = SyncNames.of(steps.definition.name)
    specs = _specs(steps.definition, names)
    return [*(spec for spec in specs.values() if spec.key not in names.assets), *_steps(steps, names, specs)]


def _specs(definition: SyncDefinition, names: SyncNames) -> dict[str, dg.AssetSpec]:
    """All assets by name. Why some are only recorded, by a step or by a sensor: docs/decisions/0040, 0060, 0171."""
    labels, sides = definition.labels, (names.source, names.target)
    owners = {names.source: ["team:product_service"], names.target: ["team:cart_service"]} if names == PRODUCT else {}
    rows: tuple[tuple[str, Sequence[str], set[str], str], ...] = (
        (names.source, (), {"mongodb"},
         f"The collection {definition.source.collection} of {labels.source}. It is the truth."),
        (names.target, (), {"postgres"},
         f"The table {definition.target.table} of {labels.target}. It is the copy: events keep it up to date, and the"
         " sync repairs what they lost."),
        (names.source_snapshot, (names.source,), {"mongodb", "arrow"},
         f"All {labels.items} of {labels.source}, converted exactly; what cannot be converted is rejected with a"
         " reason."),
        (names.target_snapshot, (names.target,), {"postgres", "arrow"},
         f"All rows of the table {definition.target.table}, from one consistent snapshot."),
        (names.diff, (names.source_snapshot, names.target_snapshot), {"arrow"},
         f"Every difference, one row for each {labels.item}: missing (insert), changed (update) or extra (target"
         " only)."),
        (names.load, (names.diff,), {"postgres"},
         "Writes the differences in batches, each in its own transaction."),
        (names.quarantine, (names.source_snapshot, names.load), {"arrow"},
         f"The {labels.items} that cannot be copied exactly, and why. Each is tried again on every run."),
        (names.proof, (names.load, names.quarantine), {"postgres"},
         "Recorded when a sync has written, has read the target again, and no check has failed. Its freshness turns"
         " red if the last record is too old. Dry runs do not count."),
        (names.drift_report, (names.diff, names.load), {"html"},
         "A web page about the drift of each run, to send to other people: the differences, their causes as far as"
         " earlier snapshots show them, and what was done. Dry runs and refused runs have one too."),
        (names.health, sides, {"mongodb", "postgres"},
         "The state of both connections: latency, estimated counts, replication. The health sensor records it when it"
         " changes, and once an hour."),
        (names.changes, sides, {"mongodb", "postgres"},
         f"Up to when the source's changes are compared, how many {labels.items} differ and since when, and the age of"
         f" the last full proof. The sensor {names.watch_sensor} records it."),
    )  # fmt: skip
    return {
        name: dg.AssetSpec(
            name,
            deps=deps,
            kinds=kinds,
            description=description,
            group_name=names.group,
            owners=owners.get(name, []),
            skippable=dg.AssetKey(name) in names.assets and name != names.diff,
        ).with_io_manager_key(names.io_manager)
        for name, deps, kinds, description in rows
    }


def _steps(steps: Steps, names: SyncNames, specs: Mapping[str, dg.AssetSpec]) -> list[dg.AssetsDefinition]:
    resources = steps.resource_keys

    @dg.multi_asset(
        name=names.snapshots,
        required_resource_keys=resources,
        specs=[specs[names.source_snapshot], specs[names.target_snapshot]],
        can_subset=True,
    )
    def snapshots(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        """Reads both sides at once, or the one that is selected (docs/decisions/0110)."""
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        with steps.open(context, begins=True) as sync_run:
            read = sync_run.snapshot(source=names.source_snapshot in selected, target=names.target_snapshot in selected)
            yield from snapshot_results(context, sync_run, *read)

    @dg.multi_asset(name=names.diff, required_resource_keys=resources, specs=[specs[names.diff]])
    def diff(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with steps.open(context) as sync_run:
            found = sync_run.diff()
            context.log.info(run_log.differences(found))
            return dg.MaterializeResult(metadata=diff_metadata(found) | scope_metadata(sync_run))

    @dg.multi_asset(
        name=names.load,
        required_resource_keys=resources,
        config_schema=LOAD_CONFIG,
        specs=[specs[names.load], specs[names.quarantine]],
        check_specs=check_specs(names, *AFTER_LOAD),
        can_subset=True,
    )
    def load(context: dg.AssetExecutionContext) -> Results:
        """Without an asset among what is selected, as in a validation, nothing is loaded and only the checks are
        made."""
        with steps.open(context) as sync_run:
            if context.selected_asset_keys:
                yield from load_whole(context, sync_run)
            else:
                yield from load_checks(context, sync_run)

    return [snapshots, diff, load]


def snapshot_results(
    context: dg.AssetExecutionContext, sync_run: SyncRun, source: SourceSnapshot | None, target: TargetSnapshot | None
) -> Iterator[dg.MaterializeResult[None]]:
    """What is recorded of the selected sides that were read."""
    names, selected = SyncNames.of(sync_run.name), {key.to_user_string() for key in context.selected_asset_keys}
    if sync_run.settings.changes:
        read, in_collection = change_pass.of(sync_run.files), read_back.source_size(sync_run.files)
        context.log.info(run_log.changes_read(read, sync_run.scope, in_collection))
    if source and names.source_snapshot in selected:
        context.log.info(run_log.source_read(source))
        metadata = source_metadata(sync_run, source)
        yield dg.MaterializeResult(asset_key=names.source_snapshot, metadata=metadata)
    if target and names.target_snapshot in selected:
        context.log.info(run_log.target_read(target))
        metadata = target_metadata(sync_run, target)
        yield dg.MaterializeResult(asset_key=names.target_snapshot, metadata=metadata)


def load_whole(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Results:
    """Load all differences, or predict it in a dry run."""
    if sync_run.settings.dry_run:
        record_dry_run(context, sync_run)
        return
    try:
        with local_storage(sync_run.folder.root):
            result = load(sync_run)
    except BaseException as error:
        if gives_way(context, sync_run, error):
            return
        record_unfinished_load(context, sync_run, error)
        raise
    yield from load_results(context, sync_run, result)


def gives_way(context: dg.AssetExecutionContext, sync_run: SyncRun, error: BaseException) -> bool:
    """Whether a run that nobody has asked for is skipped because of ``error``: another sync is running."""
    if not isinstance(error, SyncAlreadyRunning) or not is_automatic(context.run) or loaded_so_far(sync_run):
        return False
    record_skipped(context, SyncNames.of(sync_run.name), error)
    without_checks(context)
    return True


def load_results(context: dg.AssetExecutionContext, sync_run: SyncRun, result: LoadResult) -> Results:
    names = SyncNames.of(sync_run.name)
    context.log.info(run_log.loaded(result))
    context.log.info(run_log.quarantined(*read_back.quarantine_summary(sync_run)))
    yield dg.MaterializeResult(asset_key=names.load, metadata=load_metadata(sync_run, result))
    yield dg.MaterializeResult(asset_key=names.quarantine, metadata=quarantine_metadata(sync_run, result))
    record_drift_report(context.op_execution_context, sync_run, LOADED, result)
    yield from load_checks(context, sync_run)


def record_dry_run(context: dg.AssetExecutionContext, sync_run: SyncRun) -> None:
    """Predict the load. Its checks are not made."""
    preview = dry_run(sync_run)
    said, metadata = run_log.dry_run(preview), preview_metadata(sync_run, preview)
    context.log.log(logging.INFO if preview.prediction.would_pass else logging.WARNING, said)
    context.log_event(dg.AssetObservation(SyncNames.of(sync_run.name).load, description=said, metadata=metadata))
    record_drift_report(context.op_execution_context, sync_run, f"{DRY} {preview.prediction.sentence}")
    without_checks(context)


def record_unfinished_load(context: dg.AssetExecutionContext, sync_run: SyncRun, error: BaseException) -> None:
    """A load that was interrupted, or could not go on, records what it had done: Dagster materialises nothing then."""
    result = loaded_so_far(sync_run)
    if result is not None:
        said, metadata = run_log.unfinished(result), unfinished_metadata(result)
        context.log_event(dg.AssetObservation(SyncNames.of(sync_run.name).load, description=said, metadata=metadata))
    if isinstance(error, ProductSyncError):
        record_drift_report(context.op_execution_context, sync_run, LOADED if result else NOT_LOADED, result)


def with_pages(names: SyncNames, assets: Iterable[Asset], settings: PageSettings) -> list[Asset]:
    """The assets of one sync with owners, links to the documentation and the freshness policy."""
    sections = dict(zip(astuple(names), astuple(PRODUCT), strict=True))

    def describe(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        page = f"{settings.docs_url or 'docs'}/ui.md#{sections[name]}"
        link = f"[What this page shows]({page})" if settings.docs_url else f"What this page shows: {page}"
        return spec.replace_attributes(
            owners=spec.owners or list(settings.owners),
            description=f"{spec.description} {link}",
            metadata={
                **spec.metadata,
                "docs": dg.MetadataValue.url(page) if settings.docs_url else dg.MetadataValue.text(page),
            },
            freshness_policy=_policy(settings) if name == names.proof else None,
        )

    return list(dg.map_asset_specs(describe, assets))


def _policy(settings: PageSettings) -> dg.FreshnessPolicy | None:
    """Only the proven copy has one: a load is also recorded when its checks fail afterwards, and a snapshot also by a
    dry run. Red after the whole time, a warning after two thirds of it, if Dagster can measure that: the UI rounds 45
    minutes to an hour."""
    if settings.fresh_for is None:
        return None
    warn = settings.fresh_for * 2 / 3
    return dg.FreshnessPolicy.time_window(
        fail_window=settings.fresh_for, warn_window=warn if warn.total_seconds() >= 60 else None
    )
