"""Keeps the rows that wait for other rows until all batches have been tried, on disk if there are many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from product_sync.state.spill import Spill

#: Most rows and bytes that are put into order at once.
WINDOW_ROWS = 100_000
WINDOW_BYTES = 32 * 1024 * 1024
_PAGE_ROWS = 1_024


class PostponedRows:
    """Rows of a diff, in a temporary file in ``folder``. Add all of them, then read them; `close` removes the file."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._spill = Spill(folder, schema, 1)
        self.num_rows = 0

    def add(self, rows: pa.Table) -> None:
        for batch in rows.replace_schema_metadata().combine_chunks().to_batches():
            self._spill.add(batch, np.zeros(batch.num_rows, np.int64))
        self.num_rows += rows.num_rows

    def windows(self) -> Iterator[pa.Table]:
        """The rows in the order of `add`, in tables of at most a window's size."""
        pending = self._spill.schema.empty_table()
        for batch in self._spill.batches(0):
            for start in range(0, batch.num_rows, _PAGE_ROWS):
                page = pa.Table.from_batches([batch.slice(start, _PAGE_ROWS)])
                pending = pa.concat_tables([pending, page])
                if pending.num_rows >= WINDOW_ROWS or pending.nbytes >= WINDOW_BYTES:
                    yield pending
                    pending = self._spill.schema.empty_table()
        if pending.num_rows:
            yield pending

    def close(self) -> None:
        self._spill.close()
