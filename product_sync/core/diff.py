"""Decides what differs: one columnar join of the two snapshots, written down row by row.

The join replaces the set lookup of the original design: it never compares each with each, spills to disk under
a memory limit, and its result is a file that people and the load read alike. Whatever it leaves out is neither
reported nor repaired, so it compares nothing but canonical values (`model`), and nothing twice.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from product_sync.core import ahead, diff_rows, quarantine
from product_sync.core.layout import ID_TYPE, Layout, LayoutColumn
from product_sync.core.model import Op, TypeName
from product_sync.core.pairs import without_equal_pairs
from product_sync.core.tables import (
    ROW_GROUP_ROWS,
    duckdb_connection,
    opened,
    release_memory,
    row_count,
    write_parquet,
)

_PAGE_ROWS = 8_192
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
    layout: Layout,
    source_rows: Path,
    rejects: Path,
    target_rows: Path,
    previous_quarantine: Path | None,
    out: Path,
    *,
    metadata: Mapping[str, str],
    target_batches: Iterator[pa.RecordBatch] | None = None,
    unpaired: tuple[Path, Path] | None = None,
) -> DiffCounts:
    """Write every difference to ``out`` (``Layout.diff_schema``) and count them.

    ``source_rows`` has ``Layout.source_schema``, ``target_rows`` ``Layout.target_schema``, ``rejects`` and
    ``previous_quarantine`` the schemas of `quarantine`. ``target_batches``, if given, are the rows of a ``target_rows``
    that is there only when they end (`snapshot.target_while_read`); ``unpaired``, if given, are files of the rows of
    each side that were not yet found to be equal (`both_sides`). A product in ``rejects`` is in none of the
    differences. A row is ``refused_before`` where the previous quarantine says that the database refused these very
    values.
    Rows come in the order: not refused before refused, then insert, update, extra, then id.
    """
    counter: Counter[tuple[str, bool]] = Counter()
    rejected = row_count(rejects)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix="pairs-"))
        source, target = unpaired or without_equal_pairs(
            layout, source_rows, target_rows, Path(folder), target_batches=target_batches
        )
        # The join needs memory next.
        release_memory()
        refused_rows = _refused(layout, previous_quarantine)
        if not row_count(target) and not refused_rows.num_rows and _is_in_order(source, layout):
            rows = ahead.each(_all_missing(source, rejects, layout))
        else:
            connection = stack.enter_context(_joining(out.parent, rejects, refused_rows))
            paths = {"source": str(source), "target": str(target)}
            rows = _renamed(connection.sql(_difference_sql(layout), params=paths).to_arrow_reader(_PAGE_ROWS), layout)
        write_parquet(out, layout.diff_schema, _counted(rows, counter), metadata=metadata)
    release_memory()
    without_row = _without_row(rejects, source_rows, out.parent) if rejected else 0
    refused = counter[Op.INSERT, True] + counter[Op.UPDATE, True]
    return DiffCounts(
        source_count=row_count(source_rows) + without_row,
        target_count=row_count(target_rows),
        missing=counter[Op.INSERT, False],
        changed=counter[Op.UPDATE, False],
        extra=counter[Op.EXTRA, False],
        quarantined=rejected + refused,
        refused=refused,
    )


def _without_row(rejects: Path, source_rows: Path, folder: Path) -> int:
    """How many rejected documents have no row. One that has a row all the same shares its text id with another one."""
    with duckdb_connection(folder) as connection:
        paths = {"rejects": str(rejects), "source": str(source_rows)}
        row = connection.execute(_WITHOUT_ROW_SQL, paths).fetchone()
        return 0 if row is None else int(row[0])


_WITHOUT_ROW_SQL = f"""
SELECT count(*) FROM read_parquet($rejects) AS rejects
WHERE NOT EXISTS (
    FROM read_parquet($source) AS source (id_type, id)
    WHERE source.id = rejects.id AND source.id_type = rejects.{ID_TYPE}
)
"""  # noqa: S608 - a constant


def _difference_sql(layout: Layout) -> str:
    """The join. Columns go by position (``s0`` … of the source, ``t0`` … of the target, ``r0`` … of what was refused
    before), because DuckDB's names ignore letter case and PostgreSQL's do not."""
    places = range(len(layout.values))
    s, t = [f"s{place}" for place in places], [f"t{place}" for place in places]
    differs = [f"s{place} IS DISTINCT FROM t{place}" for place in places if layout.values[place].update]
    as_refused = [f"refused.r{place} IS NOT DISTINCT FROM joined.s{place}" for place in places]
    return f"""
    WITH joined AS (
        SELECT
            CASE WHEN target.id IS NULL THEN 'insert' WHEN source.id IS NULL THEN 'extra' ELSE 'update' END AS op,
            {", ".join(["coalesce(source.id, target.id) AS id", "source.id_type AS id_type", *s, *t])}
        FROM read_parquet($source) AS source ({", ".join(["id_type", "id", *s])})
        FULL JOIN read_parquet($target) AS target ({", ".join(["id", *t])}) ON source.id = target.id
        WHERE {" OR ".join(["source.id IS NULL", "target.id IS NULL", *differs])}
    ),
    marked AS (
        SELECT *, EXISTS (
            FROM refused
            WHERE {" AND ".join(["refused.id = joined.id", "refused.id_type = joined.id_type", *as_refused])}
        ) AS refused_before
        FROM joined
        WHERE NOT EXISTS (FROM rejects WHERE rejects.id = joined.id)
    )
    SELECT {", ".join(["op", "id", "id_type", "refused_before", *s, *t])}
    FROM marked
    ORDER BY refused_before, CASE op WHEN 'insert' THEN 0 WHEN 'update' THEN 1 ELSE 2 END, id
    """  # noqa: S608 - made of places of columns only; paths are bound


@contextmanager
def _joining(folder: Path, rejects: Path, refused_rows: pa.Table) -> Iterator[Any]:
    """A connection that knows ``rejects`` (id_type, id) and ``refused`` (id_type, id, r0 …)."""
    with duckdb_connection(folder) as connection:
        connection.execute(
            f"CREATE TEMP TABLE rejects AS SELECT {ID_TYPE} AS id_type, id FROM read_parquet($path)",  # noqa: S608 - a constant
            {"path": str(rejects)},
        )
        connection.register("refused", refused_rows)
        yield connection


def _refused(layout: Layout, previous_quarantine: Path | None) -> pa.Table:
    """`quarantine.refused_rows` with its columns named by place."""
    names = ["id_type", "id", *(f"r{place}" for place in range(len(layout.values)))]
    if previous_quarantine is None:
        types = [pa.string(), pa.string(), *(column.type.arrow for column in layout.values)]
        return pa.schema(list(zip(names, types, strict=True))).empty_table()
    return quarantine.refused_rows(previous_quarantine, layout).rename_columns(names)


def _is_in_order(source: Path, layout: Layout) -> bool:
    """Whether the ids of a source file rise from row to row, as they do where it was read by ``_id``s of one type."""
    last = pa.nulls(0, pa.string())
    with opened(source) as file:
        for page in file.iter_batches(batch_size=_PAGE_ROWS, columns=[layout.key.name]):
            ids = pa.concat_arrays([last, page.column(0)])
            if not pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():
                return False
            last = ids[-1:]
    return True


def _all_missing(source: Path, rejects: Path, layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a source file whose ids are in order, as inserts: a join with an empty table, without the sorting."""
    rejected = pq.ParquetFile(rejects).read(columns=["id"])["id"]
    old = [column.type.arrow for column in layout.values]
    with opened(source) as file:
        for rows in file.iter_batches(batch_size=ROW_GROUP_ROWS):
            page = rows.filter(pc.invert(pc.is_in(rows.column(layout.key.name), value_set=rejected)))
            op = pa.array(np.full(page.num_rows, str(Op.INSERT)), pa.string())
            refused = pa.array(np.zeros(page.num_rows, dtype=bool))
            id_type, row_id, *new = page.columns
            columns = [op, row_id, id_type, refused, *new, *(pa.nulls(page.num_rows, type_) for type_ in old)]
            yield pa.RecordBatch.from_arrays(columns, schema=layout.diff_schema)


