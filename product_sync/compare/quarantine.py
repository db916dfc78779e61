"""The quarantine: one entry for every source document that cannot be copied, with its reasons and its history.

A run writes its *rejects* into two files: the documents that could not be converted, and those that the database
refused. `merge` makes the quarantine from them and from the previous quarantine. Every entry is counted, shown and
tried again, and it leaves when its document is corrected. People read the file without a row schema and a database:
who asks why products are missing may have access to neither side.

A reject with a known ``id`` is still *present* in the source: its target row is neither extra nor overwritten.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare.key_ranges import FileInput, by_key
from product_sync.conversion.document import key_of
from product_sync.conversion.extended_json import cut
from product_sync.conversion.ids import source_key, to_bson
from product_sync.schema.records import Defect, Reason, Reject, SourceId, Stage
from product_sync.schema.row_schema import ID_TYPE, RowSchema
from product_sync.schema.scope import EVERYTHING, Everything, Scope
from product_sync.state.files import RUN_ID, opened, pages, read_metadata, read_schema, table_writer

_PAGE_ROWS = 8_192
#: Entries that are read at once for people.
_READ_ROWS = 1_024


def rejects_schema(row_schema: RowSchema) -> pa.Schema:
    """One row for each document. ``columns``, ``reasons`` and ``values`` are parallel lists: one item for each defect.
    ``id`` and ``source_id_type`` are null where the ``_id`` itself cannot be converted. ``refused`` holds the values
    that the database refused, with one field for each column of ``RowSchema.values``. It is null at stage convert."""
    return pa.schema(
        [
            *((name, pa.string()) for name in ("source_key", "id", ID_TYPE, "stage")),
            *((name, pa.list_(pa.string())) for name in ("columns", "reasons", "values")),
            ("refused", _refused_type(row_schema)),
        ]
    )


def quarantine_schema(rejects_only: pa.Schema) -> pa.Schema:
    """`rejects_schema` with the history: when the document was first and last rejected, in how many runs, and the last
    run."""
    moment = pa.timestamp("us", tz="UTC")
    history = ("first_seen", moment), ("last_seen", moment), ("attempts", pa.int64()), ("run_id", pa.string())
    return pa.schema([*rejects_only, *history])


def _refused_type(row_schema: RowSchema) -> pa.StructType:
    return pa.struct([pa.field(column.name, column.type.arrow) for column in row_schema.values])


def rejects_batch(
    row_schema: RowSchema, rejects: Sequence[Reject], stage: Stage, refused: pa.Table | None = None
) -> pa.RecordBatch:
    """``rejects`` as rows of `rejects_schema`. At stage load, row *i* of ``refused`` holds the source values of
    ``rejects[i]``."""
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
            _refused_array(row_schema, len(rejects), refused),
        ],
        schema=rejects_schema(row_schema),
    )


def _refused_array(row_schema: RowSchema, rows: int, refused: pa.Table | None) -> pa.Array:
    struct = _refused_type(row_schema)
    if refused is None:
        return pa.nulls(rows, struct)
    fields = [refused[column.name].combine_chunks().cast(column.type.arrow) for column in row_schema.values]
    return pa.StructArray.from_arrays(fields, fields=list(struct))


def add_duplicates(rows: Path, rejects: Path, out: Path, row_schema: RowSchema) -> dict[Reason, int]:
    """Write to ``out`` the rejects of ``rejects`` and, as ``duplicate_id``, all documents that share a text id.

    ``rows`` is the source snapshot (``RowSchema.source_schema``); ``rejects`` and ``out`` have `rejects_schema`. A
    document that is a reject already gets one more defect. A row of the snapshot becomes a reject of stage convert.
    Returns the `summary` of ``out``, which gets the metadata of ``rejects``.
    """
    schema = rejects_schema(row_schema)
    identity = pa.schema([pa.field(ID_TYPE, pa.string()), pa.field(row_schema.key.name, pa.string())])
    inputs = [
        FileInput(rows, identity, row_schema.key.name, [ID_TYPE, row_schema.key.name]),
        FileInput(rejects, schema, "id", select=lambda page: page.filter(page["id"].is_valid())),
    ]
    with table_writer(out, schema, metadata=read_metadata(rejects)) as sink:
        without_id = FileInput(rejects, schema, "id", select=lambda page: page.filter(page["id"].is_null()))
        for page in without_id.batches():
            sink.write(page)
        for copied, rejected in by_key(inputs, out.parent):
            for batch in _with_duplicates(copied, rejected, row_schema):
                sink.write(batch)
    return summary(out)


def _with_duplicates(copied: pa.Table, rejected: pa.Table, row_schema: RowSchema) -> Iterator[pa.RecordBatch]:
    """The rejects of one range of ids, with the documents of ``copied`` (`ID_TYPE`, id) that share a text id."""
    names = [ID_TYPE, "id"]
    shared = _shared_ids(pa.concat_tables([copied.rename_columns(names), rejected.select(names)]))
    is_shared = pc.is_in(rejected["id"], value_set=shared)
    yield from rejected.filter(pc.invert(is_shared)).to_batches()
    for page in rejected.filter(is_shared).to_batches(max_chunksize=_PAGE_ROWS):
        entries = page.to_pylist()
        for entry in entries:
            entry["columns"].append(row_schema.key.name)
            entry["reasons"].append(Reason.DUPLICATE_ID)
            entry["values"].append(cut(entry["source_key"]))
        yield pa.RecordBatch.from_pylist(entries, rejects_schema(row_schema))
    for page in copied.filter(pc.is_in(copied.column(1), value_set=shared)).to_batches(max_chunksize=_PAGE_ROWS):
        ids = [SourceId(*each) for each in zip(*(column.to_pylist() for column in page.columns), strict=True)]
        yield rejects_batch(row_schema, [_duplicate(source_id, row_schema) for source_id in ids], Stage.CONVERT)


def _shared_ids(documents: pa.Table) -> pa.Array:
    """The text ids of several documents. The ``_id``s of two documents with one text differ in their type; those of a
    document that was read twice do not."""
    documents = documents.take(pc.sort_indices(documents["id"]))
    ids, types = documents["id"].combine_chunks(), documents[ID_TYPE].combine_chunks()
    is_shared = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.not_equal(types[1:], types[:-1]))
    return pc.unique(ids[1:].filter(is_shared))


def _duplicate(source_id: SourceId, row_schema: RowSchema) -> Reject:
    key = source_key(to_bson(source_id))
    return Reject(key, source_id, (Defect(row_schema.key.name, Reason.DUPLICATE_ID, cut(key)),))


def merge(
    previous: Path | None,
    rejects: Sequence[Path],
    out: Path,
    *,
    now: dt.datetime,
    run_id: str,
    untried: Sequence[SourceId] = (),
    since: dt.datetime | None = None,
    scope: Scope = EVERYTHING,
) -> None:
    """Write the quarantine after a run to ``out``, ordered by ``source_key``. ``out`` may be ``previous`` itself.

    It has one entry for each document of ``rejects`` (one file of `rejects_schema` or more); stage convert wins over
    stage load. ``first_seen`` and ``attempts`` continue those of ``previous`` (`quarantine_schema`). Entries that this
    run did not meet again leave, with three exceptions that stay unchanged:

    - entries of stage load whose ids are in ``untried``, because the load ended before their batch;
    - entries that another run wrote after ``since``, when this run had begun to load: it may not have met them;
    - entries of products that are not in ``scope``.

    ``now`` and ``since`` are aware. The metadata is that of the first of ``rejects``, with ``run_id``.
    """
    rejects_only = read_schema(rejects[0])
    schema = quarantine_schema(rejects_only)
    inputs = [FileInput(path, rejects_only, "source_key") for path in rejects]
    if previous is not None:
        inputs.append(FileInput(previous, schema, "source_key"))
    kept = pa.array([f"{source_id.type} {source_id.text}" for source_id in untried], pa.string())
    with table_writer(out, schema, metadata=read_metadata(rejects[0]) | {RUN_ID: run_id}) as sink:
        for read in by_key(inputs, out.parent):
            seen = _first_of_each(pa.concat_tables(read[: len(rejects)]))
            before = schema.empty_table() if previous is None else read[-1]
            stays = pc.or_(_is_untried(before, kept), _is_newer(before, run_id, since))
            stays = pc.or_(stays, _is_outside(before, scope))
            is_seen = pc.is_in(before["source_key"], value_set=seen["source_key"].combine_chunks())
            unmet = before.filter(pc.and_(stays, pc.invert(is_seen)))
            merged = pa.concat_tables([_with_times(seen, before, now, run_id, schema), unmet])
            for batch in merged.take(pc.sort_indices(merged["source_key"])).to_batches():
                sink.write(batch)


def _first_of_each(rejects: pa.Table) -> pa.Table:
    """One reject for each document: the one of the conversion, if there is one."""
    is_of_load = pc.not_equal(rejects["stage"], Stage.CONVERT)
    keys = pa.table({"source_key": rejects["source_key"], "is_of_load": is_of_load})
    order = pc.sort_indices(keys, sort_keys=[("source_key", "ascending"), ("is_of_load", "ascending")])
    keys = rejects["source_key"].take(order).combine_chunks()
    is_first = pc.not_equal(keys[1:], keys[:-1]) if len(keys) > 1 else pa.array([], pa.bool_())
    return rejects.take(order.filter(pa.concat_arrays([pa.array([True][: len(keys)], pa.bool_()), is_first])))


def _with_times(seen: pa.Table, before: pa.Table, now: dt.datetime, run_id: str, schema: pa.Schema) -> pa.Table:
    """The entries of this run, with the history of the previous ones. A step that is repeated counts its run once."""
    history = before.select(["first_seen", "attempts", "run_id"]).take(
        pc.index_in(seen["source_key"], value_set=before["source_key"].combine_chunks())
    )
    is_new = pc.fill_null(pc.not_equal(history["run_id"], run_id), fill_value=True).cast(pa.int64())
    at = pa.scalar(now, schema.field("last_seen").type)
    columns = [
        *seen.columns,
        pc.fill_null(history["first_seen"], at),
        pa.repeat(at, seen.num_rows),
        pc.add(pc.fill_null(history["attempts"], 0), is_new),
        pa.repeat(pa.scalar(run_id, pa.string()), seen.num_rows),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _is_untried(before: pa.Table, kept: pa.Array) -> pa.ChunkedArray:
    """Marks the earlier refusals that this run has not tried again."""
    ids = pc.fill_null(pc.binary_join_element_wise(before[ID_TYPE], before["id"], " "), "")
    return pc.and_(pc.equal(before["stage"], Stage.LOAD), pc.is_in(ids, value_set=kept))


def _is_newer(before: pa.Table, run_id: str, since: dt.datetime | None) -> pa.ChunkedArray:
    """Marks the entries that another run wrote after ``since``."""
    if since is None:
        return pa.chunked_array([pa.repeat(False, before.num_rows)], pa.bool_())
    is_later = pc.greater(before["last_seen"], pa.scalar(since, before.schema.field("last_seen").type))
    return pc.and_(pc.not_equal(before["run_id"], run_id), is_later)


def _is_outside(before: pa.Table, scope: Scope) -> pa.ChunkedArray:
    """Marks the entries of products that this run did not look at."""
    if isinstance(scope, Everything):
        return pa.chunked_array([pa.repeat(False, before.num_rows)], pa.bool_())
    named = pc.is_in(before["id"], value_set=pa.array(scope.texts, pa.string()))
    keys = pa.array(map(key_of, scope.others), pa.string())
    return pc.invert(pc.or_(named, pc.is_in(before["source_key"], value_set=keys)))


def summary(path: Path) -> dict[Reason, int]:
    """The number of documents by reason in a rejects or quarantine file. A document with two reasons counts twice."""
    counts: Counter[str] = Counter()
    with opened(path) as file:
        for page in pages(file, columns=["reasons"]):
            reasons = page.column("reasons")
            of_document = pa.table({"document": pc.list_parent_indices(reasons), "reason": pc.list_flatten(reasons)})
            distinct = of_document.group_by(["document", "reason"]).aggregate([])
            counts.update({item["values"]: item["counts"] for item in pc.value_counts(distinct["reason"]).to_pylist()})
    return {Reason(reason): count for reason, count in sorted(counts.items())}


def first_entries(path: Path, n: int) -> list[dict[str, Any]]:
    """The first ``n`` entries of a rejects or quarantine file by ``source_key``, without the refused values, which may
    have megabytes."""
    schema = read_schema(path)
    names = [name for name in schema.names if name != "refused"]
    found = schema.empty_table().select(names)
    with opened(path) as file:
        for page in pages(file, columns=names):
            found = pa.concat_tables([found, pa.Table.from_batches([page]).replace_schema_metadata()])
            found = found.take(pc.sort_indices(found["source_key"])[:n])
    return list(found.to_pylist())


def count_matching(path: Path, wanted: Collection[str]) -> int:
    """The number of entries that have one of the wanted reasons."""
    with opened(path) as file:
        read = pages(file, rows=_READ_ROWS, columns=["reasons"])
        return sum(not set(wanted).isdisjoint(reasons) for page in read for reasons in page.column(0).to_pylist())


def entries(path: Path, wanted: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The entries that have one of the wanted reasons, or all entries, in the order of the file. They lack the refused
    values, which have the names of the target's columns. Times are microseconds since 1970, UTC, as ``first_seen_us``
    and ``last_seen_us``, because Python's calendar ends with the year 9999."""
    for entry in _read(path):
        if not wanted or not set(wanted).isdisjoint(entry["reasons"]):
            yield entry


