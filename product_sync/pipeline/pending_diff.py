"""Decides which earlier files a step may use: those of its own run, else the newest of the same sync.

Each asset can be materialised by itself. A load may then find a diff of another day, and a diff may find a snapshot
that a check refused. Without this module, one click could write what the checks of an earlier run had stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from product_sync.compare.diff import DiffCounts
from product_sync.compare.diff_lines import Difference
from product_sync.errors import ChecksFailed, StalePlan
from product_sync.schema.records import Op
from product_sync.settings import OLDEST_PLAN_S
from product_sync.state import store
from product_sync.state.files import TAKEN_AT, read_metadata
from product_sync.state.store import RunFiles, StateFolder
from product_sync.verify.checks import CheckResult

#: A diff older than this is refused.
OLDEST_PLAN = timedelta(seconds=OLDEST_PLAN_S)
#: The largest difference between the clocks of two machines.
CLOCKS_DIFFER = timedelta(minutes=5)
#: Metadata of a diff: the run of its source snapshot.
SOURCE_RUN = "source_run"

_MADE = {
    store.SOURCE_COUNT: "source snapshot",
    store.TARGET_ROWS: "target snapshot",
    store.DIFF_COUNTS: "diff",
    store.LOAD_RESULT: "result of a load",
}


@dataclass(frozen=True, slots=True)
class PendingDiff:
    """A diff that may be loaded. ``skipped`` is the number of planned rows that have changed since the plan and are
    left out."""

    path: Path
    counts: DiffCounts
    source: RunFiles
    source_taken_at: datetime
    skipped: int = 0


def newest(folder: StateFolder, own: RunFiles, name: str, *, only_own: bool = False) -> RunFiles:
    """The run whose file ``name`` is used: this one, else the newest unless ``only_own``. Raises `StalePlan` if there
    is none. ``name`` is the last file that its step writes, so the other files exist too."""
    if own.has(name):
        return own
    if not only_own and (found := folder.newest(name)):
        return found
    raise StalePlan(
        f"There is no {_MADE[name]} of this source, target and mapping yet.",
        hint="Start the whole job, or materialise the assets before this one first.",
    )


def newest_diff(folder: StateFolder, own: RunFiles, now: datetime) -> PendingDiff:
    """The newest diff, this run's first. Raises `StalePlan` if there is none or it is older than `OLDEST_PLAN`."""
    run = newest(folder, own, store.DIFF_COUNTS)
    path = run.path(store.DIFF)
    age = age_of(path, now)
    if age > OLDEST_PLAN:
        raise StalePlan(
            f"The diff of run {run.run_id} is {age.total_seconds() / 60:.0f} minutes old; loads trust"
            f" {OLDEST_PLAN.total_seconds() / 60:.0f}.",
            hint="Materialise both snapshots and the diff again.",
        )
    source = folder.run(read_metadata(path)[SOURCE_RUN])
    if not source.has(store.SOURCE_COUNT):
        raise StalePlan(
            f"The source snapshot of run {source.run_id}, which the diff was made from, is no longer there.",
            hint="Materialise both snapshots and the diff again.",
        )
    return PendingDiff(path, counts_of(run), source, taken_at(source.path(store.SOURCE_ROWS)))


def counts_of(run: RunFiles) -> DiffCounts:
    """The counts of the diff of ``run``. An earlier version noted only them."""
    content = _noted(run)
    return DiffCounts(**content.get("counts", content))


def changed_columns_of(run: RunFiles) -> dict[str, int]:
    """By column, in how many of the changed rows of the diff of ``run`` it differs."""
    return dict(_noted(run).get("changed", {}))


def first_of(run: RunFiles) -> list[Difference]:
    """The first rows of each kind in the diff of ``run``."""
    return [Difference(**line | {"op": Op(line["op"])}) for line in _noted(run).get("first", [])]


def _noted(run: RunFiles) -> dict[str, Any]:
    return run.read_json(store.DIFF_COUNTS) or {}


def taken_at(path: Path) -> datetime:
    return datetime.fromisoformat(read_metadata(path)[TAKEN_AT])


def age_of(path: Path, now: datetime) -> timedelta:
    """How long ago the read of the file began. Raises `StalePlan` for a time in the future: after a wrong clock the
    file would count as fresh for years."""
    age = now - taken_at(path)
    if age < -CLOCKS_DIFFER:
        raise StalePlan(
            f"The diff in {path} was read {-age.total_seconds() / 60:.0f} minutes from now, by this machine's clock.",
            hint="Look at the clock, then start the whole job again.",
        )
    return age


def require(check_result: CheckResult) -> None:
    """Raise `ChecksFailed` if the check failed. In a run of the whole pipeline the checks run first."""
    if not check_result.passed:
        raise ChecksFailed(f"{check_result.check}: {check_result.description}")
