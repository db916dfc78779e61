"""Reads each side once, as a stream, into a file. Memory does not grow with the catalogue.

The file notes when the read *began*. Later checks, such as the age of a plan, count from that moment, because no value
in the file is older.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import quarantine
from product_sync.compare.found_columns import FoundColumns
from product_sync.compare.sample import NO_SAMPLE, Sample, take_sample
from product_sync.errors import ProductSyncError
from product_sync.runtime import prefetch
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter, OnProgress
from product_sync.schema.ports import Source, TargetReader
from product_sync.schema.records import Reason, SourceBatch, Stage
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.state.files import TAKEN_AT, parquet_writer, release_memory, row_count

#: Bytes of rows that a thread may read ahead of the comparison, on each side.
READ_AHEAD_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """``documents`` were read, ``rejected`` of them cannot be copied; ``rejects`` counts these by reason (a document
    with several faults under each). ``taken_at`` is when reading began. ``found`` counts by column the documents in
    which its path has a value; ``sample`` was read at the same time. With a filter, either ``filtered_out`` or
    ``filtered_out_about`` says how many documents it left out, or about how many."""

    documents: int
    rejected: int
    rejects: Mapping[Reason, int]
    taken_at: datetime
    duration_s: float
    rows_per_second: float
    found: Mapping[str, int] = field(default_factory=dict)
    sample: Sample = NO_SAMPLE
    filtered_out: int | None = None
    filtered_out_about: int | None = None


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    rows: int
    taken_at: datetime
    duration_s: float
    rows_per_second: float


def snapshot_source(
    source: Source,
    row_schema: RowSchema,
    rows_path: Path,
    rejects_path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> SourceSnapshot:
    """Write every document to ``rows_path`` (``RowSchema.source_schema``) or ``rejects_path`` (`rejects_schema`).

    Documents that share a text id are in both files. A reader of the rows skips the ids of the rejects.
    """
    recording = SourceRecording(
        source, row_schema, rows_path, rejects_path, metadata=metadata, timing=timing, on_progress=on_progress
    )
    with closing(recording.rows(source.snapshot())) as rows:
        for _ in rows:
            pass
    return recording.snapshot()


class SourceRecording:
    """Writes the pages of a source to the files while they are read. Made when the read begins."""

    def __init__(
        self,
        source: Source,
        row_schema: RowSchema,
        rows_path: Path,
        rejects_path: Path,
        *,
        metadata: Mapping[str, str],
        timing: Timing,
        on_progress: OnProgress,
    ) -> None:
        self.taken_at = timing.now()
        self._row_schema = row_schema
        self._rows_path, self._rejects_path = rows_path, rejects_path
        self.stamped = _stamped(metadata, self.taken_at)
        total = None if row_schema.filter else source.estimated_count()
        self._meter = Meter("read source", total, on_progress, timing)
        self._reasons: Mapping[Reason, int] = {}
        self._source = source
        self._found = FoundColumns(row_schema)
        self._sample: Sample | None = None

    def rows(self, pages: Iterator[SourceBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The rows of each page. The files exist when all are read, and no part of them if the read stops early."""
        row_schema, stamped = self._row_schema, self.stamped
        converted = self._rejects_path.with_name(f"{self._rejects_path.name}.without_duplicates")
        id_types: set[str] = set()
        with (
            parquet_writer(
                self._rows_path, row_schema.source_schema, metadata=stamped, sought_by=row_schema.key.name
            ) as rows,
            parquet_writer(converted, quarantine.rejects_schema(row_schema), metadata=stamped) as rejects,
        ):
            for page in pages:
                rows.write(page.rows)
                id_types |= _id_types(page)
                self._found.add(page)
                if self._sample is None:
                    self._sample = read_sample(self._source, row_schema)
                if page.rejects:
                    rejects.write(quarantine.rejects_batch(row_schema, page.rejects, Stage.CONVERT))
                self._meter.advance(page.documents)
                yield page.rows
        self._meter.end()
        try:
            if len(id_types) > 1:
                self._reasons = quarantine.add_duplicates(self._rows_path, converted, self._rejects_path, row_schema)
            else:
                # Two documents with one text differ in the type of their _id.
                self._reasons = quarantine.summary(converted) if row_count(converted) else {}
                converted.replace(self._rejects_path)
        finally:
            converted.unlink(missing_ok=True)

    def snapshot(self) -> SourceSnapshot:
        """The counts, after all rows are read."""
        return SourceSnapshot(
            documents=self._meter.done,
            rejected=row_count(self._rejects_path),
            rejects=self._reasons,
            taken_at=self.taken_at,
            duration_s=self._meter.elapsed_s,
            rows_per_second=self._meter.rate,
            found=self._found.counts,
            sample=self._sample or NO_SAMPLE,
        )


