"""Tables on disk: Parquet files that appear whole or not at all, and the DuckDB that compares them.

Every file between two steps goes through `parquet_writer`. Without it a killed run would leave half a
snapshot behind, and the next reader would take the products of the other half for deleted ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from product_sync.core import interrupts

#: Metadata of every file: which source and target it belongs to (`Layout.state_key`), the run that wrote it,
#: and when the *reading started* (ISO 8601, UTC): a value in it may be that old, never older.
STATE_KEY, RUN_ID, TAKEN_AT = "state_key", "run_id", "taken_at"

#: A row group is held in memory by its writer and by each of its readers.
ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 16 * 1024 * 1024


class ParquetSink:
    """Collects batches into row groups of bounded rows and bytes. Made by `parquet_writer`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending), row_group_size=ROW_GROUP_ROWS)
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


@contextmanager
def parquet_writer(
    path: Path, schema: pa.Schema, *, metadata: Mapping[str, str], sought_by: str | None = None
) -> Iterator[ParquetSink]:
    """A sink whose file takes the place of ``path`` when the block ends, and is removed when it raises.

    The file is synced to the disk before it is renamed, and is readable by its owner only: it holds products. Where
    rows are later sought by the column ``sought_by``, row groups that cannot have them are passed over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Products have few values in common, and nobody asks for a range of them but by id: dictionaries and
            # statistics of all columns would be a third of the work.
            with pq.ParquetWriter(
                file,
                schema.with_metadata(dict(metadata)),
                compression="lz4",
                use_dictionary=False,
                write_statistics=[sought_by] if sought_by else False,
            ) as writer:
                sink = ParquetSink(writer)
                yield sink
                sink.flush()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def read_metadata(path: Path) -> dict[str, str]:
    """What the file's writer said about it."""
    metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def row_count(path: Path) -> int:
    """The number of rows, from the file's footer."""
    return int(pq.read_metadata(path).num_rows)


def release_memory() -> None:
    """Give back to the system what Arrow has freed and keeps: a run's peak is then that of a step, not of all."""
    pa.default_memory_pool().release_unused()


#: What DuckDB raises where a signal handler has raised in the middle of a query, whose own exception is lost.
_INTERRUPTED = "Query interrupted"


@contextmanager
def duckdb_connection(temp_directory: Path, *, memory_limit: str = "200MB", threads: int = 2) -> Iterator[Any]:
    """An in-memory DuckDB that spills into a folder of its own below ``temp_directory`` instead of growing.

    It never reaches for the network: extensions are neither installed nor loaded on demand.
    """
    temp_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temp_directory, prefix="duckdb-") as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "threads": threads,
                "temp_directory": spill,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        try:
            yield connection
        except RuntimeError as error:
            if str(error) == _INTERRUPTED:
                interrupts.raise_again()
            raise
        finally:
            connection.close()
