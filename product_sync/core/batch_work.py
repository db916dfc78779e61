"""What the load does with one batch of the diff, and where each of its rows ends.

A row that was asked for and not written is never just gone: it is a conflict if somebody else was there, and
quarantined if the database refused or swallowed it (design section 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.core import ahead, diff_rows, quarantine
from product_sync.core.conversion import source_key, to_bson
from product_sync.core.deletion import confirmed_absent
from product_sync.core.errors import EveryBatchWouldFail, LoadStopped, RowsRefused
from product_sync.core.extended_json import cut
from product_sync.core.interrupts import counting
from product_sync.core.layout import Layout
from product_sync.core.load_result import LoadResult
from product_sync.core.model import Defect, Reason, Reject, Stage
from product_sync.core.ports import Source, WriteBatch, Written
from product_sync.core.recheck import Rechecked, recheck
from product_sync.core.tables import ParquetSink
from product_sync.core.transactions import Transactions

#: A row that another table references: foreign_key_violation, and restrict_violation of ON DELETE RESTRICT
#: (PostgreSQL manual, appendix A).
_REFERENCED = frozenset({"23503", "23001"})
_NO_PRIVILEGE = "42501"
#: What is left of a batch whose rows are in the target.
FollowUp = Callable[[], None]
_SWALLOWED = "The statement succeeded, but the row is not there: a trigger or a rule of the table has swallowed it."


class BatchWork:
    """Writes, takes back and deletes; keeps the counts of ``result`` and writes to ``rejects``.

    More than ``max_isolated`` refused or swallowed rows raise `LoadStopped`: then it is not the rows.
    """

    def __init__(
        self,
        layout: Layout,
        source: Source,
        transactions: Transactions,
        rejects: ParquetSink,
        result: LoadResult,
        *,
        max_isolated: int,
        only_as_planned: bool,
        logger: logging.Logger,
    ) -> None:
        self._layout = layout
        self._key = layout.key.name
        self._source = source
        self._transactions = transactions
        self._rejects = rejects
        self._result = result
        self._max_isolated = max_isolated
        self._only_as_planned = only_as_planned
        self._isolated = 0
        self._logger = logger

    def recheck(self, rows: pa.Table, *, inserts_are_old: bool) -> Rechecked:
        """What is still right to write; ``inserts_are_old`` has the inserts read again too. Counts nothing."""
        return recheck(
            rows, self._layout, self._source, inserts_too=inserts_are_old, only_as_planned=self._only_as_planned
        )

    def write(self, rows: pa.Table, rechecked: Rechecked) -> FollowUp | None:
        """Insert and update. Returns what is left to do, if anything: it waits for a look at the source, which has
        begun."""
        follow_up = None
        self._result.conflicts += rechecked.conflicts
        self._result.skipped_since_plan += rechecked.skipped
        if rechecked.rejects:
            self._result.quarantined += len(rechecked.rejects)
            self._rejects.write(quarantine.rejects_batch(self._layout, rechecked.rejects, Stage.CONVERT))
        with counting() as counted:
            for part, outcome in self._transactions.isolate(rechecked.batch):
                if isinstance(outcome, RowsRefused):
                    refused = pa.concat_tables([part.inserts, part.new])
                    self._isolate(rows, refused, Reason.REFUSED_BY_DATABASE, _answer(outcome))
                else:
                    self._result.inserted += len(outcome.inserted)
                    self._result.updated += len(outcome.updated)
                    counted()
                    if len(outcome.inserted) == rows.num_rows:
                        all_exist = ahead.begin(partial(self._source.all_exist, rows))
                        follow_up = partial(self._take_back_unless, all_exist, rows, part)
                    else:
                        self._take_back(self._gone(diff_rows.with_ids(rows, "id", outcome.inserted)), part)
                        self._explain_unwritten(rows, part, outcome)
        return follow_up

    def delete(self, rows: pa.Table) -> None:
        """Delete the extra rows that no document stands for any more."""
        extra = confirmed_absent(rows, self._source)
        self._result.conflicts += rows.num_rows - extra.num_rows
        with counting() as counted:
            for asked, deleted in self._delete(diff_rows.old_rows(extra, self._layout)):
                self._result.deleted += deleted
                self._result.conflicts += asked - deleted
                counted()

    def _delete(self, doomed: pa.Table) -> Iterator[tuple[int, int]]:
        """Delete rows (``Layout.target_schema``) by compare-and-swap; yields for each transaction how many rows
        it was asked to delete and how many it did. Rows that the database holds on to are counted here."""
        nothing = self._layout.target_schema.empty_table()
        for part, outcome in self._transactions.isolate(WriteBatch(nothing, nothing, nothing, doomed)):
            if not isinstance(outcome, RowsRefused):
                yield part.num_rows, len(outcome.deleted)
            elif outcome.sqlstate in _REFERENCED:
                self._result.kept_referenced += 1
                self._logger.warning(
                    "Row %s stays: another table references it.", cut(part.deletes[self._key][0].as_py())
                )
            else:
                self._result.kept_undeletable += 1
                self._logger.warning("Row %s stays: %s", cut(part.deletes[self._key][0].as_py()), outcome)

    def _take_back_unless(self, all_exist: Future[bool], inserted: pa.Table, part: WriteBatch) -> None:
        if not all_exist.result():
            self._take_back(self._absent(inserted), part)

    def _take_back(self, gone: set[str], part: WriteBatch) -> None:
        """Delete again what was inserted for products that have gone: their delete events may have come first."""
        if not gone:
            return
        doomed = diff_rows.with_ids(part.inserts, self._key, gone)
        try:
            with counting() as counted:
                for _, deleted in self._delete(doomed):
                    self._result.taken_back += deleted
                    counted()
        except EveryBatchWouldFail as error:
            if error.sqlstate != _NO_PRIVILEGE:
                raise
            self._result.kept_undeletable += doomed.num_rows
            self._logger.warning(
                "%d products were deleted while they were inserted; their rows stay: %s Rows: %s",
                doomed.num_rows,
                error,
                ", ".join(cut(row_id) for row_id in sorted(gone)),
            )

    def _gone(self, rows: pa.Table) -> set[str]:
        """The text ids of diff rows for which no document exists any more."""
        return set() if not rows.num_rows or self._source.all_exist(rows) else self._absent(rows)

    def _absent(self, rows: pa.Table) -> set[str]:
        asked = diff_rows.source_ids(rows)
        return {source_id.text for source_id in asked} - {found.text for found in self._source.existing(asked)}

    def _explain_unwritten(self, rows: pa.Table, part: WriteBatch, written: Written) -> None:
        if len(written.inserted) + len(written.updated) == part.num_rows:
            return
        inserts = part.inserts.filter(self._not_in(part.inserts, written.inserted))
        not_updated = self._not_in(part.new, written.updated)
        new, old = part.new.filter(not_updated), part.old.filter(not_updated)
        wanted = [*inserts[self._key].to_pylist(), *new[self._key].to_pylist()]
        now = diff_rows.aligned(self._transactions.fetch(wanted), self._key, wanted)
        is_there = pc.is_valid(now[self._key])
        now_updated, updated_is_there = now.slice(inserts.num_rows), is_there.slice(inserts.num_rows)
        untouched = pc.and_(updated_is_there, diff_rows.same_values(now_updated, old, self._layout.compared))
        absent = inserts.filter(pc.invert(is_there.slice(0, inserts.num_rows)))
        # A row that was there when we inserted and is not now was deleted by its event: its product is gone too.
        gone = self._gone(diff_rows.with_ids(rows, "id", absent[self._key].to_pylist()))
        swallowed = pa.concat_tables([absent.filter(self._not_in(absent, gone)), new.filter(untouched)])
        self._result.conflicts += len(wanted) - swallowed.num_rows
        for index in range(swallowed.num_rows):
            self._isolate(rows, swallowed.slice(index, 1), Reason.SUPPRESSED_BY_DATABASE, _SWALLOWED)

    def _not_in(self, table: pa.Table, ids: Iterable[str]) -> pa.ChunkedArray:
        return pc.invert(pc.is_in(table[self._key], value_set=pa.array(ids, pa.string())))

    def _isolate(self, rows: pa.Table, row: pa.Table, reason: Reason, answer: str) -> None:
        """Quarantine one row (``Layout.target_schema``) that the database would not take."""
        source_id = diff_rows.source_ids(diff_rows.with_ids(rows, "id", row[self._key].to_pylist()))[0]
        self._logger.warning("Row %s goes to the quarantine: %s", cut(source_id.text), answer)
        self._isolated += 1
        self._result.quarantined += 1
        reject = Reject(source_key(to_bson(source_id)), source_id, (Defect(self._key, reason, cut(answer)),))
        self._rejects.write(quarantine.rejects_batch(self._layout, [reject], Stage.LOAD, row))
        if self._isolated > self._max_isolated:
            raise LoadStopped(
                f"The database would not take {self._isolated} rows, the last one with: {answer}",
                hint="So many refusals are not the rows' fault: compare the mapping with the table's constraints"
                " and triggers, then start the sync again.",
            )


def _answer(refusal: RowsRefused) -> str:
    return f"{refusal.sqlstate}: {refusal.message}" if refusal.sqlstate else refusal.message
