"""Plan and apply: a dry run saves its diff as a plan; a later run executes that plan and nothing else.

The plan is a copy of the diff file, under the id of the dry run. The run that executes it reads both sides again. So it
knows whether the drift has grown, which rows are still as planned, and at the end whether the target matches the
source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from product_sync.compare.diff import DiffCounts
from product_sync.errors import ConfigurationError, StalePlan
from product_sync.load.loader import WRITES
from product_sync.load.planned_rows import keep_planned
from product_sync.pipeline import pending_diff
from product_sync.pipeline.pending_diff import PendingDiff
from product_sync.schema.records import Op
from product_sync.state import store
from product_sync.state.files import copy, read_metadata
from product_sync.state.store import RunFiles

if TYPE_CHECKING:
    from product_sync.pipeline.sync_run import SyncRun


def keep(run: SyncRun, made: PendingDiff) -> str:
    """Save the diff of ``made`` as a plan. Returns the id of the plan, which is that of the run that made the diff."""
    files = RunFiles(made.path.parent)
    kept = run.folder.plan(files.run_id)
    kept.folder.mkdir(parents=True, exist_ok=True)
    copy(files.path(store.DIFF), kept.path(store.DIFF))
    kept.write_json(store.DIFF_COUNTS, files.read_json(store.DIFF_COUNTS) or {})
    kept.write_json(store.PLAN, {"extra": run.settings.extra, "scope": run.settings.scope})
    kept.publish()
    return files.run_id


def require_usable(run: SyncRun) -> RunFiles:
    """The files of the plan that ``run`` executes. Raises `StalePlan` if it is too old, does not exist or belongs to
    other databases, and `ConfigurationError` if it was made with another ``extra`` or for another scope."""
    settings, plan_id = run.settings, run.settings.plan or ""
    kept = run.folder.plan(plan_id)
    content = kept.read_json(store.PLAN)
    if content is None:
        raise _not_there(run, plan_id)
    if content["extra"] != settings.extra:
        raise ConfigurationError(
            f"Plan {plan_id} was made with extra={content['extra']}, and is to be executed with {settings.extra}.",
            hint=run.commands.product_sync("sync", "--plan", plan_id, "--extra", content["extra"]),
        )
    if content["scope"] != settings.scope:
        raise ConfigurationError(
            f"Plan {plan_id} was made for {_scope(content['scope'])}, and this run is for {_scope(settings.scope)}.",
            hint="Give the options that the dry run was given.",
        )
    oldest = timedelta(seconds=settings.max_plan_age_s)
    if (age := pending_diff.age_of(kept.path(store.DIFF), run.timing.now())) > oldest:
        raise StalePlan(
            f"Plan {plan_id} is {age.total_seconds() / 60:.0f} minutes old;"
            f" max_plan_age_s allows {oldest.total_seconds() / 60:.0f}.",
            hint=_make_another(run),
        )
    return kept


def _scope(scope: Mapping[str, Any]) -> str:
    return f"the products {', '.join(scope['ids'])}" if scope["ids"] else str(scope["kind"])


def _not_there(run: SyncRun, plan_id: str) -> StalePlan:
    root = run.folder.root
    if store.has_plan(root, plan_id):
        return StalePlan(
            f"Plan {plan_id} was made for another source, target, mapping or table definition.",
            hint=f"Check the two addresses and the mapping file. {_make_another(run)}",
        )
    return StalePlan(
        f"There is no plan {plan_id} in the state folder {root}: plans are kept for a day.",
        hint=f"Check PRODUCT_SYNC_STATE. {_make_another(run)}",
    )


def _make_another(run: SyncRun) -> str:
    return f"Make a new plan: `{run.commands.product_sync('sync', '--dry-run')}`."


def only_planned(run: SyncRun, fresh: PendingDiff) -> PendingDiff:
    """The rows of the plan of ``run`` that are unchanged in ``fresh``, the diff that it has just made; all rows of
    ``fresh`` if it executes no plan. Raises `StalePlan` if this run has not read both sides itself, or if the number of
    differences has grown by more than ``max_drift_growth`` (a share of the planned rows)."""
    if not run.settings.plan:
        return fresh
    plan, own, most = require_usable(run), run.files, run.settings.max_drift_growth
    if not all(own.has(name) for name in (store.SOURCE_COUNT, store.TARGET_ROWS, store.DIFF_COUNTS)):
        raise StalePlan(
            "A plan is executed only by a run that has read both sides itself.",
            hint="Start the whole job of the sync, or materialise all of its assets, with the same settings.",
        )
    deletes = run.settings.extra == "delete"
    was, now = (_drift(counts, deletes) for counts in (pending_diff.counts_of(plan), fresh.counts))
    if now > was * (1 + most):
        raise StalePlan(
            f"Plan {plan.run_id} has {was:,} differences, and now there are {now:,}:"
            f" more than max_drift_growth ({100 * most:g} %) allows.",
            hint=_make_another(run),
        )
    out, ops = own.path(store.APPROVED_DIFF), tuple(Op) if deletes else WRITES
    approved, metadata = plan.path(store.DIFF), read_metadata(fresh.path)
    skipped = keep_planned(run.row_schema, approved, fresh.path, out, ops, metadata=metadata)
    return replace(fresh, path=out, skipped=skipped)


def _drift(counts: DiffCounts, deletes: bool) -> int:
    return counts.missing + counts.changed + (counts.extra if deletes else 0)
