"""Narrows a fresh diff to the rows of a plan that a person has approved.

Events arrive between a dry run and its execution. A row is written only if both sides still hold what the plan shows:
the same operation, the same new values and the same old values. Otherwise differences would be written that nobody has
approved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.diff_rows import diff_file
from product_sync.compare.key_ranges import FileInput, by_key
from product_sync.compare.rule import same, same_values
from product_sync.load.batching import count_rows
from product_sync.schema.records import Op
from product_sync.schema.row_schema import ID_TYPE, RowSchema


def keep_planned(
    row_schema: RowSchema, planned: Path, fresh: Path, out: Path, ops: Collection[Op], *, metadata: Mapping[str, str]
) -> int:
    """Writes to ``out`` the rows of the diff ``fresh`` that are in the diff ``planned`` too, in the order of a diff.
    Returns how many planned rows of ``ops`` are not among them, because they have changed since, on either side. For an
    update, columns that are never updated do not count."""
    inputs = [FileInput(path, row_schema.diff_schema, "id") for path in (fresh, planned)]
    with diff_file(out, row_schema, out.parent, metadata=metadata) as kept:
        for now, before in by_key(inputs, out.parent):
            for kind in _kinds(_as_planned(row_schema, now, before)):
                kept.add(*kind)
    return count_rows(planned, ops) - count_rows(out, ops)


def _as_planned(row_schema: RowSchema, fresh: pa.Table, planned: pa.Table) -> pa.Table:
    """The rows of ``fresh`` that are in ``planned`` too. An id has one row at most in each."""
    places = pc.index_in(fresh["id"], value_set=planned["id"].combine_chunks())
    is_known = pc.is_valid(places)
    fresh, planned = fresh.filter(is_known), planned.take(places.drop_null())
    is_same = pc.and_(pc.equal(fresh["op"], planned["op"]), same(fresh[ID_TYPE], planned[ID_TYPE]))
    for side in (diff_rows.new_rows, diff_rows.old_rows):
        now, before = side(fresh, row_schema), side(planned, row_schema)
        all_same = same_values(now, before, row_schema.values)
        compared_same = same_values(now, before, row_schema.compared)
        is_same = pc.and_(is_same, pc.if_else(pc.equal(fresh["op"], Op.UPDATE), compared_same, all_same))
    return fresh.filter(is_same)


def _kinds(rows: pa.Table) -> Iterator[tuple[bool, Op, pa.Table]]:
    """The rows by whether they were refused before, and by op; in each the ids rise."""
    is_refused = rows["refused_before"].to_numpy()
    ops = np.array(rows["op"].to_pylist(), object)
    for refused in (False, True):
        for op in Op:
            chosen = rows.filter(pa.array((is_refused == refused) & (ops == op)))
            if chosen.num_rows:
                yield refused, op, chosen.take(pc.sort_indices(chosen["id"]))
