"""Looks up the differences of a run in the snapshots of earlier runs, as observations for `drift_cause`.

Only the first differences of each kind are looked up, by id, in files that exist anyway. Other columns than the id are
read only from row groups with one of these ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.diff_lines import Difference, lines_of
from product_sync.compare.rule import same_values
from product_sync.errors import LocalStorageError
from product_sync.schema.records import Op
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.state.files import opened, pages
from product_sync.verify.drift_cause import Explanation, Observation, Side, explain

#: A run that has begun since may have removed the file, or the file is damaged.
_UNREADABLE = (LocalStorageError, OSError)


#: Gives the observation of a product by id and column; the column is empty for an insert or an extra row.
_Observe = Callable[[str, str], Observation]


@dataclass(frozen=True, slots=True)
class EarlierFile:
    """A snapshot of one side, read ``at`` some moment. A snapshot of the source has ``rejects`` too."""

    side: Side
    at: datetime
    rows: Path
    rejects: Path | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """A difference as a line for people, the type of its ``_id`` (empty for an extra row), and its cause."""

    difference: Difference
    id_type: str
    explanation: Explanation


def explain_differences(
    rows_by_op: Iterable[tuple[Op, pa.Table]],
    row_schema: RowSchema,
    earlier: Iterable[EarlierFile],
    source_read_at: datetime,
) -> list[Explained]:
    """The rows of a diff (``RowSchema.diff_schema``) as lines, each explained by the ``earlier`` snapshots. Unreadable
    files are left out."""
    kinds = [(op, rows) for op, rows in rows_by_op if rows.num_rows]
    observers: dict[Op, list[_Observe]] = {op: [] for op, _ in kinds}
    for file in earlier if kinds else ():
        try:
            of_file = [(op, _observer(file, op, rows, row_schema)) for op, rows in kinds]
        except _UNREADABLE:
            continue
        for op, observe in of_file:
            observers[op].append(observe)
    explained = []
    for op, rows in kinds:
        for place, id_type in enumerate(rows[ID_TYPE].to_pylist()):
            for line in lines_of(rows.slice(place, 1), op, row_schema):
                observations = [observe(line.id, line.column) for observe in observers[op]]
                explained.append(Explained(line, id_type or "", explain(op, observations, source_read_at)))
    return explained


def _observer(file: EarlierFile, op: Op, rows: pa.Table, row_schema: RowSchema) -> _Observe:
    """Look up the rows of a diff in one snapshot. Values are compared while the snapshot is read, and not kept."""
    ids = diff_rows.ids(rows)
    rejected = _rejected(file, ids)
    columns = row_schema.compared if op is Op.UPDATE else ()
    #: By id and column: whether the value is that of the source now, and that of the target now.
    values: dict[tuple[str, str], tuple[bool, bool]] = {}
    for found in _rows_of(file, row_schema, ids):
        found_ids = found[row_schema.key.name].to_pylist()
        of_diff = diff_rows.aligned(rows, "id", found_ids)
        new, old = diff_rows.new_rows(of_diff, row_schema), diff_rows.old_rows(of_diff, row_schema)
        values |= {(row_id, ""): (False, False) for row_id in found_ids}
        for column in columns:
            is_new, is_old = (same_values(found, side, [column]).to_pylist() for side in (new, old))
            values |= {
                (row_id, column.name): (new_too, old_too)
                for row_id, new_too, old_too in zip(found_ids, is_new, is_old, strict=True)
            }

    def observe(row_id: str, column: str) -> Observation:
        reasons = rejected.get(row_id, ())
        is_new, is_old = (False, False) if reasons else values.get((row_id, column), (False, False))
        present = bool(reasons) or (row_id, "") in values
        return Observation(file.side, file.at, present=present, is_new=is_new, is_old=is_old, rejected=reasons)

    return observe


def seen_before(
    row_id: str, row_schema: RowSchema, earlier: Iterable[EarlierFile]
) -> Iterator[tuple[EarlierFile, pa.Table, tuple[str, ...]]]:
    """What each snapshot has of one product: a table of that side's schema with its row or none, and the reasons why
    the document could not be copied. Unreadable files are left out."""
    for file in earlier:
        schema = _schema(file, row_schema)
        try:
            found = pa.concat_tables([schema.empty_table(), *_rows_of(file, row_schema, [row_id])])
            rejected = _rejected(file, [row_id])
        except _UNREADABLE:
            continue
        yield file, found, rejected.get(row_id, ())


def _schema(file: EarlierFile, row_schema: RowSchema) -> pa.Schema:
    return row_schema.source_schema if file.side is Side.SOURCE else row_schema.target_schema


def _rows_of(file: EarlierFile, row_schema: RowSchema, ids: Sequence[str]) -> Iterator[pa.Table]:
    """The rows with these ids. Row groups without them are skipped."""
    schema, key = _schema(file, row_schema), row_schema.key.name
    wanted, first, last = pa.array(ids, pa.string()), min(ids), max(ids)
    with opened(file.rows) as read:
        for at, group in enumerate(read.groups):
            if not group.may_hold(key, first, last):
                continue
            if not pc.any(pc.is_in(read.read(at, [key]).column(0), value_set=wanted), min_count=0).as_py():
                continue
            for page in pages(read, groups=[at]):
                rows = pa.Table.from_batches([page]).filter(pc.is_in(page.column(key), value_set=wanted))
                if rows.num_rows:
                    yield rows.cast(schema)


def _rejected(file: EarlierFile, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The reasons why the documents of ``ids`` could not be copied."""
    if file.rejects is None:
        return {}
    wanted = pa.array(ids, pa.string())
    with opened(file.rejects) as read:
        found = [
            entry
            for page in pages(read, columns=["id", "reasons"])
            for entry in page.filter(pc.is_in(page["id"], value_set=wanted)).to_pylist()
        ]
    return {entry["id"]: tuple(sorted(set(entry["reasons"]))) for entry in found}
