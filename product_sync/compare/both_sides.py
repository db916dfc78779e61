"""Reads both sides at the same time and drops rows that are identical on both (docs/decisions/0077).

Two threads read, one side each; the calling thread writes both files and compares. The rows without an identical
partner are kept in two files of their own, so that the diff need not read the snapshots again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from product_sync.compare import prefilter
from product_sync.compare.snapshot import (
    READ_AHEAD_BYTES,
    SourceRecording,
    SourceSnapshot,
    TargetRecording,
    TargetSnapshot,
)
from product_sync.runtime import prefetch
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import OnProgress
from product_sync.schema.ports import Source, TargetReader
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import RUN_ID, TAKEN_AT, read_metadata, release_memory
from product_sync.state.mirror import is_there


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
        read = _read(read_metadata(self.source_rows), read_metadata(self.target_rows))
        return self.unmatched if all(read.items() <= read_metadata(path).items() for path in self.unmatched) else None


def snapshot_both(
    source: Source,
    reader: TargetReader,
    row_schema: RowSchema,
    files: BothFiles,
    *,
    metadata: Mapping[str, str],
    timing: Timing,
    on_progress: OnProgress,
    window: prefilter.Window = prefilter.WINDOW,
) -> tuple[SourceSnapshot, TargetSnapshot]:
    """As `snapshot_source` and `snapshot_target` together. ``files.unmatched`` are written only if the rows of both
    sides lie in a similar order."""
    new = SourceRecording(
        source, row_schema, files.source_rows, files.rejects, metadata=metadata, timing=timing, on_progress=on_progress
    )
    old = TargetRecording(
        reader, row_schema, files.target_rows, metadata=metadata, timing=timing, on_progress=on_progress
    )
    with (
        tempfile.TemporaryDirectory(dir=files.source_rows.parent, prefix="pairs-") as folder,
        prefetch.stream(source.snapshot(), size=lambda page: int(page.rows.nbytes), most=READ_AHEAD_BYTES) as pages,
        prefetch.stream(reader.snapshot(), size=lambda batch: int(batch.nbytes), most=READ_AHEAD_BYTES) as batches,
        closing(new.rows(pages)) as source_rows,
        closing(old.rows(batches)) as target_rows,
    ):
        left = Path(folder, "source"), Path(folder, "target")
        read = _read(new.stamped, old.stamped)
        pays = prefilter.unmatched(row_schema, source_rows, target_rows, left, window, metadata=read)
        _read_rest(source_rows, target_rows)
        if pays:
            for path, place in zip(left, files.unmatched, strict=True):
                path.replace(place)
    release_memory()
    return new.snapshot(), old.snapshot()


def _read(source: Mapping[str, str], target: Mapping[str, str]) -> dict[str, str]:
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
