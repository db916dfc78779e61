"""Reads and writes the files of tables: they appear whole or not at all, and are read in pages of bounded bytes.

Every table between two steps goes through `table_writer`. Without it a killed run would leave half a snapshot behind,
and the next reader would take the products of the other half for deleted ones.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from product_sync.state.joined_table import JoinedTable, footer, joined_as_bytes, joined_at
from product_sync.state.mirror import here
from product_sync.state.table_file import Group, TableFile, index_of

#: Metadata of every file: the source and target that it belongs to (`RowSchema.state_key`), the run that wrote it, and
#: when the *reading started* (ISO 8601, UTC). No value in the file is older than that.
STATE_KEY, RUN_ID, TAKEN_AT = "state_key", "run_id", "taken_at"

#: The suffix of incomplete files.
TEMPORARY = ".tmp"
#: The writer and each reader hold one row group in memory.
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 8 * 1024 * 1024

#: Bytes of rows after which freed memory is returned to the system.
RELEASE_AFTER_BYTES = 64 * 1024 * 1024

#: Rows and bytes that are read from a file at once.
PAGE_ROWS = 16_384
PAGE_BYTES = 8 * 1024 * 1024


@dataclass
class TableSink:
    """Collects batches into row groups of bounded rows and bytes. Made by `table_writer`."""

    writer: Any
    group_bytes: int
    sought_by: str | None
    groups: list[Group] = field(default_factory=list)
    rows: int = 0
    _pending: list[pa.RecordBatch] = field(default_factory=list)
    _pending_rows: int = 0
    _pending_bytes: int = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        for part in sliced(batch, self.group_bytes):
            size = int(part.nbytes)
            if self._pending_bytes + size > self.group_bytes:
                self.flush()
            self._pending.append(part)
            self._pending_rows += part.num_rows
            self._pending_bytes += size
            self.rows += part.num_rows
            if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= self.group_bytes:
                self.flush()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if self._pending:
            rows = pa.Table.from_batches(self._pending).combine_chunks()
            for batch in rows.to_batches(max_chunksize=ROW_GROUP_ROWS):
                self.groups.append(Group.of(batch, self.sought_by))
                self.writer.write_batch(batch)
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


@contextmanager
def table_writer(
    path: Path,
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str],
    sought_by: str | None = None,
    group_bytes: int = ROW_GROUP_BYTES,
) -> Iterator[TableSink]:
    """A sink whose file replaces ``path`` when the block ends (`replaced_durably`). The bounds of the text column
    ``sought_by`` are written down, so that a reader can skip row groups. A row group has at most ``group_bytes``, or
    one row."""
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with (
        replaced_durably(path) as file,
        pa.ipc.new_file(file, schema.with_metadata(dict(metadata)), options=options) as writer,
    ):
        sink = TableSink(writer, group_bytes, sought_by)
        yield sink
        sink.flush()
        writer.write_batch(pa.RecordBatch.from_pylist([], schema), custom_metadata=index_of(sink.groups))


@contextmanager
def replaced_durably(path: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces ``path`` when the block ends, and is removed when the block raises. File and folder are
    synced to the disk, so after a power failure either the old file or the new one is there, whole. Only its owner can
    read it, because it holds products."""
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
    """A rename is a change of the folder, and must survive a power failure too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(path: Path) -> TableFile | JoinedTable:
    """Open a table for reading, as a context manager."""
    return joined_at(path) or TableFile(here(path))


def join(path: Path, parts: Sequence[Path]) -> None:
    """Make a table of files with the same columns, which stay where they are, below the folder of ``path``. Its
    metadata is that of the first one, with the earliest `TAKEN_AT`."""
    metadata = [read_metadata(part) for part in parts]
    times = [each[TAKEN_AT] for each in metadata if TAKEN_AT in each]
    earliest = {TAKEN_AT: min(times, key=datetime.fromisoformat)} if times else {}
    with replaced_durably(path) as file:
        file.write(joined_as_bytes(path.parent, parts, metadata[0] | earliest))


def copy(path: Path, to: Path) -> None:
    with opened(path) as file, table_writer(to, read_schema(path), metadata=read_metadata(path)) as sink:
        for page in pages(file):
            sink.write(page)


def sliced(batch: pa.RecordBatch, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows in slices of at most ``most_bytes``, or of one row that is larger."""
    if batch.num_rows <= 1 or batch.nbytes <= most_bytes:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from sliced(batch.slice(0, middle), most_bytes)
    yield from sliced(batch.slice(middle), most_bytes)


def pages(
    file: TableFile | JoinedTable,
    *,
    rows: int = PAGE_ROWS,
    most_bytes: int = PAGE_BYTES,
    columns: Sequence[str] | None = None,
    groups: Iterable[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, or of some of its row groups, in batches of at most ``rows`` rows and about ``most_bytes``.
    The batches of one group share its memory."""
    for at in range(len(file.groups)) if groups is None else groups:
        group = file.groups[at]
        fitting = most_bytes * group.num_rows // max(group.bytes_of(columns), 1)
        read, size = file.read(at, columns), max(1, min(rows, fitting))
        for start in range(0, group.num_rows, size):
            yield read.slice(start, size)


def read_metadata(path: Path) -> dict[str, str]:
    joined = joined_at(path)
    return dict(joined.own_metadata if joined else footer(path).metadata)


def read_schema(path: Path) -> pa.Schema:
    """The columns of a file, without its metadata."""
    with opened(path) as file:
        return file.schema.remove_metadata()


def row_count(path: Path) -> int:
    joined = joined_at(path)
    return sum(group.num_rows for group in (joined or footer(path)).groups)


def check_table(path: Path) -> None:
    """Read the file once to its end. Raises `LocalStorageError` for a damaged file."""
    with opened(path) as file:
        for at in range(len(file.groups)):
            file.read(at)


def release_memory() -> None:
    """Return the memory that Arrow has freed but kept to the system, so that each step begins without it."""
    pa.default_memory_pool().release_unused()


@dataclass
class MemoryRelease:
    """Calls `release_memory` each time that ``every_bytes`` have passed."""

    every_bytes: int = RELEASE_AFTER_BYTES
    _passed: int = 0

    def passed(self, size: int) -> None:
        self._passed += size
        if self._passed >= self.every_bytes:
            self._passed = 0
            release_memory()
