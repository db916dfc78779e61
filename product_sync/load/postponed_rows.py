"""Keeps the rows that wait for other rows until all batches have been tried, on disk because there may be many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from product_sync.state.files import ParquetSink, opened, parquet_writer

#: Most rows and bytes that are put into order at once.
WINDOW_ROWS = 100_000
WINDOW_BYTES = 32 * 1024 * 1024
_PAGE_ROWS = 1_024


class PostponedRows:
    """Rows of a diff in the temporary file ``path``. Add all of them, then read them; `close` removes the file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writing = ExitStack()
        self._sink: ParquetSink | None = None
        self.num_rows = 0

    def add(self, rows: pa.Table) -> None:
        if self._sink is None:
            self._sink = self._writing.enter_context(parquet_writer(self._path, self._schema, metadata={}))
        for batch in rows.combine_chunks().to_batches():
            self._sink.write(batch)
        self.num_rows += rows.num_rows

    def windows(self) -> Iterator[pa.Table]:
        """The rows in the order of `add`, in tables of at most a window's size."""
        self._writing.close()
        if not self.num_rows:
            return
        pending = self._schema.empty_table()
        with opened(self._path) as file:
            for page in file.iter_batches(batch_size=_PAGE_ROWS):
                pending = pa.concat_tables([pending, pa.Table.from_batches([page]).replace_schema_metadata()])
                if pending.num_rows >= WINDOW_ROWS or pending.nbytes >= WINDOW_BYTES:
                    yield pending
                    pending = self._schema.empty_table()
        if pending.num_rows:
            yield pending

    def close(self) -> None:
        self._writing.close()
        self._path.unlink(missing_ok=True)
