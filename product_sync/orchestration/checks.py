"""The verdicts as asset checks. Each body reads, asks a pure function, and answers.

Whatever can fail with ERROR is blocking: a check that is not leaves the run green, and nobody would know.
"""

import logging
from collections.abc import Collection, Iterator, Sequence

import dagster as dg

from product_sync.errors import ChecksFailed, ProductSyncError
from product_sync.orchestration import names, run_log
from product_sync.orchestration.drift_reports import REFUSED, conclude_drift_report, record_drift_report
from product_sync.orchestration.metadata import proof_metadata
from product_sync.orchestration.resources import SyncResource
from product_sync.orchestration.step_errors import CheckFailed
from product_sync.pipeline import run_checks
from product_sync.pipeline.sync_run import Session
from product_sync.verify.checks import Severity, Verdict


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
        yield from _answer(context, [run_checks.judge_source(session)])


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
        verdict = run_checks.judge_change(session)
        if not verdict.passed:
            record_drift_report(context.op_execution_context, session, REFUSED)
        yield from _answer(context, [verdict])


_NOT_YIELDED = "did not yield or return expected outputs"
#: They are evaluated by the op that loads: where one is red, "Re-execute from failure" has to load again, and Dagster
#: repeats failed ops (docs/decisions/0090).
LOAD_CHECKS = [
    dg.AssetCheckSpec(
        names.EVERY_BATCH_LOADED,
        asset=names.LOAD,
        blocking=True,
        description="No batch failed, and none was left out.",
    ),
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
]


def load_checks(context: dg.AssetExecutionContext, session: Session) -> Iterator[dg.AssetCheckResult]:
    """The selected ones of `LOAD_CHECKS`, on one reading of the target. Where none is red, the copy is proven.

    What the load counted is recorded first: a target that has stopped the load may not be readable either.
    """
    selected = {key.name for key in context.selected_asset_check_keys}
    loaded = [run_checks.judge_load(session)] if names.EVERY_BATCH_LOADED in selected else []
    yield from _record(context, loaded)
    compared: list[Verdict] = []
    if selected - {names.EVERY_BATCH_LOADED}:
        try:
            compared = _compared(context, session, selected)
        except ProductSyncError as error:
            if not any(map(_is_red, loaded)):
                raise
            # The step ends with what stopped the load: that comes first.
            context.log.warning("The target could not be compared with the source: %s", error)
            without_checks(context)
    yield from _record(context, compared)
    _raise_if_red([*loaded, *compared])


def _compared(context: dg.AssetExecutionContext, session: Session, selected: Collection[str]) -> list[Verdict]:
    """The selected verdicts on a new reading of the target."""
    judgement = run_checks.judge_result(session)
    [matches] = [verdict for verdict in judgement.verdicts if verdict.check == names.TARGET_MATCHES_SOURCE]
    context.log.info(run_log.compared(matches))
    if judgement.proven:
        metadata = proof_metadata(session, judgement.proven)
        context.log_event(dg.AssetMaterialization(names.PROOF, metadata=metadata))
    conclude_drift_report(
        context.op_execution_context, session, [*judgement.verdicts, *run_checks.judge_own_load(session)]
    )
    return [verdict for verdict in judgement.verdicts if verdict.check in selected]


def without_checks(context: dg.AssetExecutionContext) -> None:
    """Keep Dagster from logging, after this step, that it did not yield the outputs of `LOAD_CHECKS`: they are left out
    on purpose, and shown as skipped."""
    context.log.addFilter(lambda record: _NOT_YIELDED not in record.getMessage())


def _answer(context: dg.AssetCheckExecutionContext, verdicts: Sequence[Verdict]) -> Iterator[dg.AssetCheckResult]:
    yield from _record(context, verdicts)
    _raise_if_red(verdicts)


def _record(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, verdicts: Sequence[Verdict]
) -> Iterator[dg.AssetCheckResult]:
    """Log and record each verdict."""
    keys = {key.name: key for key in context.selected_asset_check_keys}
    for verdict in verdicts:
        if not _is_red(verdict):
            context.log.log(logging.INFO if verdict.passed else logging.WARNING, run_log.verdict(verdict))
        yield _result(verdict, keys[verdict.check])


def _raise_if_red(verdicts: Sequence[Verdict]) -> None:
    """End the step with the sentences of the red ones. Dagster itself would end it with the names of the checks."""
    if red := [run_log.verdict(verdict) for verdict in verdicts if _is_red(verdict)]:
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


CHECKS = [source_looks_complete, change_is_plausible]
