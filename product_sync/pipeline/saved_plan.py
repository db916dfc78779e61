"""Plan and apply: a dry run saves its diff as a plan; a later run executes that plan and nothing else.

The plan is a copy of the diff file, under the id of the dry run. The run that executes it reads both sides again. So it
knows whether the drift has grown, which rows are still as planned, and at the end whether the target matches the
source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from product_sync.compare.diff import DiffCounts
from product_sync.errors import ConfigurationError, StalePlan
from product_sync.load.planned_rows import keep_planned
from product_sync.pipeline import pending_diff
from product_sync.pipeline.pending_diff import PendingDiff
from product_sync.runtime.hints import SyncCommands
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.settings import RunOptions
from product_sync.state import store
from product_sync.state.files import copy, read_metadata
from product_sync.state.store import RunFiles, StateFolder


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan that may be executed now."""

    plan_id: str
    path: Path
    counts: DiffCounts


def keep(folder: StateFolder, made: PendingDiff, options: RunOptions) -> str:
    """Save the diff of ``made`` as a plan. Returns the id of the plan, which is that of the run."""
    run = RunFiles(made.path.parent)
    kept = folder.plan(run.run_id)
    kept.folder.mkdir(parents=True, exist_ok=True)
    copy(run.path(store.DIFF), kept.path(store.DIFF))
    kept.write_json(store.DIFF_COUNTS, run.read_json(store.DIFF_COUNTS) or {})
    kept.write_json(store.PLAN, {"extra": options.extra, "scope": options.scope})
    kept.publish()
    return run.run_id


def saved_plan_of(folder: StateFolder, settings: RunOptions, now: datetime, commands: SyncCommands) -> SavedPlan:
    """The plan that ``settings`` name. Raises `StalePlan` if it is too old, does not exist or belongs to other
    databases, and `ConfigurationError` if it was made with another ``extra``."""
    plan_id = settings.plan or ""
    kept = folder.plan(plan_id)
    content = kept.read_json(store.PLAN)
    if content is None:
        raise _not_there(folder, plan_id, commands)
    if content["extra"] != settings.extra:
        raise ConfigurationError(
            f"Plan {plan_id} was made with extra={content['extra']}, and is to be executed with {settings.extra}.",
            hint=commands.product_sync("sync", "--plan", plan_id, "--extra", content["extra"]),
        )
    if content["scope"] != settings.scope:
        raise ConfigurationError(
            f"Plan {plan_id} was made for {_scope(content['scope'])}, and this run is for {_scope(settings.scope)}.",
            hint="Give the options that the dry run was given.",
        )
    path, oldest = kept.path(store.DIFF), timedelta(seconds=settings.max_plan_age_s)
    if (age := pending_diff.age_of(path, now)) > oldest:
        raise StalePlan(
            f"Plan {plan_id} is {age.total_seconds() / 60:.0f} minutes old;"
            f" max_plan_age_s allows {oldest.total_seconds() / 60:.0f}.",
            hint=_make_another(commands),
        )
    return SavedPlan(plan_id, path, pending_diff.counts_of(kept))


def _scope(scope: Mapping[str, Any]) -> str:
    """What a plan is for, in words."""
    return f"the products {', '.join(scope['ids'])}" if scope["ids"] else str(scope["kind"])


def _not_there(folder: StateFolder, plan_id: str, commands: SyncCommands) -> StalePlan:
    if store.has_plan(folder.root, plan_id):
        return StalePlan(
            f"Plan {plan_id} was made for another source, target, mapping or table definition.",
            hint=f"Check the two addresses and the mapping file. {_make_another(commands)}",
        )
    return StalePlan(
        f"There is no plan {plan_id} in the state folder {folder.root}: plans are kept for a day.",
        hint=f"Check PRODUCT_SYNC_STATE. {_make_another(commands)}",
    )


def _make_another(commands: SyncCommands) -> str:
    return f"Make a new plan: `{commands.product_sync('sync', '--dry-run')}`."


def only_planned(
    approved: SavedPlan,
    fresh: PendingDiff,
    own: RunFiles,
    row_schema: RowSchema,
    ops: Collection[Op],
    max_growth: float,
    commands: SyncCommands,
) -> PendingDiff:
    """The rows of ``approved`` that are unchanged in ``fresh``, the diff that this run has just made.

    Raises `StalePlan` if this run has not read both sides itself, or if the number of differences has grown by more
    than ``max_growth`` (a share of the planned rows).
    """
    if not all(own.has(name) for name in (store.SOURCE_COUNT, store.TARGET_ROWS, store.DIFF_COUNTS)):
        raise StalePlan(
            "A plan is executed only by a run that has read both sides itself.",
            hint="Start the job product_sync, or materialise all assets, with the same settings.",
        )
    was, now = _drift(approved.counts, ops), _drift(fresh.counts, ops)
    if now > was * (1 + max_growth):
        raise StalePlan(
            f"Plan {approved.plan_id} has {was} differences, and now there are {now}:"
            f" more than max_drift_growth ({max_growth:.0%}) allows.",
            hint=_make_another(commands),
        )
    out = own.path(store.APPROVED_DIFF)
    skipped = keep_planned(row_schema, approved.path, fresh.path, out, ops, metadata=read_metadata(fresh.path))
    return replace(fresh, path=out, skipped=skipped)


def _drift(counts: DiffCounts, ops: Collection[Op]) -> int:
    return counts.missing + counts.changed + (counts.extra if Op.EXTRA in ops else 0)
