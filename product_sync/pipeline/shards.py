"""A run in shards: both sides are read and compared range by range, and all that judges sees the sums.

A shard is a `SyncRun` that reads a range of ids into a folder of its own below the run's. When all shards have done a
step, their tables are joined under the run's own names, without copying a row (`state.joined_table`). So every other
step works as in a run without shards: checks, load, quarantine, verification, reports.

Each function can run in a process of its own, which shares nothing with the others but the files of the run, and may
be repeated. `sharded_run` has those that write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from product_sync.compare.diff import DiffCounts
from product_sync.compare.diff_lines import SHOWN
from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot, read_sample
from product_sync.pipeline import change_pass
from product_sync.pipeline.pending_diff import taken_at
from product_sync.runtime.progress import OnProgress, Progress
from product_sync.schema.records import Op, Reason
from product_sync.schema.scope import KeyRange, key_ranges
from product_sync.state import store
from product_sync.state.files import join, row_count
from product_sync.state.store import RunFiles

if TYPE_CHECKING:
    from product_sync.pipeline.sync_run import SyncRun

#: Compares the snapshots of a shard with its rows, and writes the differences.
Compare = Callable[["SyncRun"], DiffCounts]
#: Ids that are sampled to place the bounds, for each shard and at most.
_SAMPLED_EACH: Final = 200
_SAMPLED_MOST: Final = 10_000


def cut(run: SyncRun) -> int:
    """Cut the ids into ranges, once for a run. Returns how many there are: fewer than asked for if the source is small.
    Takes the position in the source's changes first, because the shards begin to read after it."""
    if not run.files.has(store.CUT):
        run.require_usable_plan()
        with run.source() as source:
            change_pass.take_position(run, source)
            sampled = min(_SAMPLED_EACH * run.settings.shards, _SAMPLED_MOST)
            ranges = key_ranges(source.sample_ids(sampled), run.settings.shards)
            sample = read_sample(source, run.row_schema)
        cut_into = {
            "ranges": [[each.first, each.end] for each in ranges],
            "advice": {column.name: sample.advice(column) for column in run.row_schema.values if column.path},
            "product": [asdict(value) for value in sample.product],
        }
        run.files.write_json(store.CUT, cut_into)
    return len(ranges_of(run.files))


def ranges_of(files: RunFiles) -> list[KeyRange]:
    """The ranges of a run; none for a run without shards."""
    found = (files.read_json(store.CUT) or {}).get("ranges", [])
    return [KeyRange(first, end, number, len(found)) for number, (first, end) in enumerate(found)]


def shard(run: SyncRun, number: int) -> SyncRun:
    """The shard of a run that is cut."""
    files = run.files.shard(number)
    files.folder.mkdir(parents=True, exist_ok=True)
    return replace(run, files=files, part=ranges_of(run.files)[number])


def read(run: SyncRun) -> tuple[SourceSnapshot, TargetSnapshot]:
    """Read both sides, one shard after the other."""
    cut(run)
    for each in _one_after_the_other(run):
        _read(each)
    return gather(run)


def read_and_diff(run: SyncRun, number: int) -> None:
    """Read both sides of a shard at once, and compare them. A re-execution that leaves out `cut` has no shards."""
    if run.files.has(store.CUT):
        each = shard(run, number)
        _read(each)
        _diff(each)


def _read(each: SyncRun) -> None:
    _forget(each.files, store.DIFF_COUNTS)
    new, old = each.read_both()
    content = {
        "documents": new.documents,
        "found": dict(new.found),
        "rejects": {str(reason): count for reason, count in new.rejects.items()},
        "source_s": new.duration_s,
        "target_s": old.duration_s,
    }
    each.files.write_json(store.SOURCE_COUNT, content)


def gather(run: SyncRun) -> tuple[SourceSnapshot, TargetSnapshot]:
    """Join what all shards have read. The counts are written last, as in a run without shards."""
    _join(run, store.REJECTS, store.TARGET_ROWS, store.SOURCE_ROWS)
    read = _of_all(run.files, store.SOURCE_COUNT)
    found, rejects = (_added(each[name] for each in read) for name in ("found", "rejects"))
    documents, source_s, target_s = (sum(each[name] for each in read) for name in ("documents", "source_s", "target_s"))
    source_rows, target_rows = run.files.path(store.SOURCE_ROWS), run.files.path(store.TARGET_ROWS)
    rows = row_count(target_rows)
    source = SourceSnapshot(
        documents,
        row_count(run.files.path(store.REJECTS)),
        {Reason(reason): count for reason, count in sorted(rejects.items())},
        taken_at(source_rows),
        source_s,
        documents / source_s if source_s else 0.0,
        found,
    )
    cut_into = run.files.read_json(store.CUT) or {}
    advice = {name: said for name, said in cut_into["advice"].items() if not found[name]}
    counts = {"documents": documents, "found": found, "advice": advice, "product": cut_into["product"]}
    run.files.write_json(store.SOURCE_COUNT, counts)
    target = TargetSnapshot(rows, taken_at(target_rows), target_s, rows / target_s if target_s else 0.0)
    if run.row_schema.filter:
        with run.source() as collection:
            source = run.with_filtered_out(source, collection)
    return source, target


