"""The quarantine keeps one entry for each document that cannot be copied, with every reason and its history."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from bson import Int64, ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product_sync.compare.key_ranges import Limits, by_key
from product_sync.compare.quarantine import (
    add_duplicates,
    first_entries,
    merge,
    quarantine_schema,
    refused_input,
    refused_rows,
    rejects_batch,
    rejects_schema,
    summary,
)
from product_sync.conversion.extended_json import EXCERPT_LENGTH
from product_sync.conversion.ids import source_id, source_key, to_bson
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import Defect, Reason, Reject, SourceId, Stage
from product_sync.schema.row_schema import ID_TYPE, RowSchema, resolve_mapping
from product_sync.schema.types import ColumnType, TypeName
from product_sync.state.files import RUN_ID, STATE_KEY, read_metadata, read_schema
from product_sync_tests.row_schemas import INTEGER, TEXT, row_schema_of, table_of
from product_sync_tests.tables import read_table, write_table

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
# Two columns whose names differ only in case, and values that could come back in another form.
ROW_SCHEMA = row_schema_of(
    {
        "price": ColumnType(TypeName.NUMERIC),
        "Price": INTEGER,
        "since": ColumnType(TypeName.TIMESTAMPTZ),
        "weight": ColumnType(TypeName.REAL),
    }
)
VALUES = {"price": "1.5", "Price": 7, "since": 2**63 - 808, "weight": 0.10000000149011612}
OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
MAKERS: list[Callable[[int], Any]] = [
    str,
    int,
    Int64,
    lambda number: ObjectId(f"{number:024x}"),
    lambda number: f"{number:024x}",
]
TEXT_ID = "507f1f77bcf86cd799439011"


def reject(bson_id: Any, *reasons: Reason, column: str = "price") -> Reject:
    defects = tuple(Defect(column, reason, '"x"') for reason in reasons or [Reason.WRONG_TYPE])
    return Reject(source_key(bson_id), source_id(bson_id), defects)


def refused_values(count: int, values: dict[str, Any] = VALUES) -> pa.Table:
    fields = [(column.name, column.type.arrow) for column in ROW_SCHEMA.values]
    return pa.table({name: pa.array([values[name]] * count, kind) for name, kind in fields})


def write_rejects(path: Path, rejects: Sequence[Reject], stage: Stage = Stage.CONVERT) -> Path:
    refused = refused_values(len(rejects)) if stage is Stage.LOAD else None
    batch = rejects_batch(ROW_SCHEMA, rejects, stage, refused)
    write_table(path, rejects_schema(ROW_SCHEMA), [batch], metadata={STATE_KEY: "key", RUN_ID: "run"})
    return path


def write_rows(path: Path, ids: Sequence[Any], row_schema: RowSchema = ROW_SCHEMA) -> Path:
    sources = [source for bson_id in ids if (source := source_id(bson_id))]
    columns = [
        pa.array([str(source.type) for source in sources], pa.string()),
        pa.array([source.text for source in sources], pa.string()),
        *(pa.nulls(len(sources), column.type.arrow) for column in row_schema.values),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=row_schema.source_schema)
    write_table(path, row_schema.source_schema, [batch], metadata={})
    return path


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a file by source_key. Each key has at most one. Instants stay Arrow's."""
    table = read_table(path)
    table = table.drop_columns(["refused"])
    rows = table.to_pylist()
    assert len({row["source_key"] for row in rows}) == len(rows)
    return {row["source_key"]: row for row in rows}


class TestRejects:
    def test_a_reject_is_one_row_with_all_its_defects(self, tmp_path: Path) -> None:
        path = write_rejects(tmp_path / "rejects", [reject(OBJECT_ID, Reason.NOT_EXACT, Reason.TOO_LONG)])
        assert read_table(path).to_pylist() == [
            {
                "source_key": '{"$oid": "507f1f77bcf86cd799439011"}',
                "id": TEXT_ID,
                ID_TYPE: "objectId",
                "stage": "convert",
                "columns": ["price", "price"],
                "reasons": ["not_exact", "too_long"],
                "values": ['"x"', '"x"'],
                "refused": None,
            }
        ]

    def test_a_reject_without_an_id_has_none(self, tmp_path: Path) -> None:
        (entry,) = entries(write_rejects(tmp_path / "rejects", [reject(5.0, Reason.UNSUPPORTED_ID)])).values()
        assert (entry["id"], entry[ID_TYPE]) == (None, None)

    def test_no_rejects_make_an_empty_file_of_the_schema(self, tmp_path: Path) -> None:
        path = write_rejects(tmp_path / "rejects", [])
        assert summary(path) == {}
        assert first_entries(path, 5) == []


