"""The steps of a run in shards that each may have a process of their own, in this order.

::

    cut ─► read_and_diff[0…n] ─► gather    then the diff and the checks before the load, as of any run
    begin_load ─► load[0…n] ─► settle ─► verify[0…n]    then the checks after the load, as of any run

The steps share nothing but the files of the run. A step may be repeated: rows that its first attempt has written count
as written. All shards are loaded before `settle` because a row may wait for one of another shard, and before the first
is verified because the verdict is about the time after the last write (docs/decisions/0195).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from product_sync.load.batch import too_many_refused
from product_sync.load.deletion import DeletionFacts, reason_to_keep
from product_sync.load.result import LoadResult
from product_sync.pipeline import load_diff, saved_plan, shards
from product_sync.pipeline.load_diff import Sides
from product_sync.pipeline.pacing import pacing_of_load
from product_sync.pipeline.run_checks import verify_shard
from product_sync.pipeline.shards import cut, gather, read_and_diff
from product_sync.pipeline.sync_run import SyncRun
from product_sync.results import ErrorInfo
from product_sync.state import store
from product_sync.state.files import join, row_count

__all__ = ["begin_load", "cut", "gather", "has_begun", "load", "loaded_so_far", "read_and_diff", "settle", "verify"]

#: Failures and exclusions that a result explains.
_KEPT: Final = 20
_LOGGER = logging.getLogger(__name__)


def begin_load(run: SyncRun) -> int:
    """Decide on the sums whether the load may begin, as `load_diff.load` does, and note what it may do. Returns how
    many shards there are to load: one if a plan is executed."""
    todo = saved_plan.only_planned(run, run.pending())
    target = run.target_health()
    if problem := load_diff.denied_by(run, todo.counts, target):
        raise problem
    facts = load_diff.deletion_facts(run, todo, target)
    reason = reason_to_keep(facts) if facts else None
    if reason is not None:
        _LOGGER.warning("No extra row is deleted. %s", reason)
    number = len(_paths(run))
    began = {
        "at": run.timing.now().isoformat(),
        "shards": number,
        "to_write": todo.counts.to_write,
        "skipped": todo.skipped,
        "deletion_facts": asdict(facts) if facts and reason is None else None,
        "no_deletion_because": reason,
    }
    run.files.write_json(store.LOAD_BEGAN, began)
    return number


def has_begun(run: SyncRun) -> bool:
    """Whether the shards are to be loaded: not in a dry run, nor in a re-execution that leaves out `begin_load`."""
    return "shards" in _began(run)


def load(run: SyncRun, number: int) -> LoadResult:
    """Write the differences of a shard. Rows that wait for others, which may be of another shard, are left to `settle`.

    Rows that the database refuses count together with those of the shards that have ended. If one of these has stopped,
    this one only counts what it does not attempt.
    """
    return _write(run, number, _paths(run)[number], leave=run.files.shard(number).path(store.WAITING))


def settle(run: SyncRun) -> int:
    """Write the rows that waited for rows of other shards, add up what was done, and bring the quarantine up to date.
    Returns how many shards are to be verified: none if nothing was to be written."""
    if not has_begun(run):
        return 0
    began = _began(run)
    last = began["shards"]
    results = _results(run, but=last)
    waiting = [path for number, _ in results if row_count(path := run.files.shard(number).path(store.WAITING))]
    if waiting:
        join(run.files.path(store.WAITING), waiting)
        results.append((last, _write(run, last, run.files.path(store.WAITING))))
    total, at = _sum(run, results), datetime.fromisoformat(began["at"])
    total.duration_s = max((run.timing.now() - at).total_seconds(), 0.0)
    total.rows_per_second = (total.planned - began["skipped"]) / total.duration_s if total.duration_s else 0.0
    rejects = [run.files.shard(number).path(store.LOAD_REJECTS) for number, _ in results]
    load_diff.update_quarantine(run, run.pending().source, rejects, total, at)
    run.files.write_json(store.LOAD_RESULT, asdict(total))
    return len(shards.ranges_of(run.files)) if total.planned else 0


def verify(run: SyncRun, number: int) -> None:
    """Compare a shard with the target as it is after the load, if the checks will need it."""
    if has_begun(run):
        verify_shard(run, number)


def loaded_so_far(run: SyncRun) -> LoadResult | None:
    """What the load of this run has done, finished or not, as far as this process can see; ``None`` where it has not
    begun."""
    if content := run.files.read_json(store.LOAD_RESULT):
        return load_diff.load_result_of(content)
    results = _results(run)
    return _sum(run, results) if results else None


def _write(run: SyncRun, number: int, path: Path, leave: Path | None = None) -> LoadResult:
    """Write the differences in ``path``. What was done is in the files of shard ``number``, also if this is ended."""
    own, facts, before = run.files.shard(number), _began(run)["deletion_facts"], _sum(run, _results(run, but=number))
    own.folder.mkdir(parents=True, exist_ok=True)
    policy = replace(
        run.load_policy,
        isolated_rows=max(_most_refused(run) - before.quarantined, 0),
        isolated_share=0.0,
        repeats=own.has(store.ATTEMPTED),
    )
    own.write_json(store.ATTEMPTED, {})
    own.publish(store.ATTEMPTED)
    result = LoadResult(stop=before.stop)
    with (
        run.source() as source,
        run.writer(shares_lock=True) as writer,
        pacing_of_load(run.settings, run.databases.target, run.timing) as pacing,
    ):
        run.on_load(result)
        sides = Sides(source, writer, pacing)
        deletion = DeletionFacts(**facts) if facts else None
        load_diff.write_diff(run, own, path, run.pending().source_taken_at, sides, deletion, result, policy, leave)
    return result


def _most_refused(run: SyncRun) -> int:
    return run.load_policy.max_isolated_rows(int(_began(run)["to_write"]))


def _paths(run: SyncRun) -> list[Path]:
    """What each shard writes: its own differences, or all rows of a plan."""
    made = run.newest(store.DIFF_COUNTS)
    if run.settings.plan:
        return [run.files.path(store.APPROVED_DIFF)]
    cut_into = shards.ranges_of(made)
    return [made.shard(each.number).path(store.DIFF) for each in cut_into] or [made.path(store.DIFF)]


def _began(run: SyncRun) -> dict[str, Any]:
    return run.files.read_json(store.LOAD_BEGAN) or {}


def _results(run: SyncRun, but: int | None = None) -> list[tuple[int, LoadResult]]:
    """What each shard has done so far, ``but`` one. After the shards comes what `settle` has done for rows of all."""
    numbers = [number for number in range(_began(run).get("shards", -1) + 1) if number != but]
    contents = [(number, run.files.shard(number).read_json(store.LOAD_RESULT)) for number in numbers]
    return [(number, load_diff.load_result_of(content)) for number, content in contents if content]


def _sum(run: SyncRun, results: Sequence[tuple[int, LoadResult]]) -> LoadResult:
    """Shards that load at the same time do not know what the others refuse, so the sum is judged here once more."""
    began = _began(run)
    total = LoadResult(
        planned=began["skipped"], skipped_since_plan=began["skipped"], no_deletion_because=began["no_deletion_because"]
    )
    for number, result in results:
        # The rows that waited are planned in their shards.
        _add(total, replace(result, planned=0) if number == began["shards"] else result)
    if total.stop is None and total.quarantined > _most_refused(run):
        error = too_many_refused(f"The database refused {total.quarantined} rows of all shards together.")
        total.stop = ErrorInfo.of(error)
    return total


def _add(total: LoadResult, result: LoadResult) -> None:
    """Add the counts of ``result``, whose batches follow those of ``total``."""
    failures = [replace(failure, batch=total.batches + failure.batch) for failure in result.failures]
    total.failures = [*total.failures, *failures][:_KEPT]
    total.exclusions = [*total.exclusions, *result.exclusions][:_KEPT]
    total.untried += result.untried
    total.overtaken += result.overtaken
    total.stop = total.stop or result.stop
    for field in fields(LoadResult):
        value = getattr(total, field.name)
        if isinstance(value, int):
            setattr(total, field.name, value + getattr(result, field.name))
