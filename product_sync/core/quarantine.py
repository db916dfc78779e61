"""The quarantine: one entry for every source document that cannot be copied, with all reasons and its history.

A run writes its *rejects* (what could not be converted, and what the database refused), each kind into a file of
its own; `merge` makes the quarantine of them and of the previous one. Without it a document that does not fit would
be a line in a log; with it, it is counted, shown, tried again, and gone when it is mended.

A reject whose ``id`` is known is still *present* in the source: its target row is neither extra nor overwritten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from product_sync.core.extended_json import EXCERPT_LENGTH
from product_sync.core.ids import source_key_sql
from product_sync.core.key_ranges import FileInput
from product_sync.core.layout import ID_TYPE, Layout
from product_sync.core.model import Reason, Reject, SourceId, Stage
from product_sync.core.tables import RUN_ID, duckdb_connection, opened, pages, read_metadata, write_parquet

_PAGE_ROWS = 8_192


def rejects_schema(layout: Layout) -> pa.Schema:
    """One row a document. ``columns``, ``reasons`` and ``values`` are parallel lists: one item a defect.

    ``id`` and ``source_id_type`` are null where the ``_id`` itself cannot be converted. ``refused`` holds the
    values that the database refused, one field for each column of ``layout.values``; null at stage convert.
    """
    return pa.schema(
        [
            pa.field("source_key", pa.string()),
            pa.field("id", pa.string()),
            pa.field(ID_TYPE, pa.string()),
            pa.field("stage", pa.string()),
            pa.field("columns", pa.list_(pa.string())),
            pa.field("reasons", pa.list_(pa.string())),
            pa.field("values", pa.list_(pa.string())),
            pa.field("refused", _refused_type(layout)),
        ]
    )


def quarantine_schema(layout: Layout) -> pa.Schema:
    """`rejects_schema` with the history: when the document was first and last rejected, in how many runs, and in
    which run last."""
    return _with_history(rejects_schema(layout))


def _with_history(rejects_only: pa.Schema) -> pa.Schema:
    return pa.schema(
        [
            *rejects_only,
            pa.field("first_seen", pa.timestamp("us", tz="UTC")),
            pa.field("last_seen", pa.timestamp("us", tz="UTC")),
            pa.field("attempts", pa.int64()),
            pa.field("run_id", pa.string()),
        ]
    )


def _refused_type(layout: Layout) -> pa.StructType:
    return pa.struct([pa.field(column.name, column.type.arrow) for column in layout.values])


def rejects_batch(
    layout: Layout, rejects: Sequence[Reject], stage: Stage, refused: pa.Table | None = None
) -> pa.RecordBatch:
    """``rejects`` as rows of `rejects_schema`.

    ``refused`` belongs to stage load: row *i* holds the source values of ``rejects[i]``, in columns named as
    those of the layout (any others are left alone).
    """
    schema = rejects_schema(layout)
    ids = [reject.source_id for reject in rejects]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([reject.source_key for reject in rejects], pa.string()),
            pa.array([source_id and source_id.text for source_id in ids], pa.string()),
            pa.array([source_id and source_id.type for source_id in ids], pa.string()),
            pa.array([stage] * len(rejects), pa.string()),
            pa.array([[d.column for d in reject.defects] for reject in rejects], pa.list_(pa.string())),
            pa.array([[d.reason for d in reject.defects] for reject in rejects], pa.list_(pa.string())),
            pa.array([[d.value for d in reject.defects] for reject in rejects], pa.list_(pa.string())),
            _refused_array(layout, len(rejects), refused),
        ],
        schema=schema,
    )


def _refused_array(layout: Layout, rows: int, refused: pa.Table | None) -> pa.Array:
    struct = _refused_type(layout)
    if refused is None:
        return pa.nulls(rows, struct)
    if refused.num_rows != rows:
        raise ValueError(f"{refused.num_rows} rows of refused values for {rows} rejects")
    fields = [refused[column.name].combine_chunks().cast(column.type.arrow) for column in layout.values]
    return pa.StructArray.from_arrays(fields, fields=list(struct))


def add_duplicates(rows: Path, rejects: Path, out: Path, layout: Layout) -> dict[Reason, int]:
    """Write to ``out`` the rejects of ``rejects`` and, as ``duplicate_id``, all documents that share their text id.

    ``rows`` is the source snapshot (``Layout.source_schema``), ``rejects`` and ``out`` have `rejects_schema`. A
    document that was a reject already gets one defect more; a row of the snapshot becomes a reject of stage convert.
    Returns the documents per reason (`summary`) of ``out``, which carries the metadata of ``rejects``.
    """
    schema = rejects_schema(layout)
    parameters = {"rows": str(rows), "rejects": str(rejects), "key_column": layout.key.name}
    with duckdb_connection(out.parent) as connection:
        reader = connection.sql(_ADD_DUPLICATES_SQL, params=parameters).to_arrow_reader(_PAGE_ROWS)
        write_parquet(out, schema, _batches(reader, schema), metadata=read_metadata(rejects))
    return summary(out)


def _excerpt_sql(text: str) -> str:
    """As `extended_json.cut`."""
    return f"left({text}, {EXCERPT_LENGTH}) || if(length({text}) > {EXCERPT_LENGTH}, '…', '')"


# Adds the documents that share a text id: rejects get a defect more, rows become rejects.
# Two documents with one text differ in the type of their _id, so only ids of the rarer types need a look: none at
# all in a catalogue that has one type. min and max stand for count(DISTINCT …), which would keep a set for each id.
# Reading documents twice is cheap; DuckDB would rather keep them, in 160 MB and 6 s instead of 0.8 for 3 million.
_ADD_DUPLICATES_SQL = f"""
WITH documents AS NOT MATERIALIZED (
    SELECT id, id_type FROM read_parquet($rows) AS rows (id_type, id)
    UNION ALL
    SELECT id, {ID_TYPE} FROM read_parquet($rejects) WHERE id IS NOT NULL
),
rarer AS (
    SELECT id FROM documents WHERE id_type <> (SELECT mode(id_type) FROM documents)
),
duplicated AS MATERIALIZED (
    SELECT id FROM documents WHERE id IN (FROM rarer) GROUP BY id HAVING min(id_type) <> max(id_type)
),
rejected AS (
    SELECT *, id IS NOT NULL AND id IN (FROM duplicated) AS shares_id FROM read_parquet($rejects)
),
shared AS (
    SELECT {source_key_sql("id_type", "id")} AS source_key, id, id_type
    FROM read_parquet($rows) AS rows (id_type, id) WHERE id IN (FROM duplicated)
)
SELECT
    source_key, id, {ID_TYPE}, stage,
    if(shares_id, list_append("columns", $key_column), "columns"),
    if(shares_id, list_append(reasons, '{Reason.DUPLICATE_ID}'), reasons),
    if(shares_id, list_append("values", {_excerpt_sql("source_key")}), "values"),
    refused
