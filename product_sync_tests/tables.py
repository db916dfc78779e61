"""Writes the tables that tests begin with, and reads whole ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from product_sync.state.files import opened, pages, table_writer


def write_table(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, metadata: Mapping[str, str]
) -> int:
    """Stream ``batches`` of ``schema`` into ``path``; returns the number of rows. See `table_writer`."""
    with table_writer(path, schema, metadata=metadata) as sink:
        for batch in batches:
            sink.write(batch)
    return sink.rows


def read_table(path: Path) -> pa.Table:
    """All rows of a table, with its metadata."""
    with opened(path) as file:
        return pa.Table.from_batches(pages(file), file.schema)


def group_rows(path: Path) -> list[int]:
    """The number of rows of each row group."""
    with opened(path) as file:
        return [group.num_rows for group in file.groups]
