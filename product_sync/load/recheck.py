"""Reads the rows of a batch again, just before they are written.

Events arrive while the sync compares. A source that was read before an event, and a target that was read after it,
would turn a newer row back. So the load writes what the source holds now, and only over the target value that was read
(design section 5, "Never over a newer value").
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.rule import same_values
from product_sync.schema.ports import Source, WriteBatch
from product_sync.schema.records import Op, Reject
from product_sync.schema.row_schema import RowSchema


@dataclass(frozen=True, slots=True)
class Rechecked:
    """``batch`` is still to be written. ``conflicts`` counts rows that somebody else has settled meanwhile, ``skipped``
    rows that are no longer as planned. ``rejects`` are documents that cannot be copied any more."""

    batch: WriteBatch
    conflicts: int
    skipped: int
    rejects: tuple[Reject, ...]


def recheck(
    rows: pa.Table, row_schema: RowSchema, source: Source, *, inserts_too: bool, only_as_planned: bool = False
) -> Rechecked:
    """Makes a batch with current values from insert and update rows of the diff.

    Update rows are always read again, insert rows if ``inserts_too``. A document that is gone, or that equals what the
    target held, is a conflict: nothing is written for it. With ``only_as_planned`` nothing is written for a document
    that differs from the values in ``rows`` either.
    """
    inserts, updates = diff_rows.of_op(rows, Op.INSERT), diff_rows.of_op(rows, Op.UPDATE)
    again = pa.concat_tables([updates, inserts]) if inserts_too else updates
    fresh, rejects = row_schema.source_schema.empty_table(), tuple[Reject, ...]()
    if again.num_rows:
        page = source.fetch(diff_rows.source_ids(again))
        fresh, rejects = pa.Table.from_batches([page.rows], row_schema.source_schema), page.rejects
    new = _now(fresh, row_schema, updates)
    old = diff_rows.old_rows(updates, row_schema)
    to_update = pc.and_(_exists(new, row_schema), pc.invert(same_values(new, old, row_schema.compared)))
    inserted = _now(fresh, row_schema, inserts) if inserts_too else diff_rows.new_rows(inserts, row_schema)
    to_insert = _exists(inserted, row_schema)
    wanted = _true(to_update) + _true(to_insert)
    if only_as_planned:
        as_planned = same_values(new, diff_rows.new_rows(updates, row_schema), row_schema.compared)
        to_update = pc.and_(to_update, as_planned)
        as_planned = same_values(inserted, diff_rows.new_rows(inserts, row_schema), row_schema.values)
        to_insert = pc.and_(to_insert, as_planned)
    batch = WriteBatch(
        inserts=diff_rows.where(inserted, to_insert),
        new=diff_rows.where(new, to_update),
        old=diff_rows.where(old, to_update),
        deletes=row_schema.target_schema.empty_table(),
    )
    return Rechecked(batch, rows.num_rows - wanted - len(rejects), wanted - batch.num_rows, rejects)


def _true(marks: pa.ChunkedArray) -> int:
    return int(pc.sum(marks, min_count=0).as_py())


def _now(fresh: pa.Table, row_schema: RowSchema, rows: pa.Table) -> pa.Table:
    """The current values of ``rows`` in their order (``RowSchema.target_schema``), nulls if there is no document."""
    return diff_rows.aligned(fresh, row_schema.key.name, diff_rows.ids(rows)).select(row_schema.target_schema.names)


def _exists(rows: pa.Table, row_schema: RowSchema) -> pa.ChunkedArray:
    return pc.is_valid(rows[row_schema.key.name])
