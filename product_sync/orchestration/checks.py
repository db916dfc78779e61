"""The checks of `verify.checks` as asset checks of Dagster.

A check that can fail with ERROR is blocking. Otherwise the run would stay green.
"""

import logging
from collections.abc import Collection, Iterator, Sequence

import dagster as dg

from product_sync.errors import ChecksFailed, ProductSyncError
from product_sync.orchestration import run_log
from product_sync.orchestration.drift_reports import REFUSED, conclude_drift_report, record_drift_report
from product_sync.orchestration.metadata import followed_metadata, proof_metadata
from product_sync.orchestration.names import (
    CHANGE_IS_PLAUSIBLE,
    EVERY_BATCH_LOADED,
    MAPPING_FITS_SOURCE,
    NO_EXTRA_PRODUCTS,
    QUARANTINE_WITHIN_BUDGET,
    SOURCE_LOOKS_COMPLETE,
    TARGET_MATCHES_SOURCE,
    SyncNames,
)
from product_sync.orchestration.resources import Steps
from product_sync.orchestration.step_errors import CheckFailed
from product_sync.pipeline import run_checks
from product_sync.pipeline.sync_run import SyncRun
from product_sync.verify.checks import CheckResult


def sync_checks(steps: Steps) -> list[dg.AssetChecksDefinition]:
    """The checks that are separate steps."""
    names = SyncNames.of(steps.definition.name)

    @dg.multi_asset_check(
        name=f"{names.source_snapshot}_{SOURCE_LOOKS_COMPLETE}",
        required_resource_keys=steps.resource_keys,
        specs=[
            dg.AssetCheckSpec(
                SOURCE_LOOKS_COMPLETE,
                asset=names.source_snapshot,
                blocking=True,
                description="The source is not empty, and at most 20 % smaller than in the last successful run.",
            ),
            dg.AssetCheckSpec(
                MAPPING_FITS_SOURCE,
                asset=names.source_snapshot,
                description="Documents have values for all mapped columns.",
            ),
        ],
    )
    def source_looks_complete(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with steps.open(context) as sync_run:
            yield from _answer(context, [run_checks.check_source(sync_run), run_checks.check_mapping(sync_run)])

    @dg.multi_asset_check(
        name=f"{names.diff}_{CHANGE_IS_PLAUSIBLE}",
        required_resource_keys=steps.resource_keys,
        specs=[
            dg.AssetCheckSpec(
                CHANGE_IS_PLAUSIBLE,
                asset=names.diff,
                blocking=True,
                description="A sync would overwrite at most 100 rows, or at most half of the target.",
            )
        ],
    )
    def change_is_plausible(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with steps.open(context) as sync_run:
            check_result = run_checks.check_change(sync_run)
            if not check_result.passed:
                record_drift_report(context.op_execution_context, sync_run, REFUSED)
            yield from _answer(context, [check_result])

    return [source_looks_complete, change_is_plausible]


_NOT_YIELDED = "did not yield or return expected outputs"


def load_check_specs(names: SyncNames) -> list[dg.AssetCheckSpec]:
    """The op that loads evaluates them: after a red one, "Re-execute from failure" must load again, and Dagster repeats
    failed ops (docs/decisions/0090)."""
    return [
        dg.AssetCheckSpec(
            EVERY_BATCH_LOADED,
            asset=names.load,
            blocking=True,
            description="Every batch was attempted, and none failed.",
        ),
        dg.AssetCheckSpec(
            TARGET_MATCHES_SOURCE,
            asset=names.load,
            blocking=True,
            description="A new reading of the target has no missing or outdated row, except for quarantined documents.",
        ),
        dg.AssetCheckSpec(
            NO_EXTRA_PRODUCTS,
            asset=names.load,
            description="Every row of the target has a document in the source.",
        ),
        dg.AssetCheckSpec(
            QUARANTINE_WITHIN_BUDGET,
            asset=names.quarantine,
            blocking=True,
            description="At most the share quarantine_budget of the source (1 % by default) is quarantined.",
        ),
    ]


def load_checks(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks of `load_check_specs` on one reading of the target. If none is red, the copy is
    proven.

    The counts of the load are recorded first: a target that stopped the load may not be readable either.
    """
    selected = {key.name for key in context.selected_asset_check_keys}
    loaded = [run_checks.check_load(sync_run)] if EVERY_BATCH_LOADED in selected else []
    yield from _record(context, loaded)
    compared: list[CheckResult] = []
    if selected - {EVERY_BATCH_LOADED}:
        try:
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
    """The selected check results, on a new reading of the target."""
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
    context.log.addFilter(lambda record: _NOT_YIELDED not in record.getMessage())


def _answer(
    context: dg.AssetCheckExecutionContext, check_results: Sequence[CheckResult]
) -> Iterator[dg.AssetCheckResult]:
    yield from _record(context, check_results)
    _raise_if_red(check_results)


def _record(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, check_results: Sequence[CheckResult]
) -> Iterator[dg.AssetCheckResult]:
    """Log and record each check result."""
    keys = {key.name: key for key in context.selected_asset_check_keys}
    for check_result in check_results:
        if not check_result.is_red:
            context.log.log(
                logging.INFO if check_result.passed else logging.WARNING, run_log.check_result(check_result)
            )
        yield _result(check_result, keys[check_result.check])


def _raise_if_red(check_results: Sequence[CheckResult]) -> None:
    """End the step with the sentences of the red checks. Dagster itself would give only their names."""
    if red := [run_log.check_result(check_result) for check_result in check_results if check_result.is_red]:
        raise CheckFailed(ChecksFailed(" ".join(red)))


def _result(check_result: CheckResult, key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=check_result.passed,
        severity=dg.AssetCheckSeverity(check_result.severity),
        description=check_result.description,
        metadata=dict(check_result.numbers),
        check_name=key.name,
        asset_key=key.asset_key,
    )
