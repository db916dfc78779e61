"""The rows of a diff: reads their columns, makes them, and writes them to a file in order.

The load, the deletion and the verification work on whole columns of the diff, so that a batch of 100,000 rows costs
no Python object per row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.schema.records import Op, SourceId
from product_sync.schema.row_schema import ID_TYPE, NEW, OLD, RowSchema
from product_sync.state.files import TableSink, table_writer
from product_sync.state.spill import Spill

#: The place of the id in ``RowSchema.source_schema`` and in ``RowSchema.target_schema``.
SOURCE_ID: Final = 1
TARGET_ID: Final = 0
#: The order of the rows in a diff file: not refused before refused, then by op. Within each kind the ids rise.
_ORDER: Final = [(refused, op) for refused in (False, True) for op in Op]


def of_op(rows: pa.Table, op: Op) -> pa.Table:
    return where(rows, pc.equal(rows["op"], str(op)))


def where(rows: pa.Table, marks: pa.ChunkedArray) -> pa.Table:
    """The marked rows. Copies nothing if all are marked."""
    return rows if pc.all(marks, min_count=0).as_py() else rows.filter(marks)


def ids(rows: pa.Table) -> list[str]:
    return [str(text) for text in rows["id"].to_pylist()]


def source_ids(rows: pa.Table) -> list[SourceId]:
    """The ``_id`` of each row. Extra rows have none."""
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
    """The rows of ``found`` with the ids ``wanted`` in its column ``key``, in that order. An absent id gives a row of
    nulls."""
    places = pc.index_in(pa.array(wanted, pa.string()), value_set=found[key].combine_chunks())
    return found.take(places)


def with_ids(rows: pa.Table, key: str, wanted: Iterable[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows[key], value_set=pa.array(wanted, pa.string())))


def diff_table(row_schema: RowSchema, op: Op, new: pa.Table | None, old: pa.Table | None, *, refused: bool) -> pa.Table:
    """Diff rows of one op. ``new`` (``RowSchema.source_schema``) and ``old`` (``RowSchema.target_schema``) hold the
    same products in the same order; one of them may be ``None``."""
    if new is not None:
        ids = new.column(SOURCE_ID)
    elif old is not None:
        ids = old.column(TARGET_ID)
    else:
        raise ValueError("a diff has rows of at least one side")
    absent = [pa.nulls(len(ids), column.type.arrow) for column in row_schema.values]
    columns = [
        pa.repeat(pa.scalar(str(op), pa.string()), len(ids)),
        ids,
        pa.nulls(len(ids), pa.string()) if new is None else new.column(0),
        pa.repeat(refused, len(ids)),
        *(absent if new is None else new.columns[SOURCE_ID + 1 :]),
        *(absent if old is None else old.columns[TARGET_ID + 1 :]),
    ]
    return pa.Table.from_arrays(columns, schema=row_schema.diff_schema)


@dataclass
class DiffFile:
    """Writes a diff in its order. Rows are added by rising ids, in any order of kinds. Made by `diff_file`. ``counts``
    has the rows by whether they were refused before, and by op."""

    sink: TableSink
    later: Spill
    counts: Counter[tuple[bool, Op]] = field(default_factory=Counter)

    def add(self, refused: bool, op: Op, rows: pa.Table) -> None:
        """Add rows of one kind (``RowSchema.diff_schema``) whose ids are above all ids of this kind so far."""
        self.counts[refused, op] += rows.num_rows
        place = _ORDER.index((refused, op))
        for batch in rows.to_batches():
            if place:
                self.later.add(batch, np.full(batch.num_rows, place))
            else:
                self.sink.write(batch)


@contextmanager
def diff_file(out: Path, row_schema: RowSchema, folder: Path, *, metadata: Mapping[str, str]) -> Iterator[DiffFile]:
    """A `DiffFile` that is written to ``out`` when the block ends. Every kind of rows but the first waits in a
    temporary file in ``folder``."""
    with (
        table_writer(out, row_schema.diff_schema, metadata=metadata, sought_by="op") as sink,
        closing(Spill(folder, row_schema.diff_schema, len(_ORDER))) as later,
    ):
        yield DiffFile(sink, later)
        for place in range(1, len(_ORDER)):
            for batch in later.batches(place):
                sink.write(batch)
