"""Writes the Parquet files that tests begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from product_sync.state.files import table_writer


def write_table(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, metadata: Mapping[str, str]
) -> int:
    """Stream ``batches`` of ``schema`` into ``path``; returns the number of rows. See `table_writer`."""
    with table_writer(path, schema, metadata=metadata) as sink:
        for batch in batches:
            sink.write(batch)
    return sink.rows
