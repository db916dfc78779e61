"""Sorts any number of rows into numbered parts in a temporary file, and reads each part back alone.

The file is an Arrow IPC file, because each of its batches can be read alone: the batches of one part may be far apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: The bytes and rows that wait in memory before they are written. Rows count too, because nulls have hardly any bytes.
WAITING_BYTES: Final = 16 * 1024 * 1024
WAITING_ROWS: Final = 131_072
_FIXED_WIDTH: Final = 8
_BUFFER_BYTES: Final = 1024 * 1024


class Spill:
    """Rows of ``parts`` parts. First all rows are added, then parts are read, each in the order of its rows. A few rows
    stay in memory, without a file. `close` removes the file, which is temporary and in ``folder``."""

    def __init__(self, folder: Path, schema: pa.Schema, parts: int, waiting_bytes: int = WAITING_BYTES) -> None:
        self.schema = schema
        #: For each part, the bytes in memory and the number of rows.
        self.nbytes = np.zeros(parts, np.int64)
        self.num_rows = np.zeros(parts, np.int64)
        self._folder = folder
        self._parts = parts
        self._waiting_bytes = waiting_bytes
        self._waiting: list[tuple[pa.RecordBatch, NDArray[np.int64]]] = []
        self._held_bytes = self._held_rows = 0
        #: For each part, the places of its batches in the file.
        self._places: list[list[int]] = [[] for _ in range(parts)]
        self._written = 0
        self._file: Any = None
        self._buffer: Any = None
        self._writer: Any = None
        self._reader: Any = None

    def add(self, batch: pa.RecordBatch, parts: NDArray[np.int64]) -> None:
        """Add rows. ``parts`` has the number of the part for each row."""
        if not batch.num_rows:
            return
        sizes = row_bytes(batch)
        self.nbytes += np.bincount(parts, sizes, self._parts).astype(np.int64)
        self.num_rows += np.bincount(parts, minlength=self._parts)
        self._waiting.append((batch, parts))
        self._held_bytes += int(sizes.sum())
        self._held_rows += batch.num_rows
        if self._held_bytes >= self._waiting_bytes or self._held_rows >= WAITING_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what waits in memory. No rows are added afterwards."""
        if self._writer is None or self._reader is not None:
            return
        self._flush()
        self._writer.close()
        self._buffer.detach()
        self._reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"))

    def batches(self, part: int) -> Iterator[pa.RecordBatch]:
        """The rows of one part. No rows are added afterwards."""
        self.finish()
        for place in self._places[part]:
            yield self._reader.get_batch(place)
        for batch, parts in self._waiting:
            chosen = parts == part
            if chosen.all():
                yield batch
            elif chosen.any():
                yield batch.filter(pa.array(chosen))

    def close(self) -> None:
        self._waiting = []
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            # The file has no name, so that a killed process leaves nothing behind.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
            options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            self._buffer = pa.BufferedOutputStream(pa.PythonFile(self._file, mode="w"), _BUFFER_BYTES)
            self._writer = pa.ipc.new_file(self._buffer, self.schema, options=options)
        rows = pa.Table.from_batches([batch for batch, _ in self._waiting]).combine_chunks()
        parts = np.concatenate([parts for _, parts in self._waiting])
        self._waiting, self._held_bytes, self._held_rows = [], 0, 0
        if (parts[1:] < parts[:-1]).any():
            order = np.argsort(parts, kind="stable")
            rows, parts = rows.take(pa.array(order)), parts[order]
        present, starts = np.unique(parts, return_index=True)
        for part, start, end in zip(present, starts, [*starts[1:], len(parts)], strict=True):
            for batch in rows.slice(start, end - start).to_batches():
                self._writer.write_batch(batch)
                self._places[part].append(self._written)
                self._written += 1


def row_bytes(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """The approximate bytes of each row in memory."""
    sizes = np.zeros(batch.num_rows)
    for column in batch.columns:
        sizes += _sizes(column)
    return sizes


def _sizes(values: pa.Array) -> NDArray[np.float64]:
    sizes = np.full(len(values), float(_FIXED_WIDTH))
    if pa.types.is_struct(values.type):
        for member in values.flatten():
            sizes += _sizes(member)
    elif pa.types.is_list(values.type):
        ends = np.concatenate([np.zeros(1), np.cumsum(_sizes(values.flatten()))])
        counts = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        sizes += ends[edges[1:]] - ends[edges[:-1]]
    elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        sizes += pc.fill_null(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
    return sizes
