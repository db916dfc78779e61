"""Looks up the differences of a run in the snapshots of earlier runs: what `evidence` reasons from.

Only the first differences of each kind are looked up, by id, in files that are there anyway. Every column of a file but
the ids is read for the rows that were found, so a look costs a scan of the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.core import diff_rows
from product_sync.core.diff import Difference, lines_of
from product_sync.core.evidence import Explanation, Side, Sighting, explain
from product_sync.core.layout import ID_TYPE, Layout, LayoutColumn
from product_sync.core.model import Op
from product_sync.core.tables import duckdb_connection

_PAGE_ROWS = 8_192
#: A run that has begun meanwhile removes the oldest files; and one may be damaged.
_NO_EVIDENCE = (duckdb.IOException, duckdb.InvalidInputException, OSError)


@dataclass(frozen=True, slots=True)
class EarlierFile:
    """A snapshot of one side, as it was read ``at`` some moment; of the source, with what could not be copied."""

    side: Side
    at: datetime
    rows: Path
    rejects: Path | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """A difference as people are shown it, the type of its ``_id`` (empty for an extra row), and what is proven."""

    difference: Difference
    id_type: str
    explanation: Explanation


def explain_differences(
    rows_by_op: Iterable[tuple[Op, pa.Table]],
    layout: Layout,
    earlier: Iterable[EarlierFile],
    source_read_at: datetime,
    scratch: Path,
) -> list[Explained]:
    """The rows of a diff (``Layout.diff_schema``) as lines, each explained by the ``earlier`` snapshots.

    ``scratch`` is a folder that DuckDB may spill into. A file that is gone by now is no evidence.
    """
    kinds = [(op, rows) for op, rows in rows_by_op if rows.num_rows]
    if not kinds:
        return []
    looks = []
    ids = [row_id for _, rows in kinds for row_id in diff_rows.ids(rows)]
    with duckdb_connection(scratch) as connection:
        connection.register("wanted", pa.table({"id": pa.array(ids, pa.string())}))
        for file in earlier:
            try:
                looks.append(_look(connection, file, layout, ids))
            except _NO_EVIDENCE:
                continue
    return [line for op, rows in kinds for line in _explained(op, rows, layout, looks, source_read_at)]


def seen_before(
    row_id: str, layout: Layout, earlier: Iterable[EarlierFile], scratch: Path
) -> list[tuple[EarlierFile, pa.Table, tuple[str, ...]]]:
    """What each snapshot has of one product: its row, in a table of that side's schema that is empty where it has none,
    and why the document could not be copied. ``scratch`` and files that are gone as in `explain_differences`."""
    seen = []
    with duckdb_connection(scratch) as connection:
        connection.register("wanted", pa.table({"id": pa.array([row_id], pa.string())}))
        for file in earlier:
            try:
                look = _look(connection, file, layout, [row_id])
            except _NO_EVIDENCE:
                continue
            seen.append((file, look.found, look.rejected.get(row_id, ())))
    return seen


@dataclass(frozen=True, slots=True)
class _Look:
    """What one file has of the wanted ids."""

    side: Side
    at: datetime
    found: pa.Table
    rejected: dict[str, tuple[str, ...]]


def _look(connection: Any, file: EarlierFile, layout: Layout, ids: Sequence[str]) -> _Look:
    """What the file has of ``ids``, which ``connection`` knows as ``wanted``."""
    schema = layout.source_schema if file.side is Side.SOURCE else layout.target_schema
    places = ["id" if field.name == layout.key.name else f"c{place}" for place, field in enumerate(schema)]
    params = {"path": str(file.rows), "first": min(ids), "last": max(ids)}
    reader = connection.sql(_FOUND_SQL.format(columns=", ".join(places)), params=params)
    batches = [
        pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)], schema=schema
        )
        for batch in reader.to_arrow_reader(_PAGE_ROWS)
    ]
    rejected = {}
    if file.rejects:
        found = connection.execute(_REJECTED_SQL, {"path": str(file.rejects)}).fetchall()
        rejected = {row_id: tuple(sorted(set(reasons))) for row_id, reasons in found}
    return _Look(file.side, file.at, pa.Table.from_batches(batches, schema), rejected)


# The rows of a snapshot that are wanted. Columns go by position, as in the diff. The bounds let row groups be passed
# over whose ids are all outside.
_FOUND_SQL = (
    "SELECT * FROM read_parquet($path) AS snapshot ({columns})"
    " WHERE id BETWEEN $first AND $last AND id IN (SELECT id FROM wanted)"
)
# Why the wanted documents could not be copied.
_REJECTED_SQL = "SELECT id, reasons FROM read_parquet($path) WHERE id IN (SELECT id FROM wanted)"


def _explained(
    op: Op, rows: pa.Table, layout: Layout, looks: list[_Look], source_read_at: datetime
) -> Iterable[Explained]:
    ids = diff_rows.ids(rows)
    columns = layout.compared if op is Op.UPDATE else ()
    seen = [_Seen(look, ids, rows, layout, columns) for look in looks]
    by_name = {column.name: column for column in columns}
    id_types = rows[ID_TYPE].to_pylist()
    for place in range(rows.num_rows):
        for line in lines_of(rows.slice(place, 1), op, layout):
            sightings = [look.sighting(place, by_name.get(line.column)) for look in seen]
            yield Explained(line, id_types[place] or "", explain(op, sightings, source_read_at))


class _Seen:
    """One look, laid beside the rows of the diff."""

    def __init__(
        self, look: _Look, ids: list[str], rows: pa.Table, layout: Layout, columns: tuple[LayoutColumn, ...]
    ) -> None:
        self._look = look
        self._ids = ids
        there = diff_rows.aligned(look.found, layout.key.name, ids)
        self._present = pc.is_valid(there[layout.key.name]).to_pylist()
        new, old = diff_rows.new_rows(rows, layout), diff_rows.old_rows(rows, layout)
        self._is_new = {column.name: diff_rows.same_values(there, new, [column]).to_pylist() for column in columns}
        self._is_old = {column.name: diff_rows.same_values(there, old, [column]).to_pylist() for column in columns}

    def sighting(self, place: int, column: LayoutColumn | None) -> Sighting:
        rejected = self._look.rejected.get(self._ids[place], ())
        has_values = self._present[place] and not rejected and column is not None
        return Sighting(
            self._look.side,
            self._look.at,
            present=self._present[place] or bool(rejected),
            is_new=has_values and self._is_new[column.name][place] if column else False,
            is_old=has_values and self._is_old[column.name][place] if column else False,
            rejected=rejected,
        )
