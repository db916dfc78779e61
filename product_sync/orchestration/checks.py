"""The verdicts as asset checks. Each body reads, asks a pure function, and answers.

Whatever can fail with ERROR is blocking: a check that is not leaves the run green, and nobody would know.
"""

import logging
from collections.abc import Iterator, Sequence

import dagster as dg

from product_sync import judging
from product_sync.core.errors import ChecksFailed
from product_sync.core.verdicts import Severity, Verdict
from product_sync.orchestration import names, story
from product_sync.orchestration.drift_reports import REFUSED, record_drift_report
from product_sync.orchestration.metadata import proof_metadata
from product_sync.orchestration.resources import SyncResource
from product_sync.orchestration.step_errors import CheckFailed


@dg.multi_asset_check(
    name=f"{names.SOURCE_SNAPSHOT}_{names.SOURCE_LOOKS_COMPLETE}",
    specs=[
        dg.AssetCheckSpec(
            names.SOURCE_LOOKS_COMPLETE,
            asset=names.SOURCE_SNAPSHOT,
            blocking=True,
            description="Not empty, and not shrunk by more than 20 % since the last run that passed.",
        )
    ],
)
def source_looks_complete(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckResult]:
    with sync.step(context) as session:
        yield from _answer(context, [judging.judge_source(session)])


@dg.multi_asset_check(
    name=f"{names.DIFF}_{names.CHANGE_IS_PLAUSIBLE}",
    specs=[
        dg.AssetCheckSpec(
            names.CHANGE_IS_PLAUSIBLE,
            asset=names.DIFF,
            blocking=True,
            description="No more than 100 rows, or no more than half of the target, would be overwritten.",
        )
    ],
)
def change_is_plausible(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckResult]:
    with sync.step(context) as session:
        verdict = judging.judge_change(session)
        if not verdict.passed:
            record_drift_report(context.op_execution_context, session, REFUSED)
        yield from _answer(context, [verdict])


@dg.multi_asset_check(
    name=f"{names.LOAD}_{names.EVERY_BATCH_LOADED}",
    specs=[
        dg.AssetCheckSpec(
            names.EVERY_BATCH_LOADED,
            asset=names.LOAD,
            blocking=True,
            description="No batch failed, and none was left out.",
        )
    ],
)
def every_batch_loaded(context: dg.AssetCheckExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckResult]:
    with sync.step(context) as session:
        yield from _answer(context, [judging.judge_load(session)])


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
    with sync.step(context) as session:
        judgement = judging.judge_result(session)
        if judgement.proven:
            metadata = proof_metadata(session, judgement.proven)
            context.op_execution_context.log_event(dg.AssetMaterialization(names.PROOF, metadata=metadata))
        selected = {key.name for key in context.selected_asset_check_keys}
        yield from _answer(context, [verdict for verdict in judgement.verdicts if verdict.check in selected])


def _answer(context: dg.AssetCheckExecutionContext, verdicts: Sequence[Verdict]) -> Iterator[dg.AssetCheckResult]:
    """Log and record each verdict; then, if one of them is red, end the step with its sentence. Dagster itself would
    end it with the names of the checks."""
    keys = {key.name: key for key in context.selected_asset_check_keys}
    for verdict in verdicts:
        if not _is_red(verdict):
            context.log.log(logging.INFO if verdict.passed else logging.WARNING, story.verdict(verdict))
        yield _result(verdict, keys[verdict.check])
    if red := [story.verdict(verdict) for verdict in verdicts if _is_red(verdict)]:
        raise CheckFailed(ChecksFailed(" ".join(red)))


def _is_red(verdict: Verdict) -> bool:
    return not verdict.passed and verdict.severity is Severity.ERROR


def _result(verdict: Verdict, key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity(verdict.severity),
        description=verdict.description,
        metadata=dict(verdict.numbers),
        check_name=key.name,
        asset_key=key.asset_key,
    )


CHECKS = [source_looks_complete, change_is_plausible, every_batch_loaded, validation]