FROM rejected
UNION ALL
SELECT
    source_key, id, id_type, '{Stage.CONVERT}',
    [$key_column], ['{Reason.DUPLICATE_ID}'], [{_excerpt_sql("source_key")}], NULL
FROM shared
"""  # noqa: S608 - made of constants and of expressions over columns; values are bound


def merge(
    previous: Path | None,
    rejects: Sequence[Path],
    out: Path,
    *,
    now: dt.datetime,
    run_id: str,
    untried: Sequence[SourceId] = (),
    since: dt.datetime | None = None,
) -> None:
    """Write the quarantine after a run to ``out``, which may be ``previous`` itself.

    It holds one entry for each document of ``rejects`` (at least one file of `rejects_schema`, empty or not; of a
    document that is in several, an entry of stage convert comes before one of stage load). ``first_seen`` and
    ``attempts`` go on from the entry with the same ``source_key`` in ``previous`` (`quarantine_schema`); ``now`` is
    aware. Entries that this run did not meet again leave. Only those of stage load whose ids are in ``untried``,
    because the load ended before their batch, stay as they were: nothing is known of them that is new. So do those
    that another run has written after ``since`` (aware), when this run had begun to load: it may not have met them.
    The metadata is that of the first of ``rejects``, with ``run_id``.
    """
    paths = [str(path) for path in rejects]
    rejects_only = pq.read_schema(rejects[0]).remove_metadata()
    schema = _with_history(rejects_only)
    metadata = read_metadata(rejects[0]) | {RUN_ID: run_id}
    with duckdb_connection(out.parent) as connection:
        _register_previous(connection, previous, rejects_only, untried)
        parameters = {"rejects": paths, "now": now, "run_id": run_id, "since": since}
        reader = connection.sql(_MERGE_SQL, params=parameters).to_arrow_reader(_PAGE_ROWS)
        write_parquet(out, schema, _batches(reader, schema), metadata=metadata)


def _register_previous(
    connection: Any, previous: Path | None, rejects_only: pa.Schema, untried: Sequence[SourceId]
) -> None:
    """Make ``previous`` and ``untried`` known to `_MERGE_SQL`."""
    if previous is None:
        connection.register("previous", _with_history(rejects_only).empty_table())
    else:
        connection.read_parquet(str(previous)).create_view("previous")
    ids = {"id": [source_id.text for source_id in untried], ID_TYPE: [str(source_id.type) for source_id in untried]}
    connection.register("untried", pa.table(ids, schema=pa.schema({"id": pa.string(), ID_TYPE: pa.string()})))


# The entries of this run with the history of the previous ones, then the previous ones that it did not get to, and
# those that another run has written meanwhile.
_MERGE_SQL = f"""
WITH seen AS (
    FROM read_parquet($rejects)
    QUALIFY row_number() OVER (PARTITION BY source_key ORDER BY stage <> '{Stage.CONVERT}') = 1
)
SELECT seen.*, coalesce(previous.first_seen, $now), $now, coalesce(previous.attempts, 0) + 1, $run_id
FROM seen LEFT JOIN previous ON previous.source_key = seen.source_key
UNION ALL
SELECT previous.* FROM previous
WHERE (
        (stage = '{Stage.LOAD}' AND (id, {ID_TYPE}) IN (SELECT (id, {ID_TYPE}) FROM untried))
        OR (previous.run_id <> $run_id AND previous.last_seen > $since::TIMESTAMPTZ)
    )
    AND source_key NOT IN (SELECT source_key FROM seen)
