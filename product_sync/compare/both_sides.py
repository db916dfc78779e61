"""Reads both sides at once, and leaves out what is equal in both while they are being read.

Comparing takes as long again as reading the files, on one processor, while another one has nothing to do. What the two
snapshots have not in common is kept beside them, for the diff of these very snapshots (docs/decisions/0077).
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


@dataclass(frozen=True, slots=True)
class BothFiles:
    """Where the snapshots are, and the rows of each that may have no equal partner in the other one."""

    source_rows: Path
    rejects: Path
    target_rows: Path
    unmatched: tuple[Path, Path]

    def found_unmatched(self) -> tuple[Path, Path] | None:
        """The unpaired rows of these very snapshots, if they were written down."""
        if not all(path.exists() for path in self.unmatched):
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
    """As `snapshot_source` and `snapshot_target`, each side read by a thread of its own. Unpaired rows are written down
    where the orders of the two have something in common (`pairs`)."""
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
        is_worth_it = prefilter.unmatched(row_schema, source_rows, target_rows, left, window, metadata=read)
        _pass_on(source_rows, target_rows)
        if is_worth_it:
            for path, place in zip(left, files.unmatched, strict=True):
                path.replace(place)
    release_memory()
    return new.snapshot(), old.snapshot()


def _read(source: Mapping[str, str], target: Mapping[str, str]) -> dict[str, str]:
    """Which two readings these are, from the metadata of their files."""
    return {
        name: f"{metadata.get(RUN_ID)} {metadata[TAKEN_AT]}"
        for name, metadata in (("source", source), ("target", target))
    }


def _pass_on(*sides: Iterator[pa.RecordBatch]) -> None:
    """Let all rows pass, those of the side that is behind first: neither reading waits for the other one."""
    passed = dict.fromkeys(sides, 0)
    while passed:
        behind = min(passed, key=passed.__getitem__)
        batch = next(behind, None)
        if batch is None:
            del passed[behind]
        else:
            passed[behind] += batch.num_rows