def _diff(each: SyncRun) -> None:
    each.files.write_json(store.DIFF_COUNTS, each.described(each.compare(each.files, each.files)))


def diff(run: SyncRun) -> dict[str, Any]:
    """Compare the shards that are not compared yet, and join their differences. Returns what is noted of a diff."""
    for each in _one_after_the_other(run):
        if not each.files.has(store.DIFF_COUNTS):
            _diff(each)
    _join(run, store.DIFF)
    compared = _of_all(run.files, store.DIFF_COUNTS)
    changed = _added(each["changed"] for each in compared)
    return {"counts": asdict(_sum(compared)), "changed": changed, "first": list(_first(compared))}


def _first(compared: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """As `first_differences` of all shards."""
    lines = [line for each in compared for line in each["first"]]
    for op in Op:
        of_op = [line for line in lines if line["op"] == op]
        ids = list(dict.fromkeys(line["id"] for line in of_op))[:SHOWN]
        yield from (line for line in of_op if line["id"] in ids)


def verified(run: SyncRun, compare: Compare) -> DiffCounts:
    """``compare`` all shards with their rows as they are now, but for those that `verify` has compared."""
    for each in _one_after_the_other(run):
        if not each.files.has(store.VERIFIED_COUNTS):
            verify(each, compare)
    is_read_again = run.files.shard(0).has(store.VERIFIED_TARGET_ROWS)
    _join(run, store.VERIFIED_DIFF, *([store.VERIFIED_TARGET_ROWS] if is_read_again else []))
    counts = _sum(_of_all(run.files, store.VERIFIED_COUNTS))
    for part in ranges_of(run.files):
        _forget(run.files.shard(part.number), store.VERIFIED_COUNTS)
    return counts


def verify(each: SyncRun, compare: Compare) -> None:
    """``compare`` a shard with its rows as they are now."""
    each.files.write_json(store.VERIFIED_COUNTS, {"counts": asdict(compare(each))})


def _forget(files: RunFiles, name: str) -> None:
    """What was noted is about an earlier reading, if the step is repeated in this process."""
    files.path(name).unlink(missing_ok=True)


def _of_all(files: RunFiles, name: str) -> list[dict[str, Any]]:
    """What the shards of a run have noted in their files ``name``."""
    return [files.shard(each.number).read_json(name) or {} for each in ranges_of(files)]


def _join(run: SyncRun, *names: str) -> None:
    for name in names:
        join(run.files.path(name), [run.files.shard(each.number).path(name) for each in ranges_of(run.files)])


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums by name, zeros too."""
    total: dict[str, int] = {}
    for each in counts:
        total |= {name: total.get(name, 0) + count for name, count in each.items()}
    return total


def _sum(compared: Iterable[Mapping[str, Any]]) -> DiffCounts:
    return DiffCounts(**_added(each["counts"] for each in compared))


def _one_after_the_other(run: SyncRun) -> Iterator[SyncRun]:
    """Each shard, to be worked on in this process. Their progress is that of the whole run."""
    before: Counter[str] = Counter()
    for each in ranges_of(run.files):
        latest: dict[str, int] = {}
        yield replace(shard(run, each.number), on_progress=partial(_report, run.on_progress, each, before, latest))
        before.update(latest)


def _report(
    report: OnProgress, part: KeyRange, before: Counter[str], latest: dict[str, int], progress: Progress
) -> None:
    """The rows of the shards before count as done; the shards that follow are taken to be as large as this one."""
    latest[progress.stage] = progress.done
    done = before[progress.stage]
    total = None if progress.total is None else done + progress.total * (part.of - part.number)
    left = None if total is None or not progress.rate else (total - done - progress.done) / progress.rate
    report(replace(progress, done=done + progress.done, total=total, seconds_left=left))
