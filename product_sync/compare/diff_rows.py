"""Reads the columns of diff rows as what they mean: ids, the source's rows, the target's rows.

The load, the deletion and the verification all work on whole columns of the diff, so that a batch of 100 000
rows costs no object per row. Where the columns lie and when two values are the same is said here only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.schema.records import Op, SourceId
from product_sync.schema.row_schema import ID_TYPE, NEW, OLD, RowColumn, RowSchema


def of_op(rows: pa.Table, op: Op) -> pa.Table:
    return rows.filter(pc.equal(rows["op"], str(op)))


def ids(rows: pa.Table) -> list[str]:
    return [str(text) for text in rows["id"].to_pylist()]


def source_ids(rows: pa.Table) -> list[SourceId]:
    """The ``_id`` of each row; only for rows that stem from the source (not for extra ones)."""
    return [
        SourceId(id_type, text) for id_type, text in zip(rows[ID_TYPE].to_pylist(), rows["id"].to_pylist(), strict=True)
    ]


def new_rows(rows: pa.Table, row_schema: RowSchema) -> pa.Table:
    """The source's values in ``RowSchema.target_schema``, in the order of ``rows``."""
    return _side(rows, row_schema, NEW)


def old_rows(rows: pa.Table, row_schema: RowSchema) -> pa.Table:
    """The target's values in ``RowSchema.target_schema``, in the order of ``rows``."""
    return _side(rows, row_schema, OLD)


def _side(rows: pa.Table, row_schema: RowSchema, prefix: str) -> pa.Table:
    columns = [rows["id"], *(rows[prefix + column.name] for column in row_schema.values)]
    return pa.Table.from_arrays(columns, schema=row_schema.target_schema)


def aligned(found: pa.Table, key: str, wanted: Sequence[str]) -> pa.Table:
    """The rows of ``found`` whose ``key`` column is ``wanted``, in that order; an absent id is a row of nulls.

    The key column then says which are absent.
    """
    places = pc.index_in(pa.array(wanted, pa.string()), value_set=found[key].combine_chunks())
    return found.take(places)


def same_values(left: pa.Table, right: pa.Table, columns: Iterable[RowColumn]) -> pa.ChunkedArray:
    """Per row: whether all ``columns`` hold the same value. Two NULLs are the same, and so are two NaN, as for
    PostgreSQL's IS NOT DISTINCT FROM."""
    always = pa.chunked_array([pa.array(np.ones(left.num_rows, dtype=bool))], pa.bool_())
    return reduce(pc.and_, (same(left[column.name], right[column.name]) for column in columns), always)


def same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    """As `same_values`, of one column."""
    equal = pc.equal(left, right)
    if equal.null_count:
        equal = pc.or_(pc.fill_null(equal, False), pc.and_(pc.is_null(left), pc.is_null(right)))
    if pa.types.is_floating(left.type):
        both_nan = pc.and_(pc.fill_null(pc.is_nan(left), False), pc.fill_null(pc.is_nan(right), False))
        return pc.or_(equal, both_nan)
    return equal


def with_ids(rows: pa.Table, key: str, wanted: Iterable[str]) -> pa.Table:
    """The rows whose ``key`` column is one of ``wanted``."""
    return rows.filter(pc.is_in(rows[key], value_set=pa.array(wanted, pa.string())))
