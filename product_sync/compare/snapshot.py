"""Reads each side once, as a stream, into a file. Memory does not grow with the catalogue.

The file notes when the read *began*. Later checks, such as the age of a plan, count from that moment, because no value
in the file is older.
"""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NotRequired, TypedDict, Unpack

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import prefilter, quarantine
from product_sync.compare.sample import NO_SAMPLE, Sample, take_sample
from product_sync.errors import ProductSyncError
from product_sync.runtime import prefetch
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter, OnProgress
from product_sync.schema.ports import Source, TargetReader
from product_sync.schema.records import Reason, SourceBatch, Stage
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.state.files import RUN_ID, TAKEN_AT, read_metadata, release_memory, row_count, table_writer
from product_sync.state.mirror import is_there

#: Bytes of rows that a thread may read ahead of the comparison, on each side.
READ_AHEAD_BYTES: Final = 2 * 1024 * 1024


class Reading(TypedDict):
    """The metadata of the files that a read writes, its clock, and who is told of its progress. ``expected`` is the
    number of rows of a read that is not of everything."""

    metadata: Mapping[str, str]
    timing: Timing
    on_progress: OnProgress
    expected: NotRequired[int]


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """``documents`` were read, ``rejected`` of them cannot be copied; ``rejects`` counts these by reason (a document
    with several faults under each). ``taken_at`` is when reading began. ``found`` counts by column the documents in
    which its path has a value; ``sample`` was read right after. With a filter, either ``filtered_out`` or
    ``filtered_out_about`` says how many documents it left out, or about how many, if they could be counted."""

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
    source: Source, row_schema: RowSchema, rows_path: Path, rejects_path: Path, **reading: Unpack[Reading]
) -> SourceSnapshot:
    """Write every document to ``rows_path`` (``RowSchema.source_schema``) or ``rejects_path`` (`rejects_schema`).
    Documents that share a text id are in both files. A reader of the rows skips the ids of the rejects."""
    recording = _SourceRecording(source, row_schema, rows_path, rejects_path, reading)
    deque(recording.rows(source.snapshot()), maxlen=0)
    return recording.snapshot()


