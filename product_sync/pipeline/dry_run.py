"""The step of a dry run: everything that the load does, but for writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts
from product_sync.compare.diff_lines import Difference
from product_sync.errors import AccessDenied, ConfigurationError, NotAttempted
from product_sync.load.deletion import reason_to_keep
from product_sync.load.estimate import Estimate, estimate, not_probed
from product_sync.pipeline import read_back, saved_plan
from product_sync.pipeline.load_diff import deletion_facts, denied_by, lacking_privileges
from product_sync.pipeline.pacing import pacing_policy
from product_sync.pipeline.pending_diff import PendingDiff
from product_sync.pipeline.sync_run import SyncRun
from product_sync.results import SampleValue
from product_sync.schema.records import Reason
from product_sync.state import store
from product_sync.targets.postgres.health import TargetHealth
from product_sync.verify.prediction import Prediction, predict


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What a load would do. ``estimate.seconds`` is measured, or ``None`` with the reason why not; ``lacking`` names
    the privileges that the load would need and the role has not; ``plan_id`` is what the diff is kept as;
    ``prediction`` says which checks a sync would fail; ``sample_product`` is one product, column by column."""

    counts: DiffCounts
    estimate: Estimate
    first: list[Difference]
    rejects_by_reason: Mapping[Reason, int]
    lacking: str
    plan_id: str
    prediction: Prediction
    sample_product: list[SampleValue]


def dry_run(run: SyncRun) -> DryRunResult:
    """Predict the load, and keep the diff as a plan."""
    todo, target = run.pending(), run.target_health()
    denied = denied_by(run, todo.counts, target)
    by_reason = quarantine.summary(todo.source.path(store.REJECTS))
    return DryRunResult(
        todo.counts,
        _estimate(run, todo, target, denied),
        read_back.first_differing(run),
        by_reason,
        ", ".join(lacking_privileges(run, todo.counts, target.privileges)),
        saved_plan.keep(run, todo),
        _predict(run, todo, target, denied, by_reason),
        read_back.sample_product(todo.source),
    )


def _predict(
    run: SyncRun,
    todo: PendingDiff,
    target: TargetHealth,
    denied: AccessDenied | None,
    by_reason: Mapping[Reason, int],
) -> Prediction:
    """What the checks would say of a sync that starts now."""
    facts = deletion_facts(run, todo, target)
    codes = {str(reason): count for reason, count in by_reason.items()}
    return predict(
        todo.counts,
        source=read_back.check_source(run, todo.source),
        mapping=read_back.check_mapping(run, todo.source),
        change=read_back.check_change(run),
        lacking=f"{denied.message}\n{denied.hint}" if denied else "",
        quarantined_by_reason={**codes, "kept_out_by_database": todo.counts.refused},
        quarantine_budget=run.settings.quarantine_budget,
        deletes=facts is not None,
        deletion_obstacle=reason_to_keep(facts) if facts else None,
        commands=run.commands,
        scope=run.scope,
        source_size=read_back.source_size(todo.source) if run.is_partial else None,
    )


def _estimate(run: SyncRun, todo: PendingDiff, target: TargetHealth, denied: AccessDenied | None) -> Estimate:
    because = ""
    if not run.settings.probe:
        because = "The probe is turned off."
    elif target.triggers:
        because = f"The table has triggers, which a probe would fire: {', '.join(target.triggers)}."
    elif denied:
        because = denied.message
    pacing = pacing_policy(run.settings, run.timing)
    if because:
        return not_probed(todo.path, pacing, because)
    try:
        with run.source() as source, run.writer(probing=True) as writer:
            return estimate(
                todo.path,
                run.row_schema,
                source,
                writer,
                source_taken_at=todo.source_taken_at,
                pacing=pacing,
                timing=run.timing,
                policy=run.load_policy,
            )
    except (NotAttempted, ConfigurationError) as error:
        return not_probed(todo.path, pacing, error.message)
