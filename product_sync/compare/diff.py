"""Finds what differs between the two snapshots and writes one row for each difference, for people and for the load.

Rows that are equal at about the same place are dropped first (`prefilter`). The others are brought together by id, in
ranges that fit into memory (`key_ranges`), and compared there (`rule`). `diff_lines` shows a diff to people.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import quarantine
from product_sync.compare.diff_rows import diff_file
from product_sync.compare.key_ranges import LIMITS, FileInput, Limits, by_key
from product_sync.compare.prefilter import drop_identical_rows
from product_sync.compare.rule import compare_rows
from product_sync.schema.records import Op, Reason
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import opened, pages, release_memory, row_count


@dataclass(frozen=True, slots=True)
class DiffCounts:
    """Numbers of products. ``source_count`` counts all documents. ``quarantined`` counts those that cannot be copied;
    ``refused`` of them were refused by the database with the values that they still have. ``missing``, ``changed`` and
    ``extra`` leave the quarantined out."""

    source_count: int
    target_count: int
    missing: int
    changed: int
    extra: int
    quarantined: int
    refused: int

    @property
    def to_write(self) -> int:
        """Rows that the load will try: the refused ones are tried again on every run."""
        return self.missing + self.changed + self.refused


def diff(
    row_schema: RowSchema,
    source_rows: Path,
    rejects: Path,
    target_rows: Path,
    previous_quarantine: Path | None,
    out: Path,
    *,
    metadata: Mapping[str, str],
    target_batches: Iterator[pa.RecordBatch] | None = None,
    unmatched: tuple[Path, Path] | None = None,
    limits: Limits = LIMITS,
) -> DiffCounts:
    """Write every difference to ``out`` (``RowSchema.diff_schema``) and count them.

    ``source_rows`` has ``RowSchema.source_schema``, ``target_rows`` ``RowSchema.target_schema``, ``rejects`` and
    ``previous_quarantine`` the schemas of `quarantine`. ``target_batches``, if given, are the rows of ``target_rows``
    while that file is still being written (`snapshot.target_while_read`). ``unmatched``, if given, are the rows of each
    side that were not found to be equal while they were read (`snapshot_both`). A product in ``rejects`` is in none of
    the differences. A row is ``refused_before`` where the previous quarantine says that the database refused these
    values.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix="diff-")))
        source, target = unmatched or drop_identical_rows(
            row_schema, source_rows, target_rows, folder, target_batches=target_batches
        )
        release_memory()
        found = stack.enter_context(diff_file(out, row_schema, folder, metadata=metadata))
        nothing_refused = row_schema.source_schema.empty_table()
        inputs = _inputs(row_schema, source, target, rejects, previous_quarantine)
        for new, old, rejected, *refused in by_key(inputs, folder, limits):
            rejected_ids = rejected.column(0).combine_chunks()
            for difference in compare_rows(row_schema, new, old, rejected_ids, *(refused or [nothing_refused])):
                found.add(*difference)
    release_memory()
    counts = found.counts
    refused_again = counts[True, Op.INSERT] + counts[True, Op.UPDATE]
    return DiffCounts(
        source_count=row_count(source_rows) + _without_row(rejects),
        target_count=row_count(target_rows),
        missing=counts[False, Op.INSERT],
        changed=counts[False, Op.UPDATE],
        extra=counts[False, Op.EXTRA],
        quarantined=row_count(rejects) + refused_again,
        refused=refused_again,
    )


def _inputs(
    row_schema: RowSchema, source: Path, target: Path, rejects: Path, previous_quarantine: Path | None
) -> list[FileInput]:
    """Both sides, the ids of the rejects, and the values that were refused before."""
    key = row_schema.key.name
    inputs = [
        FileInput(source, row_schema.source_schema, key),
        FileInput(target, row_schema.target_schema, key),
        FileInput(rejects, pa.schema([pa.field("id", pa.string())]), "id", ["id"], pa.RecordBatch.drop_null),
    ]
    if previous_quarantine is not None:
        inputs.append(quarantine.refused_input(previous_quarantine, row_schema))
    return inputs


def _without_row(rejects: Path) -> int:
    """How many rejected documents have no row in the source's snapshot. A document has a row if it is rejected only
    because another document has the same text id (`quarantine.add_duplicates`)."""
    count = 0
    with opened(rejects) as file:
        for page in pages(file, columns=["reasons"]):
            reasons = page.column("reasons")
            first = pc.list_element(reasons, 0)
            has_row = pc.and_(pc.equal(pc.list_value_length(reasons), 1), pc.equal(first, Reason.DUPLICATE_ID))
            count += page.num_rows - int(pc.sum(has_row, min_count=0).as_py())
    return count