class _SourceRecording:
    """Writes the pages of a source to the files while they are read. Made when the read begins."""

    def __init__(
        self, source: Source, row_schema: RowSchema, rows_path: Path, rejects_path: Path, reading: Reading
    ) -> None:
        self.taken_at = reading["timing"].now()
        self.stamped = {**reading["metadata"], TAKEN_AT: self.taken_at.isoformat()}
        self._row_schema = row_schema
        self._rows_path, self._rejects_path = rows_path, rejects_path
        total = reading.get("expected")
        if total is None and not row_schema.filter:
            total = source.estimated_count()
        self._meter = Meter("read source", total, reading["on_progress"], reading["timing"])
        self._reasons: Mapping[Reason, int] = {}
        self._source = source
        self._absent: Counter[str] = Counter()

    def rows(self, pages: Iterator[SourceBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The rows of each page. The files exist when all are read, and no part of them if the read stops early."""
        row_schema, stamped = self._row_schema, self.stamped
        converted = self._rejects_path.with_name(f"{self._rejects_path.name}.without_duplicates")
        id_types: set[str] = set()
        with (
            table_writer(
                self._rows_path, row_schema.source_schema, metadata=stamped, sought_by=row_schema.key.name
            ) as rows,
            table_writer(converted, quarantine.rejects_schema(row_schema), metadata=stamped) as rejects,
        ):
            for page in pages:
                rows.write(page.rows)
                id_types |= _id_types(page)
                self._absent.update(page.absent)
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
        """The counts and the sample, after all rows are read: pages and sample may have megabytes in each document."""
        return SourceSnapshot(
            documents=self._meter.done,
            rejected=row_count(self._rejects_path),
            rejects=self._reasons,
            taken_at=self.taken_at,
            duration_s=self._meter.elapsed_s,
            rows_per_second=self._meter.rate,
            found=found_by_column(self._row_schema, self._meter.done, self._absent),
            sample=read_sample(self._source, self._row_schema) if self._meter.done else NO_SAMPLE,
        )


def found_by_column(row_schema: RowSchema, documents: int, absent: Mapping[str, int]) -> dict[str, int]:
    """In how many of ``documents`` the path of each column has a value, or its expression gives one. ``absent`` is that
    of `SourceBatch`. A column with the same value in every row has no path.

    A path that no document has is nearly always a mistake in the mapping: with a default, it would be written into
    every row, and the copy would still be proven.
    """
    return {column.name: documents - absent.get(column.name, 0) for column in row_schema.columns if column.path}


def read_sample(source: Source, row_schema: RowSchema) -> Sample:
    """A sample of whole documents; the pages contain the mapped fields only. Nothing depends on it, so its failure is
    no error."""
    try:
        return take_sample(source.sample(), row_schema)
    except ProductSyncError:
        return NO_SAMPLE


def snapshot_target(
    reader: TargetReader, row_schema: RowSchema, path: Path, **reading: Unpack[Reading]
) -> TargetSnapshot:
    """Write every row of the target to ``path`` (``RowSchema.target_schema``), as one consistent state."""
    recording = _TargetRecording(reader, row_schema, path, reading)
    deque(recording.rows(reader.snapshot()), maxlen=0)
    release_memory()
    return recording.snapshot()


class _TargetRecording:
    """Writes the rows of a target to the file while they are read. Made when the read begins."""

    def __init__(self, reader: TargetReader, row_schema: RowSchema, path: Path, reading: Reading) -> None:
        self.taken_at = reading["timing"].now()
        self.stamped = {**reading["metadata"], TAKEN_AT: self.taken_at.isoformat()}
        self._row_schema = row_schema
        self._path = path
        total = reading["expected"] if "expected" in reading else reader.estimated_count()
        self._meter = Meter("read target", total, reading["on_progress"], reading["timing"])

    def rows(self, batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The same batches. The file exists when all are read, and no part of it if the read stops early."""
        schema, key = self._row_schema.target_schema, self._row_schema.key.name
        with table_writer(self._path, schema, metadata=self.stamped, sought_by=key) as sink:
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
    reader: TargetReader, row_schema: RowSchema, path: Path, **reading: Unpack[Reading]
) -> Iterator[Iterator[pa.RecordBatch]]:
    """As `snapshot_target`, but yields the rows while another thread reads them. ``path`` exists when all are read, and
    no part of it if the read stops early."""
    recording = _TargetRecording(reader, row_schema, path, reading)
    with (
        prefetch.stream(reader.snapshot(), size=lambda batch: int(batch.nbytes), most=READ_AHEAD_BYTES) as read,
        closing(recording.rows(read)) as batches,
    ):
        yield batches


def _id_types(page: SourceBatch) -> set[str]:
    """Of all documents of a page that have a text id."""
    rejected = {reject.source_id.type for reject in page.rejects if reject.source_id}
    return rejected.union(pc.unique(page.rows[ID_TYPE]).to_pylist())


@dataclass(frozen=True, slots=True)
class BothFiles:
    """The files of the two snapshots, and those of the rows without an identical partner."""

    source_rows: Path
    rejects: Path
    target_rows: Path
    unmatched: tuple[Path, Path]

    def found_unmatched(self) -> tuple[Path, Path] | None:
        """The rows without an identical partner, if these files belong to these two snapshots."""
        if not all(map(is_there, self.unmatched)):
            return None
        read = _reading_of(read_metadata(self.source_rows), read_metadata(self.target_rows))
        return self.unmatched if all(read.items() <= read_metadata(path).items() for path in self.unmatched) else None


def snapshot_both(
    source: Source,
    reader: TargetReader,
    row_schema: RowSchema,
    files: BothFiles,
    *,
    window: prefilter.Window = prefilter.WINDOW,
    **reading: Unpack[Reading],
) -> tuple[SourceSnapshot, TargetSnapshot]:
    """As `snapshot_source` and `snapshot_target` at the same time (docs/decisions/0077).

    Two threads read, one side each; the calling thread writes both files and compares. The rows without an identical
    partner are kept in ``files.unmatched``, so that the diff need not read the snapshots again, but only if the rows of
    both sides lie in a similar order.
    """
    new = _SourceRecording(source, row_schema, files.source_rows, files.rejects, reading)
    old = _TargetRecording(reader, row_schema, files.target_rows, reading)
    with (
        tempfile.TemporaryDirectory(dir=files.source_rows.parent, prefix="pairs-") as folder,
        prefetch.stream(source.snapshot(), size=lambda page: int(page.rows.nbytes), most=READ_AHEAD_BYTES) as pages,
        prefetch.stream(reader.snapshot(), size=lambda batch: int(batch.nbytes), most=READ_AHEAD_BYTES) as batches,
        closing(new.rows(pages)) as source_rows,
        closing(old.rows(batches)) as target_rows,
    ):
        left = Path(folder, "source"), Path(folder, "target")
        read = _reading_of(new.stamped, old.stamped)
        pays = prefilter.unmatched(row_schema, source_rows, target_rows, left, window, metadata=read)
        _read_rest(source_rows, target_rows)
        if pays:
            for path, place in zip(left, files.unmatched, strict=True):
                path.replace(place)
    release_memory()
    return new.snapshot(), old.snapshot()


def _reading_of(source: Mapping[str, str], target: Mapping[str, str]) -> dict[str, str]:
    """Identify two snapshots by the metadata of their files: which run, and when it began to read."""
    return {
        name: f"{metadata.get(RUN_ID)} {metadata[TAKEN_AT]}"
        for name, metadata in (("source", source), ("target", target))
    }


def _read_rest(*sides: Iterator[pa.RecordBatch]) -> None:
    """Read both sides to their ends. The side with fewer rows is read next, so that neither waits for the other."""
    rows = dict.fromkeys(sides, 0)
    while rows:
        behind = min(rows, key=rows.__getitem__)
        if (batch := next(behind, None)) is not None:
            rows[behind] += batch.num_rows
        else:
            del rows[behind]