"""  # noqa: S608 - made of constants only; values are bound


def _batches(reader: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """What DuckDB streams, as ``schema``. By position: DuckDB names columns and the fields of a struct by rules of
    its own, which take ``Price`` and ``price`` for one."""
    for batch in reader:
        columns = [_as_type(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if not pa.types.is_struct(wanted):
        return array.cast(wanted)
    members = [member.cast(field.type) for member, field in zip(array.flatten(), wanted, strict=True)]
    return pa.StructArray.from_arrays(members, fields=list(wanted), mask=array.is_null())


def summary(path: Path) -> dict[Reason, int]:
    """How many documents of a rejects or quarantine file have each reason. One with two reasons counts in both."""
    with duckdb_connection(path.parent) as connection:
        rows = connection.execute(_SUMMARY_SQL, {"path": str(path)}).fetchall()
    return {Reason(reason): count for reason, count in rows}


# Documents per reason; a document counts once, however many of its columns have the reason.
_SUMMARY_SQL = """
SELECT reason, count(*)
FROM (SELECT unnest(list_distinct(reasons)) AS reason FROM read_parquet($path))
GROUP BY reason ORDER BY reason
"""


def first_entries(path: Path, n: int) -> pa.Table:
    """The first ``n`` entries of a rejects or quarantine file by ``source_key``, with all columns of the file."""
    schema = pq.read_schema(path).remove_metadata()
    with duckdb_connection(path.parent) as connection:
        parameters = {"path": str(path), "n": n}
        reader = connection.sql(_FIRST_ENTRIES_SQL, params=parameters).to_arrow_reader(_PAGE_ROWS)
        return pa.Table.from_batches(_batches(reader, schema), schema)


# The beginning of the quarantine, the same at each call.
_FIRST_ENTRIES_SQL = "FROM read_parquet($path) ORDER BY source_key LIMIT $n"


def entries_of(path: Path, row_id: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a quarantine file that have this text id or one of these ``source_key``; without the refused
    values, which have names of their own."""
    with duckdb_connection(path.parent) as connection:
        found = connection.execute(_ENTRIES_SQL, {"path": str(path), "id": row_id, "keys": list(keys)})
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


# What is known of one product. Times as text: DuckDB's own come in the zone of the machine.
_ENTRIES_SQL = f"""
SELECT source_key, id, {ID_TYPE}, stage, "columns", reasons, "values", epoch_us(first_seen) AS first_seen_us,
    epoch_us(last_seen) AS last_seen_us, attempts, run_id
FROM read_parquet($path) WHERE id = $id OR list_contains($keys, source_key) ORDER BY source_key
"""  # noqa: S608 - a constant


def refused_schema(layout: Layout) -> pa.Schema:
    """Rows of `refused_input`."""
    return pa.schema([pa.field(ID_TYPE, pa.string()), pa.field("id", pa.string()), *_refused_type(layout)])


def refused_input(path: Path, layout: Layout) -> FileInput:
    """The values that the database refused, from a quarantine file: `ID_TYPE`, ``id``, then the columns of
    ``layout.values``. An entry excuses its product only while the source still has these very values."""
    schema = refused_schema(layout)

    def refused(entries: pa.RecordBatch) -> pa.RecordBatch:
        entries = entries.filter(pc.and_(pc.equal(entries["stage"], Stage.LOAD), entries["refused"].is_valid()))
        columns = [entries[ID_TYPE], entries["id"], *entries["refused"].flatten()]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return FileInput(path, schema, "id", [ID_TYPE, "id", "stage", "refused"], refused)


def has_refused(path: Path) -> bool:
    """Whether a quarantine file has an entry that the database refused."""
    with opened(path) as file:
        stages = (page.column("stage") for page in pages(file, columns=["stage"]))
        return any(pc.any(pc.equal(stage, Stage.LOAD), min_count=0).as_py() for stage in stages)


def refused_rows(path: Path, layout: Layout) -> pa.Table:
    """All rows of `refused_input`, in memory."""
    found = refused_input(path, layout)
    return pa.Table.from_batches(found.batches(), found.schema)
