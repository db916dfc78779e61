"""Proves that the two sides agree, or names the differences.

Under live traffic some event is always in flight. So a difference counts only if a second reading a few seconds later
still finds it, with the same value in the source. Without the second reading every healthy system would be reported as
broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.diff import DiffCounts, diff
from product_sync.compare.rule import same_values
from product_sync.compare.snapshot import Reading, target_while_read
from product_sync.load.batching import read_batches
from product_sync.load.deletion import present_in_source
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter, OnProgress
from product_sync.schema.ports import Source, TargetReader
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import release_memory

SETTLE_SECONDS = 5.0
_CHUNK_ROWS = 2_000
_SHOWN_IDS = 10

OnConfirmed = Callable[[pa.Table, Mapping[Op, Sequence[str]]], None]


@dataclass(frozen=True, slots=True)
class Verification:
    """The products that differ at both readings. ``in_flight`` differed at the first reading only, or changed in the
    source between the two. The ids are the first ten of each kind."""

    source_count: int
    target_count: int
    missing: int
    changed: int
    extra: int
    quarantined: int
    in_flight: int
    missing_ids: tuple[str, ...]
    changed_ids: tuple[str, ...]
    extra_ids: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return self.missing == 0 and self.changed == 0


def compare_afresh(
    row_schema: RowSchema,
    source_rows: Path,
    rejects: Path,
    target_rows: Path,
    quarantine: Path | None,
    out: Path,
    *,
    reader: TargetReader,
    **reading: Unpack[Reading],
) -> DiffCounts:
    """Read the target again into ``target_rows`` and compare it with the source snapshot at the same time.
    ``quarantine`` is the current one, with the entries of the load. The other files are those of `diff`."""
    release_memory()
    files = source_rows, rejects, target_rows, quarantine, out
    with target_while_read(reader, row_schema, target_rows, **reading) as batches:
        return diff(row_schema, *files, metadata=reading["metadata"], target_batches=batches)


def confirm(
    row_schema: RowSchema,
    differences: Path,
    counts: DiffCounts,
    *,
    source: Source,
    reader: TargetReader,
    timing: Timing,
    on_progress: OnProgress,
    settle_s: float = SETTLE_SECONDS,
    on_confirmed: OnConfirmed | None = None,
) -> Verification:
    """Read the differences of a diff file again from both sides, ``settle_s`` seconds later. ``counts`` are those of
    the same file. Without differences this returns at once. ``on_confirmed`` is given the rows, and the ids of those
    that still differ."""
    candidates = counts.missing + counts.changed + counts.extra
    confirmed, first = Counter[Op](), {op: list[str]() for op in Op}
    if candidates:
        meter = Meter("confirm differences", candidates, on_progress, timing)
        meter.advance(0)
        meter.pause(settle_s, "second reading")
        for chunk in read_batches(differences, tuple(Op), lambda: _CHUNK_ROWS):
            if chunk["refused_before"][0].as_py():
                continue
            standing = dict(_confirmed(chunk, row_schema, source, reader))
            if on_confirmed:
                on_confirmed(chunk, standing)
            for op, ids in standing.items():
                confirmed[op] += len(ids)
                first[op] += ids[: _SHOWN_IDS - len(first[op])]
            meter.advance(chunk.num_rows)
    return Verification(
        source_count=counts.source_count,
        target_count=counts.target_count,
        missing=confirmed[Op.INSERT],
        changed=confirmed[Op.UPDATE],
        extra=confirmed[Op.EXTRA],
        quarantined=counts.quarantined,
        in_flight=candidates - confirmed.total(),
        missing_ids=tuple(first[Op.INSERT]),
        changed_ids=tuple(first[Op.UPDATE]),
        extra_ids=tuple(first[Op.EXTRA]),
    )


def _confirmed(
    chunk: pa.Table, row_schema: RowSchema, source: Source, reader: TargetReader
) -> Iterator[tuple[Op, list[str]]]:
    """Read the rows of a chunk again from both sides; gives the ids that still differ, by op."""
    key = row_schema.key.name
    target = reader.fetch(diff_rows.ids(chunk))
    extra = diff_rows.ids(diff_rows.with_ids(diff_rows.of_op(chunk, Op.EXTRA), "id", target[key].to_pylist()))
    back = present_in_source(extra, source) if extra else set()
    yield Op.EXTRA, [row_id for row_id in extra if row_id not in back]

    for op in (Op.INSERT, Op.UPDATE):
        rows = diff_rows.of_op(chunk, op)
        if rows.num_rows == 0:
            continue
        ids = diff_rows.ids(rows)
        page = source.fetch(diff_rows.source_ids(rows))
        now = diff_rows.aligned(pa.Table.from_batches([page.rows], row_schema.source_schema), key, ids)
        there = diff_rows.aligned(target, key, ids)
        absent = pc.is_null(there[key])
        if op is Op.INSERT:
            stands = pc.and_(pc.is_valid(now[key]), absent)
        else:
            unchanged = same_values(now, diff_rows.new_rows(rows, row_schema), row_schema.compared)
            differs = pc.or_(absent, pc.invert(same_values(now, there, row_schema.compared)))
            stands = pc.and_(pc.and_(pc.is_valid(now[key]), unchanged), differs)
        yield op, diff_rows.ids(rows.filter(stands))
