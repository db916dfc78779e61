"""Tables on disk: Parquet files that appear whole or not at all, read in pages of bounded bytes.

Every file between two steps goes through `parquet_writer`. Without it a killed run would leave half a
snapshot behind, and the next reader would take the products of the other half for deleted ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from product_sync.state.storage_errors import opening_parquet

#: Metadata of every file: which source and target it belongs to (`RowSchema.state_key`), the run that wrote it,
#: and when the *reading started* (ISO 8601, UTC): a value in it may be that old, never older.
STATE_KEY, RUN_ID, TAKEN_AT = "state_key", "run_id", "taken_at"

#: How the name of a file ends that is not complete.
TEMPORARY = ".tmp"
#: A row group is held in memory by its writer and by each of its readers.
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 8 * 1024 * 1024

#: Bytes of rows after which freed memory is given back.
RELEASE_AFTER_BYTES = 64 * 1024 * 1024

#: Rows and bytes that are read from a file at once.
PAGE_ROWS = 16_384
PAGE_BYTES = 8 * 1024 * 1024


class ParquetSink:
    """Collects batches into row groups of bounded rows and bytes. Made by `parquet_writer`."""

    def __init__(self, writer: Any, group_bytes: int) -> None:
        self._writer = writer
        self._group_bytes = group_bytes
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        for part in sliced(batch, self._group_bytes):
            size = int(part.nbytes)
            if self._pending_bytes + size > self._group_bytes:
                self.flush()
            self._pending.append(part)
            self._pending_rows += part.num_rows
            self._pending_bytes += size
            self.rows += part.num_rows
            if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= self._group_bytes:
                self.flush()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending), row_group_size=ROW_GROUP_ROWS)
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


@contextmanager
def parquet_writer(
    path: Path,
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str],
    sought_by: str | None = None,
    group_bytes: int = ROW_GROUP_BYTES,
) -> Iterator[ParquetSink]:
    """A sink whose file takes the place of ``path`` when the block ends, and is removed when it raises.

    Where rows are later sought by the column ``sought_by``, row groups that cannot have them are passed over. A row
    group has at most ``group_bytes``, or one row. See `replaced_durably`.
    """
    # Products have few values in common, and nobody asks for a range of them but by id: dictionaries and statistics of
    # all columns would be a third of the work.
    with (
        replaced_durably(path) as file,
        pq.ParquetWriter(
            file,
            schema.with_metadata(dict(metadata)),
            compression="lz4",
            use_dictionary=False,
            write_statistics=[sought_by] if sought_by else False,
        ) as writer,
    ):
        sink = ParquetSink(writer, group_bytes)
        yield sink
        sink.flush()


@contextmanager
def replaced_durably(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` when the block ends, and is removed when it raises.

    File and folder are synced to the disk: after a power failure either the old file or the new one is there, whole.
    It is readable by its owner only: what lies in the state folder holds products.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the names of files survive a power failure: a rename is a change of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_parquet(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, metadata: Mapping[str, str]
) -> int:
    """Stream ``batches`` of ``schema`` into ``path``; returns the number of rows. See `parquet_writer`."""
    with parquet_writer(path, schema, metadata=metadata) as sink:
        for batch in batches:
            sink.write(batch)
    return sink.rows


def opened(path: Path) -> pq.ParquetFile:
    """The file for reading, to be used as a context manager.

    Arrow would read ahead and keep every byte of it until it is closed: 55 MB for each million products of a load.
    """
    return pq.ParquetFile(path, pre_buffer=False)


def sliced(batch: pa.RecordBatch, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """The same rows in slices of at most so many bytes, or of one row that has more."""
    if batch.num_rows <= 1 or batch.nbytes <= most_bytes:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from sliced(batch.slice(0, middle), most_bytes)
    yield from sliced(batch.slice(middle), most_bytes)


def pages(
    file: pq.ParquetFile,
    *,
    rows: int = PAGE_ROWS,
    most_bytes: int = PAGE_BYTES,
    columns: Sequence[str] | None = None,
    groups: Iterable[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, or of some of its row groups, in batches of at most ``rows`` rows and about ``most_bytes``.

    Arrow's own batches go on from one row group into the next: of wide rows, one batch would be the whole file.
    """
    for group in range(file.num_row_groups) if groups is None else groups:
        metadata = file.metadata.row_group(group)
        fitting = most_bytes * metadata.num_rows // max(group_bytes(metadata, columns), 1)
        size = max(1, min(rows, fitting))
        yield from file.iter_batches(batch_size=size, row_groups=[group], columns=columns)


def group_bytes(group: Any, columns: Sequence[str] | None = None) -> int:
    """Bytes in Parquet of the columns of a row group, by its metadata; of all columns, or of those of these names."""
    chunks = (group.column(at) for at in range(group.num_columns))
    return sum(
        int(chunk.total_uncompressed_size)
        for chunk in chunks
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns
    )


def read_metadata(path: Path) -> dict[str, str]:
    """What the file's writer said about it."""
    with opening_parquet(path):
        metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_schema(path: Path) -> pa.Schema:
    """The columns of a file, without its metadata."""
    with opening_parquet(path):
        return pq.read_schema(path).remove_metadata()


def row_count(path: Path) -> int:
    """The number of rows, from the file's footer."""
    with opening_parquet(path):
        return int(pq.read_metadata(path).num_rows)


def check_parquet(path: Path) -> None:
    """Read the file once to its end. Raises `LocalStorageError` for one that is cut or overwritten."""
    with opening_parquet(path), opened(path) as file:
        for _ in file.iter_batches(batch_size=1_024):
            pass


def release_memory() -> None:
    """Give back to the system what Arrow has freed and keeps: a run's peak is then that of a step, not of all."""
    pa.default_memory_pool().release_unused()


class MemoryRelease:
    """Calls `release_memory` each time that so many bytes have passed: what is freed lies between what is in use."""

    def __init__(self, every_bytes: int = RELEASE_AFTER_BYTES) -> None:
        self._every_bytes = every_bytes
        self._passed = 0

    def passed(self, size: int) -> None:
        self._passed += size
        if self._passed >= self._every_bytes:
            self._passed = 0
            release_memory()