def read_sample(source: Source, row_schema: RowSchema) -> Sample:
    """A sample beside the pages, which contain the mapped fields only. Nothing depends on it, so its failure is no
    error."""
    try:
        return take_sample(source.sample(), row_schema)
    except ProductSyncError:
        return NO_SAMPLE


def snapshot_target(
    reader: TargetReader,
    row_schema: RowSchema,
    path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> TargetSnapshot:
    """Write every row of the target to ``path`` (``RowSchema.target_schema``), as one consistent state."""
    recording = TargetRecording(reader, row_schema, path, metadata=metadata, timing=timing, on_progress=on_progress)
    with closing(recording.rows(reader.snapshot())) as rows:
        for _ in rows:
            pass
    release_memory()
    return recording.snapshot()


class TargetRecording:
    """Writes the rows of a target to the file while they are read. Made when the read begins."""

    def __init__(
        self,
        reader: TargetReader,
        row_schema: RowSchema,
        path: Path,
        *,
        metadata: Mapping[str, str],
        timing: Timing,
        on_progress: OnProgress,
    ) -> None:
        self.taken_at = timing.now()
        self._row_schema = row_schema
        self._path = path
        self.stamped = _stamped(metadata, self.taken_at)
        self._meter = Meter("read target", reader.estimated_count(), on_progress, timing)

    def rows(self, batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The same batches. The file exists when all are read, and no part of it if the read stops early."""
        schema, key = self._row_schema.target_schema, self._row_schema.key.name
        with parquet_writer(self._path, schema, metadata=self.stamped, sought_by=key) as sink:
            for batch in batches:
                sink.write(batch)
                self._meter.advance(batch.num_rows)
                yield batch
        self._meter.end()

    def snapshot(self) -> TargetSnapshot:
        """The counts, after all rows are read."""
        return TargetSnapshot(self._meter.done, self.taken_at, self._meter.elapsed_s, self._meter.rate)


@contextmanager
def target_while_read(
    reader: TargetReader,
    row_schema: RowSchema,
    path: Path,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
) -> Iterator[Iterator[pa.RecordBatch]]:
    """As `snapshot_target`, but yields the rows while another thread reads them. ``path`` exists when all are read, and
    no part of it if the read stops early."""
    recording = TargetRecording(reader, row_schema, path, metadata=metadata, timing=timing, on_progress=on_progress)
    with (
        prefetch.stream(reader.snapshot(), size=lambda batch: int(batch.nbytes), most=READ_AHEAD_BYTES) as read,
        closing(recording.rows(read)) as batches,
    ):
        yield batches


def _id_types(page: SourceBatch) -> set[str]:
    """Of all documents of a page that have a text id."""
    rejected = {reject.source_id.type for reject in page.rejects if reject.source_id}
    return rejected.union(pc.unique(page.rows[ID_TYPE]).to_pylist())


def _stamped(metadata: Mapping[str, str], taken_at: datetime) -> dict[str, str]:
    return {**metadata, TAKEN_AT: taken_at.isoformat()}
