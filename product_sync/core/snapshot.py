"""Reads each side once, as a stream, into a file.

Memory does not grow with the catalogue, and the time noted is when reading *began*: every later guard (the age
of a plan, whether to read a row again) counts from the oldest value that the file can hold.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.core import ahead, quarantine
from product_sync.core.layout import ID_TYPE, Layout
from product_sync.core.model import Reason, SourceBatch, Stage
from product_sync.core.ports import Source, TargetReader
from product_sync.core.progress import Meter, OnProgress
from product_sync.core.tables import TAKEN_AT, parquet_writer, release_memory, row_count
from product_sync.core.timing import Timing

#: Of rows that were read while others are still being compared. Each has some, so they are bounded too.
READ_AHEAD_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """``documents`` were read, ``rejected`` of them cannot be copied; ``rejects`` counts these by reason (a document
    with several faults under each). ``taken_at`` is when reading began."""

    documents: int
    rejected: int
    rejects: Mapping[Reason, int]
    taken_at: datetime
    duration_s: float
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    rows: int
    taken_at: datetime
    duration_s: float
    rows_per_second: float


def snapshot_source(
    source: Source,
    layout: Layout,
    rows_path: Path,
    rejects_path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> SourceSnapshot:
    """Write every document to ``rows_path`` (``Layout.source_schema``) or ``rejects_path`` (`rejects_schema`).

    Documents that share a text id are in both: their rows stay where they are, and whoever reads the rows leaves
    out the ids of the rejects.
    """
    taken_at = timing.now()
    stamped = _stamped(metadata, taken_at)
    converted = rejects_path.with_name(f"{rejects_path.name}.without_duplicates")
    meter = Meter("read source", source.estimated_count(), on_progress, timing)
    with (
        parquet_writer(rows_path, layout.source_schema, metadata=stamped, sought_by=layout.key.name) as rows,
        parquet_writer(converted, quarantine.rejects_schema(layout), metadata=stamped) as rejects,
    ):
        id_types: set[str] = set()
        for page in source.snapshot():
            rows.write(page.rows)
            id_types |= _id_types(page)
            if page.rejects:
                rejects.write(quarantine.rejects_batch(layout, page.rejects, Stage.CONVERT))
            meter.advance(page.documents)
    try:
        if len(id_types) > 1:
            reasons = quarantine.add_duplicates(rows_path, converted, rejects_path, layout)
        else:
            # Two documents with one text differ in the type of their _id.
            reasons = quarantine.summary(converted) if row_count(converted) else {}
            converted.replace(rejects_path)
    finally:
        converted.unlink(missing_ok=True)
    return SourceSnapshot(
        documents=meter.done,
        rejected=row_count(rejects_path),
        rejects=reasons,
        taken_at=taken_at,
        duration_s=meter.elapsed_s,
        rows_per_second=meter.rate,
    )


def snapshot_target(
    reader: TargetReader,
    layout: Layout,
    path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> TargetSnapshot:
    """Write every row of the target to ``path`` (``Layout.target_schema``), as one consistent state."""
    taken_at = timing.now()
    meter = Meter("read target", reader.estimated_count(), on_progress, timing)
    with closing(_recorded(reader.snapshot(), layout, path, _stamped(metadata, taken_at), meter)) as batches:
        for _ in batches:
            pass
    release_memory()
    return TargetSnapshot(meter.done, taken_at, meter.elapsed_s, meter.rate)


@contextmanager
def target_while_read(
    reader: TargetReader,
    layout: Layout,
    path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> Iterator[Iterator[pa.RecordBatch]]:
    """The same, but yields the rows, once, as they are read by another thread. They are written on the way: ``path`` is
    there when they end, and no part of it where they are left before."""
    stamped = _stamped(metadata, timing.now())
    meter = Meter("read target", reader.estimated_count(), on_progress, timing)
    with (
        ahead.stream(reader.snapshot(), size=lambda batch: int(batch.nbytes), most=READ_AHEAD_BYTES) as read,
        closing(_recorded(read, layout, path, stamped, meter)) as batches,
    ):
        yield batches


def _recorded(
    batches: Iterator[pa.RecordBatch], layout: Layout, path: Path, stamped: Mapping[str, str], meter: Meter
) -> Generator[pa.RecordBatch, None, None]:
    with parquet_writer(path, layout.target_schema, metadata=stamped, sought_by=layout.key.name) as sink:
        for batch in batches:
            sink.write(batch)
            meter.advance(batch.num_rows)
            yield batch


def _id_types(page: SourceBatch) -> set[str]:
    """Of all documents of a page that have a text id."""
    rejected = {reject.source_id.type for reject in page.rejects if reject.source_id}
    return rejected.union(pc.unique(page.rows[ID_TYPE]).to_pylist())


def _stamped(metadata: Mapping[str, str], taken_at: datetime) -> dict[str, str]:
    return {**metadata, TAKEN_AT: taken_at.isoformat()}
