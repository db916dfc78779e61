"""One run of one sync: its two databases, options and files; reading both sides, comparing them, the first checks.

The steps that write and that predict are in `load_diff` and `dry_run`. Nothing here knows Dagster. A connection is
opened for a step and closed when the step ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_sync.compare.diff import DiffCounts, diff
from product_sync.compare.diff_lines import Difference, changed_columns, first_differences
from product_sync.compare.snapshot import (
    BothFiles,
    Reading,
    SourceSnapshot,
    TargetSnapshot,
    snapshot_both,
    snapshot_source,
    snapshot_target,
)
from product_sync.conversion.ids import named_ids
from product_sync.errors import ProductSyncError
from product_sync.load.loader import LoadPolicy
from product_sync.load.result import LoadResult
from product_sync.pipeline import change_pass, pending_diff, read_back, saved_plan, shards
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.pacing import flush_within_s
from product_sync.pipeline.pending_diff import PendingDiff
from product_sync.pipeline.sides import note_sides, sides_key
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.runtime.hints import SyncCommands
from product_sync.runtime.progress import OnProgress, Progress, waiting
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.scope import EVERYTHING, Everything, Ids, KeyRange, Scope
from product_sync.settings import RunOptions
from product_sync.state import store
from product_sync.state.files import RUN_ID, STATE_KEY, TAKEN_AT
from product_sync.state.mirror import mirror_of
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import RunFiles, StateFolder
from product_sync.targets.postgres.health import TargetHealth, health
from product_sync.targets.postgres.writer import PostgresWriter

if TYPE_CHECKING:
    from product_sync.schema.ports import Source, TargetReader

_LOGGER = logging.getLogger(__name__)
OnLoad = Callable[[LoadResult], None]


def _ignore_load(_result: LoadResult) -> None:
    """The default: do nothing with the counts."""


#: The stage of a run that waits for a lock or for a silent target.
WAIT_STAGE = "waiting"


@dataclass(frozen=True, slots=True)
class DiffSummary:
    counts: DiffCounts
    changed_columns: Mapping[str, int]
    first: list[Difference]
    duration_s: float

    @property
    def rows_per_second(self) -> float:
        rows = self.counts.source_count + self.counts.target_count
        return rows / self.duration_s if self.duration_s else 0.0


@dataclass(frozen=True)
class SyncRun:
    """Made by `open_sync_run`, one for each step of a run. In a re-execution (``is_reexecution``) some steps may be
    left out, because an earlier run has executed them. A ``part`` of a run reads the ids of a range only (`shards`)."""

    databases: Databases
    settings: RunOptions
    folder: StateFolder
    files: RunFiles
    on_progress: OnProgress
    timing: Timing
    on_load: OnLoad = _ignore_load
    is_reexecution: bool = False
    part: KeyRange | None = None

    # Gather.

    def snapshot(self, *, source: bool, target: bool) -> tuple[SourceSnapshot | None, TargetSnapshot | None]:
        """Read the given sides, both at once. A partial run reads both in any case: no other run uses its files."""
        if (source and target) or self.is_partial:
            return self.snapshot_both()
        return self.snapshot_source() if source else None, self.snapshot_target() if target else None

    def snapshot_both(self) -> tuple[SourceSnapshot, TargetSnapshot]:
        """Read both sides at once into the files of this run. Raises as `snapshot_source`."""
        self.require_usable_plan()
        if self.settings.shards > 1 and not self.is_partial:
            return shards.read(self)
        if self.settings.changes:
            change_pass.begin(self)
        snapshots = self.read_both()
        if self.settings.changes and change_pass.waits_for_events(self):
            snapshots = self.read_both()
        return snapshots

    def read_both(self) -> tuple[SourceSnapshot, TargetSnapshot]:
        """Read both sides of this run, or of this part of one."""
        files = self._both_files(self.files, self.files.path(store.TARGET_ROWS))
        with self.source() as source:
            change_pass.take_position(self, source)
            new, old = snapshot_both(source, self.reader, self.row_schema, files, **self.reading)
            if self.part is not None:
                return new, old
            self._note_source(new, source)
            return self.with_filtered_out(new, source), old

    def snapshot_source(self) -> SourceSnapshot:
        """Read every document into the files of this run. Raises `StalePlan` if this run's plan cannot be used."""
        self.require_usable_plan()
        rows, rejects = self.files.path(store.SOURCE_ROWS), self.files.path(store.REJECTS)
        with self.source() as source:
            change_pass.take_position(self, source)
            snapshot = snapshot_source(source, self.row_schema, rows, rejects, **self.reading)
            self._note_source(snapshot, source)
            return self.with_filtered_out(snapshot, source)

    def snapshot_target(self) -> TargetSnapshot:
        return snapshot_target(self.reader, self.row_schema, self.files.path(store.TARGET_ROWS), **self.reading)

    @property
    def reading(self) -> Reading:
        """What a read of either side takes."""
        reading: Reading = {"metadata": self.metadata, "timing": self.timing, "on_progress": self.on_progress}
        return reading if isinstance(self.scope, Everything) else {**reading, "expected": len(self.scope)}

    def require_usable_plan(self) -> None:
        """Raise `StalePlan` if this run executes a plan that cannot be used."""
        if self.settings.plan:
            saved_plan.require_usable(self)

    def _note_source(self, snapshot: SourceSnapshot, source: Source) -> None:
        """This file is written last: if it exists, the snapshot is complete. A few documents cannot show that no
        document has a path, so a partial run notes about how many documents and rows there are instead."""
        read: dict[str, Any] = {"documents": snapshot.documents}
        if self.is_partial:
            read |= {"in_collection": source.estimated_count(), "in_table": self.reader.estimated_count()}
        else:
            columns = [column for column in self.row_schema.values if snapshot.found.get(column.name) == 0]
            read["found"] = dict(snapshot.found)
            read["advice"] = {column.name: snapshot.sample.advice(column) for column in columns}
            read["product"] = [asdict(value) for value in snapshot.sample.product]
        self.files.write_json(store.SOURCE_COUNT, read)

    def with_filtered_out(self, snapshot: SourceSnapshot, source: Source) -> SourceSnapshot:
        """A partial run does not know which documents of the collection the filter leaves out. Nothing depends on the
        number, and all documents are read by now, so a failure to count is no error."""
        if self.is_partial or not self.row_schema.filter:
            return snapshot
        try:
            documents, is_exact = source.whole_count()
        except ProductSyncError as error:
            _LOGGER.warning("The documents that the filter leaves out could not be counted: %s", error)
            return snapshot
        left_out = max(documents - snapshot.documents, 0)
        return replace(snapshot, filtered_out=left_out) if is_exact else replace(snapshot, filtered_out_about=left_out)

    def unmatched(self, source: RunFiles, target_rows: Path) -> tuple[Path, Path] | None:
        """The rows without an equal partner, if `snapshot_both` of this run has read these two snapshots."""
        return self._both_files(source, target_rows).found_unmatched()

    def _both_files(self, source: RunFiles, target_rows: Path) -> BothFiles:
        first, second = (self.files.path(name) for name in store.UNMATCHED_ROWS)
        return BothFiles(source.path(store.SOURCE_ROWS), source.path(store.REJECTS), target_rows, (first, second))

    # Decide.

    def diff(self) -> DiffSummary:
        """Compare the newest snapshots, this run's first, and write every difference down. Raises `ChecksFailed` for a
        source snapshot that does not look complete."""
        started = self.timing.monotonic()
        source, target = self.newest(store.SOURCE_COUNT), self.newest(store.TARGET_ROWS)
        pending_diff.require(read_back.check_source(self, source))
        if source == target == self.files and self.files.has(store.CUT):
            found = shards.diff(self)
        else:
            found = self.described(self.compare(source, target))
        self.files.write_json(store.DIFF_COUNTS, found)
        duration_s = self.timing.monotonic() - started
        return DiffSummary(DiffCounts(**found["counts"]), found["changed"], read_back.first_differing(self), duration_s)

    def described(self, counts: DiffCounts) -> dict[str, Any]:
        """What is noted of the diff in the files of this run: the counts, by column in how many of the changed rows it
        differs, and the first rows."""
        path, row_schema = self.files.path(store.DIFF), self.row_schema
        first = [asdict(difference) for difference in first_differences(path, row_schema)]
        return {"counts": asdict(counts), "changed": changed_columns(path, row_schema), "first": first}

    def compare(self, source: RunFiles, target: RunFiles) -> DiffCounts:
        """Compare the snapshots of two runs, and write every difference into the files of this one."""
        source_rows, target_rows = source.path(store.SOURCE_ROWS), target.path(store.TARGET_ROWS)
        taken_at = min(pending_diff.taken_at(source_rows), pending_diff.taken_at(target_rows))
        return diff(
            self.row_schema,
            source_rows,
            source.path(store.REJECTS),
            target_rows,
            self.previous_quarantine,
            self.files.path(store.DIFF),
            metadata={**self.metadata, TAKEN_AT: taken_at.isoformat(), pending_diff.SOURCE_RUN: source.run_id},
            unmatched=self.unmatched(source, target_rows),
        )

    # What the steps share.

    def publish_unfinished(self) -> None:
        """Let later steps and runs know what a load that ends with an error has done so far."""
        try:
            with local_storage(self.folder.root):
                self.files.publish(store.LOAD_BEGAN, store.LOAD_RESULT)
        except ProductSyncError as error:
            _LOGGER.warning("What this step has done could not be stored: %s", error)

    @property
    def is_partial(self) -> bool:
        return self.settings.is_partial

    @cached_property
    def scope(self) -> Scope:
        labels = self.databases.definition.labels
        if self.settings.changes:
            found: Ids = change_pass.of(self.files).scope
        elif self.settings.ids:
            found = named_ids(self.settings.ids)
        else:
            return EVERYTHING
        return replace(found, called=(labels.item, labels.items))

    @property
    def name(self) -> str:
        return self.databases.definition.name

    @property
    def commands(self) -> SyncCommands:
        return self.databases.definition.commands

    @property
    def row_schema(self) -> RowSchema:
        return self.databases.row_schema

    @property
    def metadata(self) -> dict[str, str]:
        return {STATE_KEY: self.folder.key, RUN_ID: self.files.run_id}

    @property
    def previous_quarantine(self) -> Path | None:
        return self.folder.sound_quarantine()

    def source(self) -> AbstractContextManager[Source]:
        return self.databases.open_source(self.timing, self.part or self.scope)

    @property
    def reader(self) -> TargetReader:
        return self.databases.reader(self._hear_wait, self.part or self.scope)

    def writer(self, *, probing: bool = False, shares_lock: bool = False) -> PostgresWriter:
        return PostgresWriter(
            self.databases.target,
            self.row_schema,
            run_id=self.files.run_id,
            flush_within_s=flush_within_s(self.settings),
            lock_wait_s=self.settings.lock_wait_s,
            on_wait=self._hear_wait,
            probing=probing,
            shares_lock=shares_lock,
        )

    def _hear_wait(self, note: str) -> None:
        self.on_progress(waiting(WAIT_STAGE, note))

    @property
    def load_policy(self) -> LoadPolicy:
        return LoadPolicy(
            source_recheck_after_s=self.settings.source_recheck_after_s,
            isolated_rows=self.settings.max_isolated_rows,
            retry=RetryPolicy(total_s=self.settings.retry_s),
            only_as_planned=self.settings.plan is not None,
        )

    def pending(self) -> PendingDiff:
        pending_diff.require(read_back.check_change(self))
        return pending_diff.newest_diff(self.folder, self.newest(store.DIFF_COUNTS), self.timing.now())

    def target_health(self) -> TargetHealth:
        return health(self.databases.target, self.row_schema)

    def newest(self, name: str) -> RunFiles:
        """The run whose file ``name`` is used. A re-executed run first makes the files of the steps that were left out:
        the files of an earlier run are out of date and may be the reason for its failure."""
        missed = _MADE_BY.get(name)
        if self.is_reexecution and missed is not None and not self.files.has(name):
            missed(self)
        return pending_diff.newest(self.folder, self.files, name, only_own=self.is_partial)