def _renamed(reader: Any, layout: Layout) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        columns = [column.cast(field.type) for column, field in zip(batch.columns, layout.diff_schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=layout.diff_schema)


def _counted(batches: Iterator[pa.RecordBatch], counter: Counter[tuple[str, bool]]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        groups = pa.Table.from_batches([batch]).group_by(["op", "refused_before"]).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            counter[group["op"], group["refused_before"]] += group["count_all"]
        yield batch


def changed_columns(path: Path, layout: Layout) -> dict[str, int]:
    """Per compared column: in how many of the changed rows it differs. Refused rows do not count."""
    counts = dict.fromkeys((column.name for column in layout.compared), 0)
    for rows in _rows_of(path, Op.UPDATE):
        new, old = diff_rows.new_rows(rows, layout), diff_rows.old_rows(rows, layout)
        for column in layout.compared:
            same = diff_rows.same_values(new, old, [column])
            counts[column.name] += rows.num_rows - int(pc.sum(same, min_count=0).as_py())
    return counts


def first_differences(path: Path, layout: Layout, limit_per_op: int = 10) -> list[Difference]:
    """The first rows of each op, by id, as lines for people; rows that were refused before are left out."""
    shown: list[Difference] = []
    for op in Op:
        rows = first_rows(path, op, limit_per_op)
        for index in range(rows.num_rows):
            shown.extend(lines_of(rows.slice(index, 1), op, layout))
    return shown


def first_rows(path: Path, op: Op, limit: int) -> pa.Table:
    """The first ``limit`` rows of ``op``, by id, without those that were refused before."""
    found = pq.read_schema(path).remove_metadata().empty_table()
    for rows in _rows_of(path, op):
        found = pa.concat_tables([found, rows.slice(0, limit - found.num_rows)])
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
                yield from _chosen(file.iter_batches(batch_size=_PAGE_ROWS, row_groups=[group]), wanted)


def _chosen(pages: Iterator[pa.RecordBatch], wanted: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The wanted rows of each page that has some."""
    start = 0
    for page in pages:
        rows = pa.Table.from_batches([page]).filter(wanted.slice(start, page.num_rows))
        start += page.num_rows
        if rows.num_rows:
            yield rows.replace_schema_metadata()


def lines_of(row: pa.Table, op: Op, layout: Layout) -> Iterator[Difference]:
    """A diff row of ``op`` as lines for people: of an update, one for each column that differs."""
    new, old = diff_rows.new_rows(row, layout), diff_rows.old_rows(row, layout)
    row_id = diff_rows.ids(row)[0]
    if op is Op.INSERT:
        yield Difference(op, row_id, "", None, _all_values(new, layout))
    elif op is Op.EXTRA:
        yield Difference(op, row_id, "", _all_values(old, layout), None)
    else:
        for column in layout.compared:
            if not diff_rows.same_values(new, old, [column])[0].as_py():
                yield Difference(op, row_id, column.name, shown(old, column), shown(new, column))


def _all_values(row: pa.Table, layout: Layout) -> str:
    return _cut(", ".join(f"{column.name}: {shown(row, column) or 'NULL'}" for column in layout.values))


def shown(row: pa.Table, column: LayoutColumn) -> str | None:
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
