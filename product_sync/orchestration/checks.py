"""The checks of `verify.checks` as asset checks of Dagster."""

import logging
from collections.abc import Collection, Iterator, Sequence

import dagster as dg

from product_sync.errors import ChecksFailed, ProductSyncError
from product_sync.orchestration import run_log
from product_sync.orchestration.drift_reports import REFUSED, conclude_drift_report, record_drift_report
from product_sync.orchestration.failures import CheckFailed
from product_sync.orchestration.metadata import followed_metadata, proof_metadata
from product_sync.orchestration.names import (
    CHANGE_IS_PLAUSIBLE,
    EVERY_BATCH_LOADED,
    MAPPING_FITS_SOURCE,
    SOURCE_LOOKS_COMPLETE,
    TARGET_MATCHES_SOURCE,
    SyncNames,
    check_specs,
)
from product_sync.orchestration.resources import Steps
from product_sync.pipeline import read_back, run_checks
from product_sync.pipeline.sync_run import SyncRun
from product_sync.state.storage_errors import local_storage
from product_sync.verify.checks import CheckResult


def sync_checks(steps: Steps) -> list[dg.AssetChecksDefinition]:
    names = SyncNames.of(steps.definition.name)

    @dg.multi_asset_check(
        name=f"{names.source_snapshot}_{SOURCE_LOOKS_COMPLETE}",
        required_resource_keys=steps.resource_keys,
        specs=check_specs(names, SOURCE_LOOKS_COMPLETE, MAPPING_FITS_SOURCE),
    )
    def source_looks_complete(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with steps.open(context) as sync_run:
            yield from _answer(context, run_checks.check_snapshot(sync_run))

    @dg.multi_asset_check(
        name=f"{names.diff}_{CHANGE_IS_PLAUSIBLE}",
        required_resource_keys=steps.resource_keys,
        specs=check_specs(names, CHANGE_IS_PLAUSIBLE),
    )
    def change_is_plausible(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with steps.open(context) as sync_run:
            check_result = read_back.check_change(sync_run)
            if not check_result.passed:
                record_drift_report(context.op_execution_context, sync_run, REFUSED)
            yield from _answer(context, [check_result])

    return [source_looks_complete, change_is_plausible]


def load_checks(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected ones of the checks `AFTER_LOAD` on one reading of the target. If none is red, the copy is
    proven. The counts of the load are recorded first: a target that stopped the load may not be readable either."""
    selected = {key.name for key in context.selected_asset_check_keys}
    loaded = [run_checks.check_load(sync_run)] if EVERY_BATCH_LOADED in selected else []
    yield from _record(context, loaded)
    compared: list[CheckResult] = []
    if selected - {EVERY_BATCH_LOADED}:
        try:
            with local_storage(sync_run.folder.root):
                compared = _compared(context, sync_run, selected)
        except ProductSyncError as error:
            if not any(each.is_red for each in loaded):
                raise
            # The error that stopped the load is the cause, so the step ends with it.
            context.log.warning("The target could not be compared with the source: %s", error)
            without_checks(context)
    yield from _record(context, compared)
    _raise_if_red([*loaded, *compared])


def _compared(context: dg.AssetExecutionContext, sync_run: SyncRun, selected: Collection[str]) -> list[CheckResult]:
    compared = run_checks.check_result(sync_run)
    [matches] = [check_result for check_result in compared.check_results if check_result.check == TARGET_MATCHES_SOURCE]
    context.log.info(run_log.compared(matches))
    if compared.proven:
        metadata = proof_metadata(sync_run, compared.proven)
        context.log_event(dg.AssetMaterialization(SyncNames.of(sync_run.name).proof, metadata=metadata))
    if compared.followed:
        metadata = followed_metadata(sync_run, compared.followed)
        context.log_event(dg.AssetObservation(asset_key=SyncNames.of(sync_run.name).changes, metadata=metadata))
    conclude_drift_report(
        context.op_execution_context, sync_run, [*compared.check_results, *run_checks.check_own_load(sync_run)]
    )
    return [check_result for check_result in compared.check_results if check_result.check in selected]


def without_checks(context: dg.AssetExecutionContext) -> None:
    """Keep Dagster from logging that this step did not yield its checks: they are skipped on purpose, and shown so."""
    context.log.addFilter(lambda record: "did not yield or return expected outputs" not in record.getMessage())


def _answer(
    context: dg.AssetCheckExecutionContext, check_results: Sequence[CheckResult]
) -> Iterator[dg.AssetCheckResult]:
    yield from _record(context, check_results)
    _raise_if_red(check_results)


def _record(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, check_results: Sequence[CheckResult]
) -> Iterator[dg.AssetCheckResult]:
    keys = {key.name: key for key in context.selected_asset_check_keys}
    for check_result in check_results:
        if not check_result.is_red:
            level = logging.INFO if check_result.passed else logging.WARNING
            context.log.log(level, run_log.check_result(check_result))
        yield dg.AssetCheckResult(
            passed=check_result.passed,
            severity=dg.AssetCheckSeverity(check_result.severity),
            description=check_result.description,
            metadata=dict(check_result.numbers),
            check_name=check_result.check,
            asset_key=keys[check_result.check].asset_key,
        )


def _raise_if_red(check_results: Sequence[CheckResult]) -> None:
    """End the step with the sentences of the red checks. Dagster itself would give only their names."""
    if red := [run_log.check_result(check_result) for check_result in check_results if check_result.is_red]:
        raise CheckFailed(ChecksFailed(" ".join(red)))