#: The method that makes each file.
_MADE_BY: Mapping[str, Callable[[SyncRun], object]] = {
    store.SOURCE_COUNT: SyncRun.snapshot_both,
    store.TARGET_ROWS: SyncRun.snapshot_both,
    store.DIFF_COUNTS: SyncRun.diff,
}


def open_sync_run(
    databases: Databases,
    settings: RunOptions,
    *,
    state_root: Path,
    run_id: str,
    on_progress: OnProgress,
    timing: Timing = SYSTEM_TIMING,
    on_load: OnLoad = _ignore_load,
    is_reexecution: bool = False,
) -> SyncRun:
    """Open the state folder that belongs to these two sides. Raises `ConfigurationError` if it cannot be used.
    ``on_load`` is given the result of the load when that begins; the load counts in it as it goes."""
    folder = StateFolder(state_root, databases.state_key)
    if mirror := mirror_of(state_root):
        mirror.objects.retry_s = settings.retry_s
    files = folder.begin(run_id, timing.now(), partial=settings.is_partial)
    note_sides(folder, sides_key(databases))

    def report(progress: Progress) -> None:
        files.touch(timing.now())
        on_progress(progress)

    return SyncRun(databases, settings, folder, files, report, timing, on_load, is_reexecution)


def require_writable(databases: Databases) -> None:
    """Raise the problem that would keep every sync from writing to the target."""
    if problem := health(databases.target, databases.row_schema).problem:
        raise problem
