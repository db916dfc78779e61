"""Finds what differs between the two snapshots, and writes it down row by row, for people and for the load.

Rows that are equal at about the same place are left out first (`pairs`). The others are brought together by id, so many
at a time as fit into memory (`key_ranges`), and compared there (`compare_rows`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from product_sync.compare import diff_rows, quarantine
from product_sync.compare.diff_file import diff_file
from product_sync.compare.differences import diff_table, differences
from product_sync.compare.key_ranges import LIMITS, FileInput, Limits, by_key, rises
from product_sync.compare.prefilter import drop_identical_rows
from product_sync.runtime import prefetch
from product_sync.schema.records import Op, Reason, TypeName
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.state.files import (
    opened,
    pages,
    release_memory,
    row_count,
    write_parquet,
)

#: So many ids are held in memory beside the rows of an initial load.
_FEW_REJECTS = 100_000
#: The most bytes of the rows of an op that are looked at for people.
_EXAMINED_BYTES = 8 * 1024 * 1024
_SHOWN_CHARACTERS = 200
_INFINITE = {2**63 - 1: "infinity", -(2**63): "-infinity"}


@dataclass(frozen=True, slots=True)
class DiffCounts:
    """Numbers of products. ``source_count`` is of all documents, ``quarantined`` of those that cannot be copied
    (``refused`` of them were refused by the database with the values they still have); ``missing``,
    ``changed`` and ``extra`` leave the quarantined out."""

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


@dataclass(frozen=True, slots=True)
class Difference:
    """One line for people. For an update one column's two values; for an insert or an extra row ``column`` is
    empty and ``new`` or ``old`` holds all values. NULL is ``None``; long values are cut."""

    op: Op
    id: str
    column: str
    old: str | None
    new: str | None


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
    ``previous_quarantine`` the schemas of `quarantine`. ``target_batches``, if given, are the rows of a ``target_rows``
    that is there only when they end (`snapshot.target_while_read`); ``unpaired``, if given, are files of the rows of
    each side that were not yet found to be equal (`both_sides`). A product in ``rejects`` is in none of the
    differences. A row is ``refused_before`` where the previous quarantine says that the database refused these very
    values.
    Rows come in the order: not refused before refused, then insert, update, extra, then id.
    """
    counter: Counter[tuple[bool, Op]] = Counter()
    rejected = row_count(rejects)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix="pairs-")))
        source, target = unmatched or drop_identical_rows(
            row_schema, source_rows, target_rows, folder, target_batches=target_batches
        )
        release_memory()
        if _is_initial(row_schema, source, target, rejected, previous_quarantine):
            counter[False, Op.INSERT] = write_parquet(
                out, row_schema.diff_schema, prefetch.each(_all_missing(source, rejects, row_schema)), metadata=metadata
            )
        else:
            ranges = by_key(_inputs(row_schema, source, target, rejects, previous_quarantine), folder, limits)
            found = stack.enter_context(diff_file(out, row_schema, folder, metadata=metadata))
            nothing_refused = quarantine.refused_schema(row_schema).empty_table()
            for new, old, rejected_ids, *refused_rows in ranges:
                ids = rejected_ids.column(0).combine_chunks()
                for difference in differences(row_schema, new, old, ids, *(refused_rows or [nothing_refused])):
                    found.add(*difference)
            counter = found.counts
    release_memory()
    refused = counter[True, Op.INSERT] + counter[True, Op.UPDATE]
    return DiffCounts(
        source_count=row_count(source_rows) + _without_row(rejects),
        target_count=row_count(target_rows),
        missing=counter[False, Op.INSERT],
        changed=counter[False, Op.UPDATE],
        extra=counter[False, Op.EXTRA],
        quarantined=rejected + refused,
        refused=refused,
    )


def _without_row(rejects: Path) -> int:
    """How many rejected documents have no row in the source's snapshot. One that has a row is rejected for nothing but
    its text id, which another document has too (`quarantine.add_duplicates`)."""
    count = 0
    with opened(rejects) as file:
        for page in pages(file, columns=["reasons"]):
            reasons = page.column("reasons")
            first = pc.list_element(reasons, 0)
            has_row = pc.and_(pc.equal(pc.list_value_length(reasons), 1), pc.equal(first, Reason.DUPLICATE_ID))
            count += page.num_rows - int(pc.sum(has_row, min_count=0).as_py())
    return count


def _inputs(
    row_schema: RowSchema, source: Path, target: Path, rejects: Path, previous_quarantine: Path | None
) -> list[FileInput]:
    """What is compared: both sides, the ids of the rejects, and the values that were refused before."""
    key = row_schema.key.name
    inputs = [
        FileInput(source, row_schema.source_schema, key),
        FileInput(target, row_schema.target_schema, key),
        FileInput(rejects, pa.schema([pa.field("id", pa.string())]), "id", ["id"], pa.RecordBatch.drop_null),
    ]
    return (
        inputs if previous_quarantine is None else [*inputs, quarantine.refused_input(previous_quarantine, row_schema)]
    )


def _is_initial(
    row_schema: RowSchema, source: Path, target: Path, rejected: int, previous_quarantine: Path | None
) -> bool:
    """Whether all rows of the source are inserts, in the order of a diff."""
    has_refused = previous_quarantine is not None and quarantine.has_refused(previous_quarantine)
    return not row_count(target) and rejected <= _FEW_REJECTS and not has_refused and _is_in_order(source, row_schema)


