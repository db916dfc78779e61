"""Looks up the differences of a run in the snapshots of earlier runs, as observations for `drift_cause`.

Only the first differences of each kind are looked up, by id, in files that exist anyway. Other columns than the id are
read only from row groups with one of these ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.diff_lines import Difference, lines_of
from product_sync.compare.rule import same_values
from product_sync.schema.records import Op
from product_sync.schema.row_schema import ID_TYPE, RowColumn, RowSchema
from product_sync.state.files import opened, pages
from product_sync.verify.drift_cause import Explanation, Observation, Side, explain

#: A run that has begun since may have removed the file, or the file is damaged.
_UNREADABLE = (pa.ArrowInvalid, OSError)


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
    if not kinds:
        return []
    lookups: dict[Op, list[_Lookup]] = {op: [] for op, _ in kinds}
    for file in earlier:
        try:
            of_file = [(op, _Lookup(file, op, rows, row_schema)) for op, rows in kinds]
        except _UNREADABLE:
            continue
        for op, of_kind in of_file:
            lookups[op].append(of_kind)
    return [line for op, rows in kinds for line in _explained(op, rows, row_schema, lookups[op], source_read_at)]


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
        place = read.schema_arrow.get_field_index(key)
        for group in range(read.num_row_groups):
            bounds = read.metadata.row_group(group).column(place).statistics
            if bounds is not None and bounds.has_min_max and (bounds.max < first or bounds.min > last):
                continue
            is_wanted = pc.is_in(read.read_row_group(group, columns=[key])[key], value_set=wanted)
            if not pc.any(is_wanted, min_count=0).as_py():
                continue
            for page in pages(read, groups=[group]):
                rows = pa.Table.from_batches([page]).filter(pc.is_in(page.column(place), value_set=wanted))
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


def _explained(
    op: Op, rows: pa.Table, row_schema: RowSchema, lookups: list[_Lookup], source_read_at: datetime
) -> Iterable[Explained]:
    columns = row_schema.compared if op is Op.UPDATE else ()
    by_name = {column.name: column for column in columns}
    id_types = rows[ID_TYPE].to_pylist()
    for place in range(rows.num_rows):
        for line in lines_of(rows.slice(place, 1), op, row_schema):
            observations = [lookup.observation(place, by_name.get(line.column)) for lookup in lookups]
            yield Explained(line, id_types[place] or "", explain(op, observations, source_read_at))


class _Lookup:
    """What one snapshot has of each row of a diff. Values are compared while the snapshot is read, and not kept."""

    def __init__(self, file: EarlierFile, op: Op, rows: pa.Table, row_schema: RowSchema) -> None:
        self._file = file
        self._ids = diff_rows.ids(rows)
        self._rejected = _rejected(file, self._ids)
        columns = row_schema.compared if op is Op.UPDATE else ()
        self._present = np.zeros(rows.num_rows, dtype=bool)
        self._is_new = {column.name: np.zeros(rows.num_rows, dtype=bool) for column in columns}
        self._is_old = {column.name: np.zeros(rows.num_rows, dtype=bool) for column in columns}
        for found in _rows_of(file, row_schema, self._ids):
            ids = found[row_schema.key.name]
            places = pc.index_in(ids, value_set=pa.array(self._ids, pa.string())).to_numpy()
            self._present[places] = True
            of_diff = rows.take(pa.array(places))
            new, old = diff_rows.new_rows(of_diff, row_schema), diff_rows.old_rows(of_diff, row_schema)
            for column in columns:
                self._is_new[column.name][places] = same_values(found, new, [column]).to_numpy()
                self._is_old[column.name][places] = same_values(found, old, [column]).to_numpy()

    def observation(self, place: int, column: RowColumn | None) -> Observation:
        rejected = self._rejected.get(self._ids[place], ())
        has_values = bool(self._present[place]) and not rejected and column is not None
        return Observation(
            self._file.side,
            self._file.at,
            present=bool(self._present[place]) or bool(rejected),
            is_new=has_values and bool(self._is_new[column.name][place]) if column else False,
            is_old=has_values and bool(self._is_old[column.name][place]) if column else False,
            rejected=rejected,
        )
