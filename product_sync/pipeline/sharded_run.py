"""The steps of a run in shards that each may have a process of their own, in this order.

::

    cut ─► read_and_diff[0…n] ─► gather    then the diff and the checks before the load, as of any run
    begin_load ─► load[0…n] ─► settle ─► verify[0…n]    then the checks after the load, as of any run

The steps share nothing but the files of the run. A step may be repeated: it then finds rows that are written already,
which it counts as conflicts. All shards are loaded before `settle` because a row may wait for one of another shard, and
before the first is verified because the verdict is about the time after the last write (docs/decisions/0195).
"""

from __future__ import annotations

import logging
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from product_sync.load.deletion import DeletionFacts, reason_to_keep
from product_sync.load.loader import LoadPolicy
from product_sync.load.result import LoadResult
from product_sync.pipeline import load_diff, shards
from product_sync.pipeline.load_diff import Sides
from product_sync.pipeline.pacing import pacing_of_load
from product_sync.pipeline.run_checks import verify_shard as verify
from product_sync.pipeline.shards import cut, gather, read_and_diff
from product_sync.pipeline.sync_run import SyncRun
from product_sync.state import store
from product_sync.state.files import join, row_count
from product_sync.state.storage_errors import names_storage
from product_sync.state.store import RunFiles

__all__ = ["begin_load", "cut", "gather", "load", "read_and_diff", "settle", "verify"]

#: Failures and exclusions that a result explains.
_KEPT: Final = 20
_LOGGER = logging.getLogger(__name__)


@names_storage
def begin_load(run: SyncRun) -> int:
    """Decide on the sums whether the load may begin, as `load_diff.load` does, and note what it may do. Returns how
    many shards there are to load: one if a plan is executed."""
    todo = load_diff.only_planned(run, run.pending())
    target = run.target_health()
    if problem := load_diff.denied_by(run, todo.counts, target):
        raise problem
    facts = load_diff.deletion_facts(run, todo, target)
    reason = reason_to_keep(facts) if facts else None
    if reason is not None:
        _LOGGER.warning("No extra row is deleted. %s", reason)
    began = {
        "at": run.timing.now().isoformat(),
        "to_write": todo.counts.to_write,
        "skipped": todo.skipped,
        "deletion_facts": asdict(facts) if facts and reason is None else None,
        "no_deletion_because": reason,
    }
    run.files.write_json(store.LOAD_BEGAN, began)
    return len(_paths(run))


@names_storage
def load(run: SyncRun, number: int) -> LoadResult:
    """Write the differences of a shard. Rows that wait for others, which may be of another shard, are left to `settle`.

    Rows that the database refuses count together with those of the shards that have ended. If one of these has stopped,
    this one only counts what it does not attempt.
    """
    own = run.files.shard(number)
    own.folder.mkdir(parents=True, exist_ok=True)
    before = [result for _, result in _results(run, but=number)]
    result = LoadResult(stop=next((each.stop for each in before if each.stop), None))
    refused = sum(each.quarantined for each in before)
    limit = run.load_policy.max_isolated_rows(int(_began(run)["to_write"]))
    policy = replace(run.load_policy, isolated_rows=max(limit - refused, 0), isolated_share=0.0)
    _write(run, own, _paths(run)[number], result, policy, leave=own.path(store.WAITING))
    return result


@names_storage
def settle(run: SyncRun) -> int:
    """Write the rows that waited for rows of other shards, add up what was done, and bring the quarantine up to date.
    Returns how many shards are to be verified: none if nothing was to be written."""
    began, results = _began(run), _results(run)
    total = LoadResult(skipped_since_plan=began["skipped"], no_deletion_because=began["no_deletion_because"])
    for _, result in results:
        _add(total, result)
    waiting = [path for files, _ in results if row_count(path := files.path(store.WAITING))]
    rejects = [files.path(store.LOAD_REJECTS) for files, _ in results]
    if waiting:
        join(run.files.path(store.WAITING), waiting)
        last = LoadResult(stop=total.stop)
        _write(run, run.files, run.files.path(store.WAITING), last, run.load_policy)
        _add(total, replace(last, planned=0))
        rejects.append(run.files.path(store.LOAD_REJECTS))
    total.planned += total.skipped_since_plan
    at = datetime.fromisoformat(began["at"])
    total.duration_s = max((run.timing.now() - at).total_seconds(), 0.0)
    total.rows_per_second = (total.planned - total.skipped_since_plan) / total.duration_s if total.duration_s else 0.0
    load_diff.update_quarantine(run, run.pending().source, rejects, total, at)
    run.files.write_json(store.LOAD_RESULT, asdict(total))
    return len(shards.ranges_of(run.files)) if total.planned else 0


def _write(
    run: SyncRun, files: RunFiles, path: Path, result: LoadResult, policy: LoadPolicy, leave: Path | None = None
) -> None:
    facts = _began(run)["deletion_facts"]
    with (
        run.source() as source,
        run.writer(shares_lock=True) as writer,
        pacing_of_load(run.settings, run.databases.target, run.timing) as pacing,
    ):
        run.on_load(result)
        sides = Sides(source, writer, pacing)
        deletion = DeletionFacts(**facts) if facts else None
        load_diff.write_diff(run, files, path, run.pending().source_taken_at, sides, deletion, result, policy, leave)


def _paths(run: SyncRun) -> list[Path]:
    """What each shard writes: its own differences, or all rows of a plan."""
    made = run.newest(store.DIFF_COUNTS)
    if run.settings.plan:
        return [run.files.path(store.APPROVED_DIFF)]
    cut_into = shards.ranges_of(made)
    return [made.shard(each.number).path(store.DIFF) for each in cut_into] or [made.path(store.DIFF)]


def _began(run: SyncRun) -> dict[str, Any]:
    return run.files.read_json(store.LOAD_BEGAN) or {}


def _results(run: SyncRun, but: int | None = None) -> list[tuple[RunFiles, LoadResult]]:
    """What the shards have done that have ended, ``but`` one."""
    files = [run.files.shard(number) for number in range(len(_paths(run))) if number != but]
    contents = [(each, each.read_json(store.LOAD_RESULT)) for each in files]
    return [(each, load_diff.load_result_of(content)) for each, content in contents if content]


def _add(total: LoadResult, result: LoadResult) -> None:
    """Add the counts of ``result``, whose batches follow those of ``total``."""
    failures = [replace(failure, batch=total.batches + failure.batch) for failure in result.failures]
    total.failures = [*total.failures, *failures][:_KEPT]
    total.exclusions = [*total.exclusions, *result.exclusions][:_KEPT]
    total.untried += result.untried
    total.stop = total.stop or result.stop
    for field in fields(LoadResult):
        value = getattr(total, field.name)
        if isinstance(value, int):
            setattr(total, field.name, value + getattr(result, field.name))