def _is_in_order(source: Path, row_schema: RowSchema) -> bool:
    """Whether the ids of a source file rise from row to row, as they do where it was read by ``_id``s of one type."""
    last = pa.nulls(0, pa.string())
    with opened(source) as file:
        for page in pages(file, columns=[row_schema.key.name]):
            ids = pa.concat_arrays([last, page.column(0)])
            if not rises(ids):
                return False
            last = ids[-1:]
    return True


def _all_missing(source: Path, rejects: Path, row_schema: RowSchema) -> Iterator[pa.RecordBatch]:
    """What `differences` says of the rows of a source file whose ids are in order, and of a target without rows."""
    rejected = pq.ParquetFile(rejects).read(columns=["id"])["id"]
    with opened(source) as file:
        for page in pages(file):
            rows = pa.Table.from_batches([page])
            rows = rows.filter(pc.invert(pc.is_in(rows[row_schema.key.name], value_set=rejected)))
            yield from diff_table(row_schema, Op.INSERT, rows, None, refused=False).to_batches()


def changed_columns(path: Path, row_schema: RowSchema) -> dict[str, int]:
    """Per compared column: in how many of the changed rows it differs. Refused rows do not count."""
    counts = dict.fromkeys((column.name for column in row_schema.compared), 0)
    for rows in _rows_of(path, Op.UPDATE):
        new, old = diff_rows.new_rows(rows, row_schema), diff_rows.old_rows(rows, row_schema)
        for column in row_schema.compared:
            same = diff_rows.same_values(new, old, [column])
            counts[column.name] += rows.num_rows - int(pc.sum(same, min_count=0).as_py())
    return counts


def first_differences(path: Path, row_schema: RowSchema, limit_per_op: int = 10) -> list[Difference]:
    """The first rows of each op, by id, as lines for people; rows that were refused before are left out."""
    shown: list[Difference] = []
    for op in Op:
        left = limit_per_op
        for rows in _rows_of(path, op):
            for index in range(min(left, rows.num_rows)):
                shown.extend(lines_of(rows.slice(index, 1), op, row_schema))
            left -= rows.num_rows
            if left <= 0:
                break
    return shown


def first_rows(path: Path, op: Op, limit: int, most_bytes: int = _EXAMINED_BYTES) -> pa.Table:
    """The first ``limit`` rows of ``op``, by id, without those that were refused before: fewer, but one at least, where
    these would have more than ``most_bytes``."""
    found = pq.read_schema(path).remove_metadata().empty_table()
    for rows in _rows_of(path, op):
        for index in range(min(limit - found.num_rows, rows.num_rows)):
            row = rows.slice(index, 1)
            if found.num_rows and found.nbytes + row.nbytes > most_bytes:
                return found
            found = pa.concat_tables([found, row])
        if found.num_rows == limit:
            break
    return found


def _rows_of(path: Path, op: Op) -> Iterator[pa.Table]:
    """The rows of ``op`` that were not refused before, in parts that have some. Values of other rows are not read."""
    with opened(path) as file:
        for group in range(file.num_row_groups):
            marks = file.read_row_group(group, columns=["op", "refused_before"])
            wanted = pc.and_(pc.equal(marks["op"], str(op)), pc.invert(marks["refused_before"]))
            if pc.any(wanted, min_count=0).as_py():
                yield from _chosen(pages(file, groups=[group]), wanted)


def _chosen(read: Iterator[pa.RecordBatch], wanted: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The wanted rows of each page that has some."""
    start = 0
    for page in read:
        rows = pa.Table.from_batches([page]).filter(wanted.slice(start, page.num_rows))
        start += page.num_rows
        if rows.num_rows:
            yield rows.replace_schema_metadata()


def lines_of(row: pa.Table, op: Op, row_schema: RowSchema) -> Iterator[Difference]:
    """A diff row of ``op`` as lines for people: of an update, one for each column that differs."""
    new, old = diff_rows.new_rows(row, row_schema), diff_rows.old_rows(row, row_schema)
    row_id = diff_rows.ids(row)[0]
    if op is Op.INSERT:
        yield Difference(op, row_id, "", None, _all_values(new, row_schema))
    elif op is Op.EXTRA:
        yield Difference(op, row_id, "", _all_values(old, row_schema), None)
    else:
        for column in row_schema.compared:
            if not diff_rows.same_values(new, old, [column])[0].as_py():
                yield Difference(op, row_id, column.name, shown(old, column), shown(new, column))


def _all_values(row: pa.Table, row_schema: RowSchema) -> str:
    """The whole row; each value is bounded."""
    values = ((column.name, shown(row, column)) for column in row_schema.values)
    return ", ".join(f"{name}: {'NULL' if value is None else value}" for name, value in values)


def shown(row: pa.Table, column: RowColumn) -> str | None:
    """The value of a table's first row in this column, bounded, for people; ``None`` for NULL."""
    scalar = row[column.name][0]
    if not scalar.is_valid:
        return None
    if column.type.name is TypeName.TIMESTAMPTZ:
        return _shown_timestamp(scalar)
    return _cut(str(scalar.as_py()))


def _shown_timestamp(scalar: Any) -> str:
    try:
        return _INFINITE.get(scalar.value) or str(scalar.as_py().isoformat())
    except (ValueError, OverflowError):  # Python's calendar ends with the year 9999, PostgreSQL's does not
        return f"{scalar.value} microseconds since 1970"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
