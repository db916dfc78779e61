"""Writes the file of a diff in its order, whatever the order in which differences are found.

People are shown the first rows of a diff, a plan is executed as it stands, and refused rows come last in batches of
their own: all of them rest on the order of this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import ParquetSink, parquet_writer
from product_sync.state.spill import Spill, spilled

#: The order of the kinds of rows: whether they were refused before, and their op.
_ORDER: Final = [(refused, op) for refused in (False, True) for op in Op]


class DiffFile:
    """Takes differences by rising ids. Made by `diff_file`."""

    def __init__(self, sink: ParquetSink, later: Spill) -> None:
        self._sink = sink
        self._later = later
        #: Rows by whether they were refused before, and op.
        self.counts: Counter[tuple[bool, Op]] = Counter()

    def add(self, refused: bool, op: Op, rows: pa.Table) -> None:
        """Add rows of one kind (``RowSchema.diff_schema``): their ids rise, from above the last one of this kind."""
        self.counts[refused, op] += rows.num_rows
        place = _ORDER.index((refused, op))
        for batch in rows.to_batches():
            if place:
                self._later.add(batch, np.full(batch.num_rows, place))
            else:
                self._sink.write(batch)

    def end(self) -> None:
        """Write the kinds that follow the first one."""
        for place in range(1, len(_ORDER)):
            for batch in self._later.batches(place):
                self._sink.write(batch)


@contextmanager
def diff_file(out: Path, row_schema: RowSchema, folder: Path, *, metadata: Mapping[str, str]) -> Iterator[DiffFile]:
    """A `DiffFile` that is written to ``out`` when the block ends. Rows come in the order: not refused before refused,
    then insert, update, extra, then id. What has to wait lies in a temporary file in ``folder``."""
    with (
        parquet_writer(out, row_schema.diff_schema, metadata=metadata) as sink,
        spilled(folder, row_schema.diff_schema, len(_ORDER)) as later,
    ):
        written = DiffFile(sink, later)
        yield written
        written.end()
