"""The rule of the comparison: which rows are missing, changed or extra, and when two values are the same.

A difference that this rule overlooks is neither reported nor repaired. So it compares canonical values exactly, never
hashes of them. It works in memory, on the rows of one range of ids (`key_ranges`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.compare.diff_rows import SOURCE_ID, TARGET_ID, diff_table
from product_sync.compare.key_ranges import rises
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowColumn, RowSchema

Marks = NDArray[np.bool_]


def compare_rows(
    row_schema: RowSchema, source: pa.Table, target: pa.Table, rejected: pa.Array, refused: pa.Table
) -> Iterator[tuple[bool, Op, pa.Table]]:
    """The differences between two sets of rows, as tables of ``RowSchema.diff_schema`` with rising ids.

    Each table comes with its op, and with whether the database refused its rows before with the same values.
    ``source`` has ``RowSchema.source_schema``, ``target`` ``RowSchema.target_schema``. Rows whose ids are in
    ``rejected`` are left out; every other id stands once on each side. ``refused`` has the values that the database
    refused (`quarantine.refused_input`).
    """
    source, target = _in_order(source, SOURCE_ID, rejected), _in_order(target, TARGET_ID, rejected)
    places = partners(source.column(SOURCE_ID), target.column(TARGET_ID))
    is_in_both = places >= 0

    yield from _by_refusal(row_schema, Op.INSERT, chosen(source, ~is_in_both), None, refused)

    if is_in_both.any():
        new, old = chosen(source, is_in_both), taken(target, places[is_in_both])
        differs = ~same_values(_values(new, row_schema), old, row_schema.compared).to_numpy()
        if differs.any():
            yield from _by_refusal(row_schema, Op.UPDATE, chosen(new, differs), chosen(old, differs), refused)

    is_extra = np.ones(target.num_rows, dtype=bool)
    is_extra[places[is_in_both]] = False
    if is_extra.any():
        yield False, Op.EXTRA, diff_table(row_schema, Op.EXTRA, None, chosen(target, is_extra), refused=False)


def same_values(left: pa.Table, right: pa.Table, columns: Iterable[RowColumn]) -> pa.ChunkedArray:
    """Per row: whether all ``columns`` hold the same value on both sides."""
    always = pa.chunked_array([pa.array(np.ones(left.num_rows, dtype=bool))], pa.bool_())
    return reduce(pc.and_, (same(left[column.name], right[column.name]) for column in columns), always)


def same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    """Per row: whether two values are the same. Two NULLs are the same, and so are two NaNs, as for PostgreSQL's
    IS NOT DISTINCT FROM."""
    equal = pc.equal(left, right)
    if equal.null_count:
        equal = pc.or_(pc.fill_null(equal, False), pc.and_(pc.is_null(left), pc.is_null(right)))
    if pa.types.is_floating(left.type):
        both_nan = pc.and_(pc.fill_null(pc.is_nan(left), False), pc.fill_null(pc.is_nan(right), False))
        return pc.or_(equal, both_nan)
    return equal


def _by_refusal(
    row_schema: RowSchema, op: Op, new: pa.Table, old: pa.Table | None, refused: pa.Table
) -> Iterator[tuple[bool, Op, pa.Table]]:
    is_refused = _is_refused(row_schema, new, refused)
    for mark in (False, True):
        marks = is_refused == mark
        if marks.any():
            of_old = None if old is None else chosen(old, marks)
            yield mark, op, diff_table(row_schema, op, chosen(new, marks), of_old, refused=mark)


def _is_refused(row_schema: RowSchema, new: pa.Table, refused: pa.Table) -> Marks:
    """Which rows have the values that the database refused before."""
    if not refused.num_rows or not new.num_rows:
        return np.zeros(new.num_rows, dtype=bool)
    places = partners(_typed_ids(new), _typed_ids(refused))
    marks: Marks = places >= 0
    if marks.any():
        before, now = taken(refused, places[marks]), chosen(new, marks)
        same = same_values(_values(now, row_schema), _values(before, row_schema), row_schema.values)
        marks[marks] = same.to_numpy()
    return marks


def _values(rows: pa.Table, row_schema: RowSchema) -> pa.Table:
    """Rows of ``RowSchema.source_schema`` without the type of the ``_id``: a column of the target may have its name."""
    return pa.Table.from_arrays(rows.columns[1:], schema=row_schema.target_schema)


def _typed_ids(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows.column(0), rows.column(SOURCE_ID), " ")


def _in_order(rows: pa.Table, id_place: int, rejected: pa.Array) -> pa.Table:
    """The rows that are not rejected, by id."""
    if len(rejected):
        rows = rows.filter(pc.invert(pc.is_in(rows.column(id_place), value_set=rejected)))
    rows = rows.combine_chunks()
    if not rows.num_rows or rises(rows.column(id_place).chunk(0)):
        return rows
    return rows.take(pc.sort_indices(rows.column(id_place)))


def partners(wanted: pa.ChunkedArray, given: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each of ``wanted`` its place in ``given``, or -1."""
    if len(wanted) == len(given) and pc.all(pc.equal(wanted, given), min_count=0).as_py():
        return np.arange(len(wanted))
    found = pc.index_in(wanted, value_set=given.combine_chunks())
    places: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return places


def chosen(rows: pa.Table, marks: Marks) -> pa.Table:
    return rows if marks.all() else rows.filter(pa.array(marks))


def taken(rows: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    is_all = len(places) == rows.num_rows and bool((places == np.arange(len(places))).all())
    return rows if is_all else rows.take(pa.array(places))
