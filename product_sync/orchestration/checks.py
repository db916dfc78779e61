"""The verdicts as asset checks. Each body reads, asks a pure function, and answers.

Whatever can fail with ERROR is blocking: a check that is not leaves the run green, and nobody would know.
"""

from collections.abc import Iterator

import dagster as dg

from product_sync import judging
from product_sync.core.verdicts import Verdict
from product_sync.orchestration import names
from product_sync.orchestration.drift_reports import REFUSED, record_drift_report
from product_sync.orchestration.metadata import proof_metadata
from product_sync.orchestration.resources import SyncResource


@dg.asset_check(
    asset=names.SOURCE_SNAPSHOT,
    name=names.SOURCE_LOOKS_COMPLETE,
    blocking=True,
    description="Not empty, and not shrunk by more than 20 % since the last run that passed.",
)
def source_looks_complete(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> dg.AssetCheckResult:
    return _result(judging.judge_source(sync.session(context)))


@dg.asset_check(
    asset=names.DIFF,
    name=names.CHANGE_IS_PLAUSIBLE,
    blocking=True,
    description="No more than 100 rows, or no more than half of the target, would be overwritten.",
)
def change_is_plausible(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> dg.AssetCheckResult:
    session = sync.session(context)
    verdict = judging.judge_change(session)
    if not verdict.passed:
        record_drift_report(context.op_execution_context, session, REFUSED)
    return _result(verdict)


@dg.asset_check(
    asset=names.LOAD,
    name=names.EVERY_BATCH_LOADED,
    blocking=True,
    description="No batch failed, and none was left out.",
)
def every_batch_loaded(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> dg.AssetCheckResult:
    return _result(judging.judge_load(sync.session(context)))


@dg.multi_asset_check(
    name="validation",
    specs=[
        dg.AssetCheckSpec(
            names.TARGET_MATCHES_SOURCE,
            asset=names.LOAD,
            blocking=True,
            description="The target, read afresh, misses nothing and holds nothing stale, apart from the quarantined.",
        ),
        dg.AssetCheckSpec(
            names.NO_EXTRA_PRODUCTS,
            asset=names.LOAD,
            description="The target holds no product that the source has not.",
        ),
        dg.AssetCheckSpec(
            names.QUARANTINE_WITHIN_BUDGET,
            asset=names.QUARANTINE,
            blocking=True,
            description="At most quarantine_budget of the source (1 % by default) is quarantined.",
        ),
    ],
    can_subset=True,
)
def validation(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckResult]:
    """One reading of the target, shared by the verdicts on it. Where none is red, the copy is proven."""
    session = sync.session(context)
    judgement = judging.judge_result(session)
    verdicts = {verdict.check: verdict for verdict in judgement.verdicts}
    if judgement.proven:
        metadata = proof_metadata(session, judgement.proven)
        context.op_execution_context.log_event(dg.AssetMaterialization(names.PROOF, metadata=metadata))
    for key in context.selected_asset_check_keys:
        yield _result(verdicts[key.name], key)


def _result(verdict: Verdict, key: dg.AssetCheckKey | None = None) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity(verdict.severity),
        description=verdict.description,
        metadata=dict(verdict.numbers),
        check_name=key.name if key else None,
        asset_key=key.asset_key if key else None,
    )


CHECKS = [source_looks_complete, change_is_plausible, every_batch_loaded, validation]