class TestDuplicates:
    def add(self, tmp_path: Path, rows: Sequence[Any], rejects: Sequence[Reject] = ()) -> dict[str, dict[str, Any]]:
        out = tmp_path / "out"
        write_rows(tmp_path / "rows", rows)
        write_rejects(tmp_path / "rejects", rejects)
        counts = add_duplicates(tmp_path / "rows", tmp_path / "rejects", out, ROW_SCHEMA)
        assert counts == summary(out)
        assert read_schema(out).remove_metadata().equals(rejects_schema(ROW_SCHEMA))
        assert read_metadata(out)[STATE_KEY] == "key"
        return entries(out)

    def test_documents_that_share_a_text_id_are_all_quarantined(self, tmp_path: Path) -> None:
        found = self.add(tmp_path, [OBJECT_ID, TEXT_ID, "5", 5, "other", 6])
        assert set(found) == {source_key(bson_id) for bson_id in (OBJECT_ID, TEXT_ID, "5", 5)}
        assert found[source_key(OBJECT_ID)] == {
            "source_key": source_key(OBJECT_ID),
            "id": TEXT_ID,
            ID_TYPE: "objectId",
            "stage": "convert",
            "columns": ["id"],
            "reasons": ["duplicate_id"],
            "values": [source_key(OBJECT_ID)],
        }

    def test_a_document_that_was_a_reject_gets_one_defect_more(self, tmp_path: Path) -> None:
        found = self.add(tmp_path, [TEXT_ID], [reject(OBJECT_ID, Reason.NOT_EXACT)])
        assert found[source_key(TEXT_ID)]["reasons"] == ["duplicate_id"]
        assert found[source_key(OBJECT_ID)]["columns"] == ["price", "id"]
        assert found[source_key(OBJECT_ID)]["reasons"] == ["not_exact", "duplicate_id"]
        assert found[source_key(OBJECT_ID)]["values"] == ['"x"', source_key(OBJECT_ID)]

    def test_two_rejects_can_share_a_text_id(self, tmp_path: Path) -> None:
        found = self.add(tmp_path, ["a", "b"], [reject("5"), reject(5)])
        assert [entry["reasons"] for entry in found.values()] == [["wrong_type", "duplicate_id"]] * 2

    def test_rejects_without_an_id_share_nothing(self, tmp_path: Path) -> None:
        rejects = [reject(5.0, Reason.UNSUPPORTED_ID), reject(None, Reason.UNSUPPORTED_ID)]
        found = self.add(tmp_path, ["5", "null"], rejects)
        assert [entry["reasons"] for entry in found.values()] == [["unsupported_id"]] * 2

    def test_a_document_that_was_read_twice_is_not_its_own_duplicate(self, tmp_path: Path) -> None:
        assert self.add(tmp_path, [5, 6, 7, "a", "a"]) == {}

    def test_a_catalogue_of_one_type_has_none(self, tmp_path: Path) -> None:
        assert self.add(tmp_path, ["a", "b"]) == {}
        assert self.add(tmp_path, []) == {}

    def test_a_long_id_is_named_alike_in_sql_and_cut_in_the_value(self, tmp_path: Path) -> None:
        text = "123\n" * 1000
        rows = write_rows(tmp_path / "rows", [text])
        other = Reject('"other"', SourceId("uuid", text), (Defect("price", Reason.NOT_EXACT, ""),))
        add_duplicates(rows, write_rejects(tmp_path / "rejects", [other]), tmp_path / "out", ROW_SCHEMA)
        entry = entries(tmp_path / "out")[source_key(text)]
        assert entry["values"] == [source_key(text)[:EXCERPT_LENGTH] + "…"]
        assert entry["id"] == text

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 30),
                st.sampled_from(MAKERS),
                st.booleans(),
            ),
            unique_by=lambda made: source_key(made[1](made[0])),
        )
    )
    def test_exactly_the_documents_that_share_a_text_are_named(self, tmp_path: Path, made: list[Any]) -> None:
        rows = [make(number) for number, make, is_reject in made if not is_reject]
        rejects = [reject(make(number)) for number, make, is_reject in made if is_reject]
        by_text = defaultdict(set)
        for number, make, _ in made:
            source = source_id(make(number))
            assert source is not None
            by_text[source.text].add(source_key(make(number)))
        found = self.add(tmp_path, rows, rejects)
        named = {key for key, entry in found.items() if "duplicate_id" in entry["reasons"]}
        assert named == set().union(*(keys for keys in by_text.values() if len(keys) > 1))
        assert set(found) == named | {one.source_key for one in rejects}