def entries_of(path: Path, ids: Collection[str], keys: Collection[str]) -> list[dict[str, Any]]:
    """The entries that have one of these text ids or one of these ``source_key``, in the form of `entries`."""
    texts, wanted = pa.array(list(ids), pa.string()), pa.array(list(keys), pa.string())
    return list(_read(path, lambda page: pc.or_(pc.is_in(page["id"], texts), pc.is_in(page["source_key"], wanted))))


def _read(path: Path, chosen: Callable[[pa.RecordBatch], pa.Array] | None = None) -> Iterator[dict[str, Any]]:
    names = [name for name in read_schema(path).names if name != "refused"]
    with opened(path) as file:
        for page in pages(file, rows=_READ_ROWS, columns=names):
            rows = page.filter(chosen(page)) if chosen else page
            for name in ("first_seen", "last_seen"):
                rows = rows.append_column(f"{name}_us", rows[name].cast(pa.int64())).drop_columns([name])
            yield from rows.to_pylist()


def refused_input(path: Path, row_schema: RowSchema) -> FileInput:
    """The values that the database refused, from a quarantine file (``RowSchema.source_schema``). An entry excuses
    its product only while the source still has exactly these values."""
    schema = row_schema.source_schema

    def refused(entries: pa.RecordBatch) -> pa.RecordBatch:
        entries = entries.filter(pc.and_(pc.equal(entries["stage"], Stage.LOAD), entries["refused"].is_valid()))
        columns = [entries[ID_TYPE], entries["id"], *entries["refused"].flatten()]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return FileInput(path, schema, row_schema.key.name, [ID_TYPE, "id", "stage", "refused"], refused, "id")


def refused_rows(path: Path, row_schema: RowSchema, row_id: str | None = None) -> pa.Table:
    """The rows of `refused_input` in memory: all of them, or those of one text id."""
    found = refused_input(path, row_schema)
    pages_ = (page if row_id is None else page.filter(pc.equal(page[found.key], row_id)) for page in found.batches())
    return pa.Table.from_batches(pages_, found.schema)
