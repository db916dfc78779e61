"""Writes one batch of the diff, and accounts for each of its rows.

A row that was to be written and is not is a conflict if somebody else has changed it, and quarantined if the database
refused or swallowed it (design section 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows, quarantine
from product_sync.compare.rule import same_values
from product_sync.conversion.extended_json import cut
from product_sync.conversion.ids import source_key, to_bson
from product_sync.errors import ForeignKeyRefused, LoadStopped, PrivilegeMissing, RowsExcluded, RowsRefused
from product_sync.load.deletion import confirmed_absent, present_in_source
from product_sync.load.exclusions import explain_exclusion
from product_sync.load.postponed_rows import PostponedRows
from product_sync.load.recheck import Rechecked, recheck
from product_sync.load.result import LoadResult
from product_sync.load.transactions import Transactions
from product_sync.results import ExclusionReport
from product_sync.runtime import prefetch
from product_sync.runtime.row_log import RowLog
from product_sync.runtime.signals import defer_interrupts
from product_sync.schema.obstacle import ObstacleKind
from product_sync.schema.ports import Source, WriteBatch, Written
from product_sync.schema.records import Defect, Op, Reason, Reject, Stage
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import TableSink

_LOGGER = logging.getLogger(__name__)
#: The check that is left to do after a batch commits.
PostCommitCheck = Callable[[], None]
#: Postponed rows whose documents are read again at once.
_READ_ROWS: Final = 2_000
#: Excluded rows that are explained one by one, and refusals that are remembered for it.
_KEPT_EXCLUSIONS, _KEPT_ANSWERS = 20, 1_000
_SWALLOWED: Final = (
    "The statement succeeded, but the row is not there: a trigger or a rule of the table has swallowed it."
)


@dataclass
class BatchWork:
    """Writes, takes back and deletes rows. Counts them in ``result`` and writes refused ones to ``rejects``. Rows that
    another row keeps out are added to ``postponed``, for `excluded_rows`. More than ``max_isolated`` refused or
    swallowed rows raise `LoadStopped`: then the rows are not the cause."""

    row_schema: RowSchema
    source: Source
    transactions: Transactions
    rejects: TableSink
    result: LoadResult
    postponed: PostponedRows
    max_isolated: int
    only_as_planned: bool
    repeats: bool
    _isolated: int = 0
    _answers: dict[str, str] = field(default_factory=dict)
    _row_log: RowLog = field(default_factory=partial(RowLog, _LOGGER))

    def __post_init__(self) -> None:
        self._key = self.row_schema.key.name
        empty = self.row_schema.target_schema.empty_table()
        #: A batch without rows.
        self.nothing = WriteBatch(empty, empty, empty, empty)

    def recheck(self, rows: pa.Table, *, inserts_are_old: bool) -> Rechecked:
        """What is still to be written. With ``inserts_are_old`` the inserts are read again too. Counts nothing."""
        return recheck(
            rows, self.row_schema, self.source, inserts_too=inserts_are_old, only_as_planned=self.only_as_planned
        )

    def write(self, rows: pa.Table, rechecked: Rechecked) -> PostCommitCheck | None:
        """Inserts and updates. Returns the check that is left to do, if any; it waits for the source, which has been
        asked."""
        self._count_rechecked(rechecked)
        return self._write(rows, rechecked.batch)

    def _count_rechecked(self, rechecked: Rechecked) -> None:
        self.result.conflicts += rechecked.conflicts
        self.result.skipped_since_plan += rechecked.skipped
        if rechecked.rejects:
            self.result.quarantined += len(rechecked.rejects)
            self.rejects.write(quarantine.rejects_batch(self.row_schema, rechecked.rejects, Stage.CONVERT))

    def _write(self, rows: pa.Table, batch: WriteBatch) -> PostCommitCheck | None:
        check = None
        with defer_interrupts() as counted:
            for part, outcome in self.transactions.write_or_bisect(batch):
                if isinstance(outcome, RowsExcluded):
                    self._postpone_part(rows, part, outcome)
                elif isinstance(outcome, RowsRefused):
                    self.quarantine_refused(rows, part, outcome)
                else:
                    self.result.inserted += len(outcome.inserted)
                    self.result.updated += len(outcome.updated)
                    counted()
                    if len(outcome.inserted) == rows.num_rows:
                        all_exist = prefetch.run_in_thread(partial(self.source.all_exist, rows))
                        check = partial(self._take_back_unless, all_exist, rows, part)
                    else:
                        self._take_back(self._gone(diff_rows.with_ids(rows, "id", outcome.inserted)), part)
                        self._explain_unwritten(rows, part, outcome)
        return check

    def delete(self, rows: pa.Table) -> None:
        """Deletes the extra rows for which no document exists."""
        extra = confirmed_absent(rows, self.source)
        self.result.conflicts += rows.num_rows - extra.num_rows
        doomed = diff_rows.old_rows(extra, self.row_schema)
        if self.repeats:
            left = self.transactions.fetch(doomed[self._key].to_pylist())[self._key].to_pylist()
            self.result.deleted += doomed.num_rows - len(left)
            doomed = diff_rows.with_ids(doomed, self._key, left)
        self._delete_extra(extra, doomed)

    def _delete_extra(self, rows: pa.Table, doomed: pa.Table) -> None:
        with defer_interrupts() as counted:
            for asked, deleted in self._delete(doomed, rows):
                self.result.deleted += len(deleted)
                self.result.count_overtaken(asked - deleted)
                counted()

    def _delete(self, doomed: pa.Table, rows: pa.Table | None = None) -> Iterator[tuple[set[str], set[str]]]:
        """Deletes rows (``RowSchema.target_schema``) by compare-and-swap. Yields for each transaction the ids of the
        rows that it was to delete, and of those that it deleted. Rows that the database does not let go are counted as
        kept; with ``rows`` of the diff, those that other rows of the table refer to are postponed."""
        for part, outcome in self.transactions.write_or_bisect(replace(self.nothing, deletes=doomed)):
            if not isinstance(outcome, RowsRefused):
                yield {*part.deletes[self._key].to_pylist()}, {*outcome.deleted}
            elif rows is not None and isinstance(outcome, RowsExcluded) and outcome.obstacles:
                self._postpone_part(rows, part, outcome)
            else:
                is_referenced = isinstance(outcome, ForeignKeyRefused)
                if is_referenced:
                    self.result.kept_referenced += part.num_rows
                else:
                    self.result.kept_undeletable += part.num_rows
                why = "another row or table references it." if is_referenced else outcome
                for row_id in part.deletes[self._key].to_pylist():
                    self._row_log.warning("Row %s stays: %s", cut(row_id), why)

    def read_again(self, rows: pa.Table) -> WriteBatch:
        """What is still to be done about postponed rows. Counts the rows that are settled."""
        extra = diff_rows.of_op(rows, Op.EXTRA)
        doomed = confirmed_absent(extra, self.source) if extra.num_rows else extra
        wanted = rows.filter(pc.not_equal(rows["op"], str(Op.EXTRA)))
        parts = [
            self.recheck(wanted.slice(start, _READ_ROWS), inserts_are_old=True)
            for start in range(0, wanted.num_rows, _READ_ROWS)
        ]
        for part in parts:
            self._count_rechecked(part)
        self.result.conflicts += extra.num_rows - doomed.num_rows
        return WriteBatch(
            inserts=pa.concat_tables([self.nothing.inserts, *(part.batch.inserts for part in parts)]),
            new=pa.concat_tables([self.nothing.new, *(part.batch.new for part in parts)]),
            old=pa.concat_tables([self.nothing.old, *(part.batch.old for part in parts)]),
            deletes=diff_rows.old_rows(doomed, self.row_schema),
        )

    def write_postponed(self, rows: pa.Table, part: WriteBatch) -> None:
        """Writes rows that wait for no other row any more. Rows that are refused again are postponed again."""
        deletes = part.deletes
        if part.num_rows > deletes.num_rows:
            check = self._write(rows, replace(part, deletes=deletes.slice(0, 0)))
            if check is not None:
                check()
        if deletes.num_rows:
            self._delete_extra(rows, deletes)

    def write_in_order(self, rows: pa.Table, steps: Sequence[WriteBatch]) -> bool:
        """Writes ``steps`` in one transaction. Returns false and writes nothing if a row has changed since the read."""
        with defer_interrupts() as counted:
            written = self.transactions.write_in_order(steps)
            self.result.inserted += len(written.inserted)
            self.result.updated += len(written.updated)
            self.result.deleted += len(written.deleted)
            counted()
        if written.inserted:
            inserts = replace(self.nothing, inserts=pa.concat_tables([step.inserts for step in steps]))
            self._take_back(self._gone(diff_rows.with_ids(rows, "id", written.inserted)), inserts)
        return written.num_rows > 0

    def without_changed(self, part: WriteBatch) -> set[str]:
        """The ids of the rows that are unchanged in the target. The others are counted as conflicts."""
        seen = pa.concat_tables([part.old, part.deletes])
        ids = seen[self._key].to_pylist()
        to_insert = part.inserts[self._key].to_pylist()
        now = self.transactions.fetch([*to_insert, *ids])
        unchanged = same_values(diff_rows.aligned(now, self._key, ids), seen, self.row_schema.compared)
        left = {*to_insert} - {*now[self._key].to_pylist()} | {*seen.filter(unchanged)[self._key].to_pylist()}
        self.result.count_overtaken({*part.ids(self._key)} - left)
        return left

    def quarantine_refused(self, rows: pa.Table, part: WriteBatch, refusal: RowsRefused) -> None:
        """Quarantines the only row of ``part``, which the database refuses whatever other rows there are."""
        if part.deletes.num_rows:
            self.result.kept_undeletable += 1
            return
        self._isolate(rows, pa.concat_tables([part.inserts, part.new]), Reason.REFUSED_BY_DATABASE, refusal.message)

    def postpone(self, rows: pa.Table, answer: str = "") -> None:
        """Leaves rows of the diff for later. ``answer`` says why, if the obstacles of a row do not."""
        if not rows.num_rows:
            return
        self.postponed.add(rows)
        for row_id in diff_rows.ids(rows) if answer else ():
            if row_id in self._answers or len(self._answers) < _KEPT_ANSWERS:
                self._answers[row_id] = answer

    def _postpone_part(self, rows: pa.Table, part: WriteBatch, refusal: RowsExcluded) -> None:
        answer = "" if refusal.obstacles else refusal.message
        self.postpone(diff_rows.with_ids(rows, "id", part.ids(self._key)), answer)
        if answer:
            self._count_isolated(answer)

    def exclude(self, rows: pa.Table, waiting: Collection[str]) -> None:
        """Counts postponed rows that cannot be written, and explains the first ones. ``waiting`` has all their ids."""
        extra = diff_rows.of_op(rows, Op.EXTRA)
        wanted = rows.filter(pc.not_equal(rows["op"], str(Op.EXTRA)))
        explained = wanted.slice(0, max(_KEPT_EXCLUSIONS - len(self.result.exclusions), 0))
        exclusions = self._explained(explained, waiting)
        self.result.kept_referenced += extra.num_rows
        self.result.excluded += wanted.num_rows
        self.result.exclusions += exclusions
        for row_id in diff_rows.ids(extra):
            self._row_log.warning("Row %s stays: another row references it.", cut(row_id))
        for exclusion in exclusions:
            _LOGGER.warning("Row %s", exclusion.message)
        if wanted.num_rows > explained.num_rows:
            _LOGGER.warning("%d more rows are kept out by other rows.", wanted.num_rows - explained.num_rows)

    def _explained(self, rows: pa.Table, waiting: Collection[str]) -> list[ExclusionReport]:
        if not rows.num_rows:
            return []
        inserts, updates = diff_rows.of_op(rows, Op.INSERT), diff_rows.of_op(rows, Op.UPDATE)
        batch = replace(
            self.nothing,
            inserts=diff_rows.new_rows(inserts, self.row_schema),
            new=diff_rows.new_rows(updates, self.row_schema),
            old=diff_rows.old_rows(updates, self.row_schema),
        )
        found = {obstacle.row: obstacle for obstacle in reversed(self.transactions.obstacles(batch))}
        others = sorted({obstacle.other for obstacle in found.values() if obstacle.kind is ObstacleKind.HELD})
        in_source = present_in_source(others, self.source) if others else set[str]()
        return [
            explain_exclusion(row_id, found.get(row_id), self._answers.get(row_id, ""), waiting, in_source)
            for row_id in diff_rows.ids(rows)
        ]

    def _take_back_unless(self, all_exist: Future[bool], inserted: pa.Table, part: WriteBatch) -> None:
        if not all_exist.result():
            self._take_back(self._absent(inserted), part)

    def _take_back(self, gone: set[str], part: WriteBatch) -> None:
        """Deletes rows that were inserted for products that are gone: their delete events may have come first."""
        if not gone:
            return
        doomed = diff_rows.with_ids(part.inserts, self._key, gone)
        kept_before = self.result.kept
        try:
            with defer_interrupts() as counted:
                for _, deleted in self._delete(doomed):
                    self.result.taken_back += len(deleted)
                    counted()
        except PrivilegeMissing as error:
            self.result.kept_undeletable += doomed.num_rows
            _LOGGER.warning(
                "%d products were deleted while they were inserted; their rows stay: %s Rows: %s",
                doomed.num_rows,
                error,
                ", ".join(cut(row_id) for row_id in sorted(gone)),
            )
        finally:
            self.result.not_taken_back += self.result.kept - kept_before

    def _gone(self, rows: pa.Table) -> set[str]:
        """The ids of diff rows for which no document exists any more."""
        return set() if not rows.num_rows or self.source.all_exist(rows) else self._absent(rows)

    def _absent(self, rows: pa.Table) -> set[str]:
        asked = diff_rows.source_ids(rows)
        return {source_id.text for source_id in asked} - {found.text for found in self.source.existing(asked)}

    def _explain_unwritten(self, rows: pa.Table, part: WriteBatch, written: Written) -> None:
        """Tells conflicts from rows that a trigger swallowed."""
        if len(written.inserted) + len(written.updated) == part.num_rows:
            return
        inserts = part.inserts.filter(self._not_in(part.inserts, written.inserted))
        not_updated = self._not_in(part.new, written.updated)
        new, old = part.new.filter(not_updated), part.old.filter(not_updated)
        wanted = [*inserts[self._key].to_pylist(), *new[self._key].to_pylist()]
        now = diff_rows.aligned(self.transactions.fetch(wanted), self._key, wanted)
        is_there = pc.is_valid(now[self._key])
        now_updated, updated_is_there = now.slice(inserts.num_rows), is_there.slice(inserts.num_rows)
        untouched = pc.and_(updated_is_there, same_values(now_updated, old, self.row_schema.compared))
        absent = inserts.filter(pc.invert(is_there.slice(0, inserts.num_rows)))
        # A row that was there at the insert and is not there now was deleted by its event: its product is gone too.
        gone = self._gone(diff_rows.with_ids(rows, "id", absent[self._key].to_pylist()))
        swallowed = pa.concat_tables([absent.filter(self._not_in(absent, gone)), new.filter(untouched)])
        settled = {*swallowed[self._key].to_pylist()}
        if self.repeats:
            is_done = pc.and_(is_there, same_values(now, pa.concat_tables([inserts, new]), self.row_schema.compared))
            inserted = inserts.filter(is_done.slice(0, inserts.num_rows))
            updated = new.filter(is_done.slice(inserts.num_rows))
            self._count_written_before(rows, part, inserted, updated)
            settled |= {*inserted[self._key].to_pylist(), *updated[self._key].to_pylist()}
        self.result.count_overtaken({*wanted} - settled)
        for index in range(swallowed.num_rows):
            self._isolate(rows, swallowed.slice(index, 1), Reason.SUPPRESSED_BY_DATABASE, _SWALLOWED)

    def _count_written_before(self, rows: pa.Table, part: WriteBatch, inserted: pa.Table, updated: pa.Table) -> None:
        """Counts rows of an earlier attempt, which may have ended before it looked for deleted products."""
        self.result.inserted += inserted.num_rows
        self.result.updated += updated.num_rows
        self._take_back(self._gone(diff_rows.with_ids(rows, "id", inserted[self._key].to_pylist())), part)

    def _not_in(self, table: pa.Table, ids: Iterable[str]) -> pa.ChunkedArray:
        return pc.invert(pc.is_in(table[self._key], value_set=pa.array(ids, pa.string())))

    def _isolate(self, rows: pa.Table, row: pa.Table, reason: Reason, answer: str) -> None:
        """Quarantines one row (``RowSchema.target_schema``) that the database did not take."""
        source_id = diff_rows.source_ids(diff_rows.with_ids(rows, "id", row[self._key].to_pylist()))[0]
        self._row_log.warning("Row %s goes to the quarantine: %s", cut(source_id.text), answer)
        self.result.quarantined += 1
        reject = Reject(source_key(to_bson(source_id)), source_id, (Defect(self._key, reason, cut(answer)),))
        self.rejects.write(quarantine.rejects_batch(self.row_schema, [reject], Stage.LOAD, row))
        self._count_isolated(answer)

    def _count_isolated(self, answer: str) -> None:
        self._isolated += 1
        if self._isolated > self.max_isolated:
            raise too_many_refused(f"The database refused {self._isolated} rows, the last one with: {answer}")


def too_many_refused(message: str) -> LoadStopped:
    return LoadStopped(
        message,
        hint="So many refusals are not the fault of the rows. Compare the mapping with the table's constraints and"
        " triggers, then start the sync again.",
    )