class TestMerge:
    def run(
        self,
        tmp_path: Path,
        convert: Sequence[Reject] = (),
        load: Sequence[Reject] = (),
        *,
        run: int = 1,
        untried: Sequence[SourceId] = (),
    ) -> dict[str, dict[str, Any]]:
        """The quarantine after one more run, an hour after the one before."""
        path = tmp_path / "quarantine"
        files = [
            write_rejects(tmp_path / "load", load, Stage.LOAD),
            write_rejects(tmp_path / "convert", convert),
        ]
        previous = path if path.exists() else None
        merge(previous, files, path, now=NOW + run * HOUR, run_id=f"run-{run}", untried=untried)
        assert read_schema(path).remove_metadata().equals(quarantine_schema(rejects_schema(ROW_SCHEMA)))
        assert read_metadata(path) == {STATE_KEY: "key", RUN_ID: f"run-{run}"}
        return entries(path)

    def test_a_new_entry_was_seen_once(self, tmp_path: Path) -> None:
        (entry,) = self.run(tmp_path, [reject("a")]).values()
        assert entry["first_seen"] == entry["last_seen"] == NOW + HOUR
        assert (entry["attempts"], entry["run_id"]) == (1, "run-1")

    def test_an_entry_that_is_met_again_keeps_its_history(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("a", Reason.NOT_EXACT)])
        (entry,) = self.run(tmp_path, [reject("a", Reason.TOO_LONG)], run=2).values()
        assert (entry["first_seen"], entry["last_seen"]) == (NOW + HOUR, NOW + 2 * HOUR)
        assert (entry["attempts"], entry["run_id"]) == (2, "run-2")
        assert entry["reasons"] == ["too_long"]

    def test_an_entry_that_is_not_met_again_leaves(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("a"), reject("b")], [reject("c")])
        assert set(self.run(tmp_path, [reject("b")], run=2)) == {'"b"'}

    def test_a_document_that_came_back_starts_anew(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("a")])
        self.run(tmp_path, run=2)
        (entry,) = self.run(tmp_path, [reject("a")], run=3).values()
        assert (entry["first_seen"], entry["attempts"]) == (NOW + 3 * HOUR, 1)

    def test_a_document_in_both_files_is_one_entry_of_the_conversion(self, tmp_path: Path) -> None:
        load = reject("a", Reason.REFUSED_BY_DATABASE)
        (entry,) = self.run(tmp_path, [reject("a", Reason.NOT_EXACT)], [load]).values()
        assert (entry["stage"], entry["reasons"], entry["attempts"]) == ("convert", ["not_exact"], 1)

    def test_the_history_survives_a_change_of_stage(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("a")])
        (entry,) = self.run(tmp_path, load=[reject("a", Reason.REFUSED_BY_DATABASE)], run=2).values()
        assert (entry["stage"], entry["attempts"], entry["first_seen"]) == ("load", 2, NOW + HOUR)

    def test_a_refused_row_that_was_not_tried_stays_as_it_was(self, tmp_path: Path) -> None:
        before = self.run(tmp_path, [reject("c")], [reject("a"), reject("b"), reject(5)])
        untried = [SourceId("string", "a"), SourceId("string", "5"), SourceId("string", "c")]
        after = self.run(tmp_path, run=2, untried=untried)
        assert after == {'"a"': before['"a"']}

    def test_a_row_that_was_not_tried_but_became_a_reject_is_seen(self, tmp_path: Path) -> None:
        self.run(tmp_path, load=[reject("a")])
        (entry,) = self.run(tmp_path, [reject("a")], run=2, untried=[SourceId("string", "a")]).values()
        assert (entry["stage"], entry["attempts"]) == ("convert", 2)

    def test_nothing_at_all_makes_an_empty_quarantine(self, tmp_path: Path) -> None:
        assert self.run(tmp_path) == {}

    def test_what_was_refused_comes_back_as_it_was(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("b")], [reject("a"), reject(Int64(5))])
        self.run(tmp_path, [reject("b")], [reject("a")], run=2, untried=[SourceId("long", "5")])
        table = refused_rows(tmp_path / "quarantine", ROW_SCHEMA)
        assert table.column_names == [ID_TYPE, "id", "price", "Price", "since", "weight"]
        assert sorted(table["id"].to_pylist()) == ["5", "a"]
        assert table.select(["price", "Price", "since", "weight"]).equals(refused_values(2))

    def test_a_quarantine_without_refusals_excuses_nothing(self, tmp_path: Path) -> None:
        self.run(tmp_path, [reject("b")])
        assert read_table(tmp_path / "quarantine")["refused"].null_count == 1
        assert refused_rows(tmp_path / "quarantine", ROW_SCHEMA).num_rows == 0


