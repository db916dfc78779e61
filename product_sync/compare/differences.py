"""Decides what differs between the rows of two sides, in memory: the whole rule of the comparison.

Whatever it leaves out is neither reported nor repaired, so it compares nothing but canonical values (`model`), and
exactly: no hashes of values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.compare import diff_rows
from product_sync.compare.key_ranges import rises
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema

Marks = NDArray[np.bool_]
#: Where the id stands in ``RowSchema.source_schema`` and in ``RowSchema.target_schema``.
_SOURCE_ID, _TARGET_ID = 1, 0


def differences(
    row_schema: RowSchema, source: pa.Table, target: pa.Table, rejected: pa.Array, refused: pa.Table
) -> Iterator[tuple[bool, Op, pa.Table]]:
    """The differences of two sets of rows, as tables of ``RowSchema.diff_schema``: each with whether its rows were
    refused before, and their op. In a table the ids rise.

    ``source`` has ``RowSchema.source_schema``, ``target`` ``RowSchema.target_schema``; no id stands twice in one of
    them but those in ``rejected``, which are left out. ``refused`` are the values that the database refused
    (`quarantine.refused_rows`).
    """
    source, target = _in_order(source, _SOURCE_ID, rejected), _in_order(target, _TARGET_ID, rejected)
    places = _places(source.column(_SOURCE_ID), target.column(_TARGET_ID))
    is_in_both = places >= 0

    inserts = _chosen(source, ~is_in_both)
    yield from _by_refusal(row_schema, Op.INSERT, inserts, None, refused)

    if is_in_both.any():
        new, old = _chosen(source, is_in_both), _taken(target, places[is_in_both])
        differs = ~diff_rows.same_values(_values(new, row_schema), old, row_schema.compared).to_numpy()
        if differs.any():
            yield from _by_refusal(row_schema, Op.UPDATE, _chosen(new, differs), _chosen(old, differs), refused)

    is_extra = np.ones(target.num_rows, dtype=bool)
    is_extra[places[is_in_both]] = False
    extra = _chosen(target, is_extra)
    if extra.num_rows:
        yield False, Op.EXTRA, diff_table(row_schema, Op.EXTRA, None, extra, refused=False)


def diff_table(row_schema: RowSchema, op: Op, new: pa.Table | None, old: pa.Table | None, *, refused: bool) -> pa.Table:
    """Rows of a diff, of one op. ``new`` (``RowSchema.source_schema``) and ``old`` (``RowSchema.target_schema``)
    are the same products in the same order; one of them may be ``None``."""
    if new is not None:
        ids = new.column(_SOURCE_ID)
    elif old is not None:
        ids = old.column(_TARGET_ID)
    else:
        raise ValueError("a diff has rows of at least one side")
    absent = [pa.nulls(len(ids), column.type.arrow) for column in row_schema.values]
    columns = [
        pa.array(np.full(len(ids), str(op)), pa.string()),
        ids,
        pa.nulls(len(ids), pa.string()) if new is None else new.column(0),
        pa.array(np.full(len(ids), refused)),
        *(absent if new is None else new.columns[_SOURCE_ID + 1 :]),
        *(absent if old is None else old.columns[_TARGET_ID + 1 :]),
    ]
    return pa.Table.from_arrays(columns, schema=row_schema.diff_schema)


def _by_refusal(
    row_schema: RowSchema, op: Op, new: pa.Table, old: pa.Table | None, refused: pa.Table
) -> Iterator[tuple[bool, Op, pa.Table]]:
    is_refused = _is_refused(row_schema, new, refused)
    for mark in (False, True):
        chosen = is_refused == mark
        if chosen.any():
            of_old = None if old is None else _chosen(old, chosen)
            yield mark, op, diff_table(row_schema, op, _chosen(new, chosen), of_old, refused=mark)


def _is_refused(row_schema: RowSchema, new: pa.Table, refused: pa.Table) -> Marks:
    """Of which rows the database has refused these very values."""
    if not refused.num_rows or not new.num_rows:
        return np.zeros(new.num_rows, dtype=bool)
    places = _places(_typed_ids(new), _typed_ids(refused))
    marks: Marks = places >= 0
    if marks.any():
        before, now = _taken(refused, places[marks]), _chosen(new, marks)
        same = diff_rows.same_values(_values(now, row_schema), _values(before, row_schema), row_schema.values)
        marks[marks] = same.to_numpy()
    return marks


def _values(rows: pa.Table, row_schema: RowSchema) -> pa.Table:
    """Rows of ``RowSchema.source_schema`` without the type of the ``_id``. A column of the target may have its name."""
    return pa.Table.from_arrays(rows.columns[1:], schema=row_schema.target_schema)


def _typed_ids(rows: pa.Table) -> pa.ChunkedArray:
    """The type and the text of each ``_id``, from the first two columns."""
    return pc.binary_join_element_wise(rows.column(0), rows.column(1), " ")


def _in_order(rows: pa.Table, id_place: int, rejected: pa.Array) -> pa.Table:
    """The rows that are not rejected, by id."""
    if len(rejected):
        rows = rows.filter(pc.invert(pc.is_in(rows.column(id_place), value_set=rejected)))
    rows = rows.combine_chunks()
    if not rows.num_rows or rises(rows.column(id_place).chunk(0)):
        return rows
    return rows.take(pc.sort_indices(rows.column(id_place)))


def _places(wanted: pa.ChunkedArray, given: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each of ``wanted`` its place in ``given``, -1 where it has none."""
    if len(wanted) == len(given) and pc.all(pc.equal(wanted, given), min_count=0).as_py():
        return np.arange(len(wanted))
    found = pc.index_in(wanted, value_set=given.combine_chunks())
    places: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return places


def _chosen(rows: pa.Table, marks: Marks) -> pa.Table:
    return rows if marks.all() else rows.filter(pa.array(marks))


def _taken(rows: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    is_all = len(places) == rows.num_rows and bool((places == np.arange(len(places))).all())
    return rows if is_all else rows.take(pa.array(places))