def test_the_refused_values_of_a_column_called_id_beside_the_key_are_found(tmp_path: Path) -> None:
    columns = {"sku": {"source": "_id"}, "id": {"source": "number"}}
    definition = SyncDefinition.model_validate(
        {"source": {"collection": "products"}, "target": {"table": "product"}, "columns": columns}
    )
    row_schema = resolve_mapping(definition, table_of({"sku": TEXT, "id": INTEGER}, key="sku"))
    batch = rejects_batch(
        row_schema, [reject("a"), reject("b")], Stage.LOAD, pa.table({"id": pa.array([7, 8], pa.int32())})
    )
    history = {"first_seen": NOW, "last_seen": NOW, "attempts": 1, "run_id": "run"}
    entries = pa.Table.from_pylist(
        [entry | history for entry in batch.to_pylist()], schema=quarantine_schema(rejects_schema(row_schema))
    )
    path = tmp_path / "quarantine"
    write_table(path, entries.schema, entries.to_batches(), metadata={STATE_KEY: "key", RUN_ID: "run"})
    found = [{"source_id_type": "string", "sku": "a", "id": 7}, {"source_id_type": "string", "sku": "b", "id": 8}]
    assert refused_rows(path, row_schema).to_pylist() == found
    assert refused_rows(path, row_schema, "b").to_pylist() == found[1:]
    ranges = list(by_key([refused_input(path, row_schema)], tmp_path, Limits(range_bytes=2)))
    assert [table.to_pylist() for (table,) in ranges] == [found[:1], found[1:]]


def test_the_summary_counts_a_document_once_for_each_of_its_reasons(tmp_path: Path) -> None:
    rejects = [
        reject("a", Reason.NOT_EXACT, Reason.NOT_EXACT, Reason.TOO_LONG),
        reject("b", Reason.NOT_EXACT),
        reject("c", Reason.MISSING_FIELD),
    ]
    path = write_rejects(tmp_path / "rejects", rejects)
    assert summary(path) == {Reason.MISSING_FIELD: 1, Reason.NOT_EXACT: 2, Reason.TOO_LONG: 1}


def test_the_first_entries_are_the_same_at_each_call(tmp_path: Path) -> None:
    path = write_rejects(tmp_path / "rejects", [reject(f"{number:03}") for number in reversed(range(100))])
    assert [entry["source_key"] for entry in first_entries(path, 3)] == ['"000"', '"001"', '"002"']


def test_every_supported_id_keeps_its_name_on_the_way_from_row_to_reject(tmp_path: Path) -> None:
    """The keys that SQL makes of rows are those that Python makes of documents."""
    ids: list[Any] = ["5", 5, "6", Int64(6), OBJECT_ID, TEXT_ID]
    write_rows(tmp_path / "rows", ids)
    add_duplicates(tmp_path / "rows", write_rejects(tmp_path / "rejects", []), tmp_path / "out", ROW_SCHEMA)
    for key, entry in entries(tmp_path / "out").items():
        assert key == source_key(to_bson(SourceId(entry[ID_TYPE], entry["id"])))
    assert len(entries(tmp_path / "out")) == len(ids)
