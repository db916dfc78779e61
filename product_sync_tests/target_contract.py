"""What every `product_sync.schema.ports.TargetReader` and `TargetWriter` promises: run on PostgreSQL, and on the fake.

A subclass provides the fixture ``target_of``: given a row schema and the rows that the table holds (canonical values),
it returns a `Target` to read, to write, and to meddle with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from product_sync.errors import RowsExcluded, RowsRefused
from product_sync.schema.column_spec import ColumnSpec
from product_sync.schema.definition import SourceSpec, SyncDefinition, TargetSpec
from product_sync.schema.obstacle import Obstacle, ObstacleKind
from product_sync.schema.ports import TargetReader, TargetWriter, WriteBatch, Written
from product_sync.schema.records import TableColumn, TargetTable
from product_sync.schema.row_schema import RowSchema, resolve_mapping
from product_sync.schema.types import ColumnType, TypeName

Row = Mapping[str, Any]

INFINITY, MINUS_INFINITY = 2**63 - 1, -(2**63)

#: One column of every type that the target may have, nullable but for the key.
EVERY_TYPE: Mapping[str, ColumnType] = {
    "id": ColumnType(TypeName.TEXT),
    "small": ColumnType(TypeName.SMALLINT),
    "whole": ColumnType(TypeName.INTEGER),
    "big": ColumnType(TypeName.BIGINT),
    "price": ColumnType(TypeName.NUMERIC, precision=20, scale=4),
    "amount": ColumnType(TypeName.NUMERIC),
    "single": ColumnType(TypeName.REAL),
    "double": ColumnType(TypeName.DOUBLE),
    "title": ColumnType(TypeName.TEXT),
    "name": ColumnType(TypeName.VARCHAR, length=12),
    "active": ColumnType(TypeName.BOOLEAN),
    "moment": ColumnType(TypeName.TIMESTAMPTZ),
    "token": ColumnType(TypeName.UUID),
    "facts": ColumnType(TypeName.JSONB),
    "extra": ColumnType(TypeName.JSON),
    "code": ColumnType(TypeName.CHAR, length=12),
    "day": ColumnType(TypeName.DATE),
    "clock": ColumnType(TypeName.TIMESTAMP),
    "tags": ColumnType(TypeName.ARRAY, element=ColumnType(TypeName.TEXT)),
    "sold": ColumnType(TypeName.ARRAY, element=ColumnType(TypeName.TIMESTAMPTZ)),
}

#: Rows at the edges of every type.
EDGES: Sequence[Row] = (
    {"id": "nulls"},
    {
        "id": "least",
        "small": -(2**15),
        "whole": -(2**31),
        "big": -(2**63),
        "price": "-9999999999999999.9999",
        "amount": "-0.000000000000000000000000000001",
        "single": -3.4028234663852886e38,
        "double": -1.7976931348623157e308,
        "title": "",
        "name": "",
        "active": False,
        # 4713 BC, January 1: about where PostgreSQL's calendar begins.
        "moment": -210_866_803_200_000_000,
        "token": "00000000-0000-0000-0000-000000000000",
        "facts": "null",
        "extra": "[]",
        "code": "",
        "day": -2_440_588,
        "clock": -210_866_803_200_000_000,
        "tags": "{}",
        "sold": '{"4714-11-24 00:00:00+00 BC",NULL,"1970-01-01 00:00:00.1+00"}',
    },
    {
        "id": "most",
        "small": 2**15 - 1,
        "whole": 2**31 - 1,
        "big": 2**63 - 1,
        "price": "9999999999999999.9999",
        "amount": "123456789012345678901234567890123456789012345678901234567890",
        "single": 1.401298464324817e-45,
        "double": 5e-324,
        "title": "Ω 😀 \u202e\\ ' \" \t\r\n' ; DROP TABLE product; -- %s $1 {}",
        "name": "😀" * 12,
        "active": True,
        # Beyond the year 9999, where Python's datetime ends.
        "moment": 9_000_000_000_000_000_000,
        "token": "ffffffff-ffff-4fff-bfff-ffffffffffff",
        "facts": '{"a": [1.5, -20, true, "\\u0001\\"\\\\u0000"], "bb": {"": null}, "ä": "😀"}',
        "extra": '{"a": "not jsonb: {}", "b": 1000000}',
        "code": "  😀  é",
        "day": 2_145_042_905,
        "clock": 9_223_371_331_200_000_000 - 1,
        "tags": '{red,"dark \\"blue\\" ; \\\\","",NULL,"null","{}"}',
        "sold": '{"294276-12-31 23:59:59.999999+00",infinity}',
    },
    {
        "id": "not finite",
        "price": "NaN",
        "amount": "Infinity",
        "single": float("nan"),
        "double": float("-inf"),
        "moment": INFINITY,
        "day": 2**31 - 1,
        "clock": INFINITY,
    },
    {
        "id": "not finite either",
        "amount": "-Infinity",
        "single": float("inf"),
        "double": float("nan"),
        "moment": MINUS_INFINITY,
        "day": -(2**31),
        "clock": MINUS_INFINITY,
    },
    {"id": "plain", "price": "99.9", "amount": "0", "single": 0.0, "double": 0.1, "moment": 1_700_000_000_123_456},
    {"id": "", "title": "the empty id"},
)


class Target(Protocol):
    """A table under test: the two ports, and the hands of another client and of the table's owner."""

    @property
    def reader(self) -> TargetReader: ...

    @property
    def writer(self) -> TargetWriter: ...

    def remove(self, key: str) -> None:
        """Another client deletes the row."""

    def refuse_title(self, title: str) -> None:
        """From now on a constraint refuses rows with this title."""

    def make_unique(self, column: str) -> None:
        """From now on no two rows may have the same value in this column. The constraint is called ``unique_…``."""

    def refer_to_id(self, column: str) -> None:
        """From now on a value of this column has to be the id of a row. The constraint is called ``parent``."""

    def swallow(self, key: str) -> None:
        """From now on a trigger makes a new row with this id vanish."""


TargetOf = Callable[[RowSchema, Sequence[Row]], Target]


#: As PostgreSQL writes them, where that differs.
_DECLARED = {
    "varchar(12)": "character varying(12)",
    "char(12)": "character(12)",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timestamptz[]": "timestamp with time zone[]",
}


def every_type_row_schema(*, not_updated: Sequence[str] = ()) -> RowSchema:
    """`EVERY_TYPE` as a table ``everything``, each column mapped from the field of its name."""
    columns = tuple(
        TableColumn(name, _DECLARED.get(str(type_), str(type_)), type_, name != "id", False)
        for name, type_ in EVERY_TYPE.items()
    )
    specs = {
        name: ColumnSpec(
            source="_id" if name == "id" else name,
            required=name == "id",
            update=name not in not_updated,
            zone="UTC" if name == "clock" else None,
        )
        for name in EVERY_TYPE
    }
    target = TargetSpec(table="everything")
    mapping = SyncDefinition(source=SourceSpec(collection="products"), target=target, columns=specs)
    return resolve_mapping(mapping, TargetTable("public", "everything", columns, True, (("id",),)))


def table_of(row_schema: RowSchema, rows: Sequence[Row]) -> pa.Table:
    """Canonical rows with ``RowSchema.target_schema``; a column that a row leaves out is NULL."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in row_schema.target_schema]
    return pa.table(columns, schema=row_schema.target_schema)


def write_batch(
    row_schema: RowSchema,
    *,
    inserts: Sequence[Row] = (),
    updates: Sequence[tuple[Row, Row]] = (),
    deletes: Sequence[Row] = (),
) -> WriteBatch:
    """A batch of canonical rows; ``updates`` are pairs of the old and the new row."""
    return WriteBatch(
        inserts=table_of(row_schema, inserts),
        new=table_of(row_schema, [new for _, new in updates]),
        old=table_of(row_schema, [old for old, _ in updates]),
        deletes=table_of(row_schema, deletes),
    )


def rows_of(table: pa.Table) -> dict[str, dict[str, str]]:
    """Rows by id, each value as the text of its canonical form: NaN equals itself, and no date is too far."""
    shown = {}
    for name in table.schema.names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = pc.cast(column, pa.int64())
        elif pa.types.is_date(column.type):
            column = pc.cast(column, pa.int32())
        shown[name] = [repr(value) for value in column.to_pylist()]
    ids = table["id"].to_pylist()
    assert len(set(ids)) == len(ids), "an id was read twice"
    return {key: {name: shown[name][at] for name in shown} for at, key in enumerate(ids)}


class TargetContract:
    """The promises. Subclasses are collected; this class has no ``Test`` in its name and is not."""

    @pytest.fixture
    def row_schema(self) -> RowSchema:
        return every_type_row_schema(not_updated=("name",))

    def content(self, target: Target, row_schema: RowSchema) -> dict[str, dict[str, str]]:
        return rows_of(pa.Table.from_batches(target.reader.snapshot(), schema=row_schema.target_schema))

    def test_an_empty_table_is_read_as_no_rows(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, [])
        assert self.content(target, row_schema) == {}
        assert target.reader.fetch(["x"]).num_rows == 0
        assert target.reader.fetch(["x"]).schema == row_schema.target_schema

    def test_every_value_of_every_type_is_read_as_it_was_written(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        target = target_of(row_schema, [])
        written = target.writer.write(write_batch(row_schema, inserts=EDGES))
        assert written == Written(inserted=frozenset(row["id"] for row in EDGES))
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, EDGES))

    def test_rows_are_fetched_by_id_and_absent_ids_have_none(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, EDGES)
        for port in (target.reader, target.writer):
            found = port.fetch(["most", "no such id", "", "most"])
            assert rows_of(found) == {
                key: row for key, row in rows_of(table_of(row_schema, EDGES)).items() if key in ("most", "")
            }
            assert port.fetch([]).schema == row_schema.target_schema

    def test_every_value_is_recognised_when_it_is_compared_and_swapped(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        target = target_of(row_schema, EDGES)
        updates = [(row, {**row, "title": "new", "whole": 1}) for row in EDGES]
        written = target.writer.write(write_batch(row_schema, updates=updates))
        assert written == Written(updated=frozenset(row["id"] for row in EDGES))
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, [new for _, new in updates]))

    def test_every_value_is_recognised_when_it_is_deleted(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, EDGES)
        written = target.writer.write(write_batch(row_schema, deletes=EDGES))
        assert written == Written(deleted=frozenset(row["id"] for row in EDGES))
        assert self.content(target, row_schema) == {}

    @pytest.mark.parametrize("column", [name for name in EVERY_TYPE if name not in ("id", "name")])
    def test_a_row_that_another_client_changed_is_not_overwritten(
        self, target_of: TargetOf, row_schema: RowSchema, column: str
    ) -> None:
        seen = {**EDGES[1], "id": "p"}
        changed_meanwhile = {**seen, column: EDGES[2][column]}
        nulled_meanwhile = {**seen, "id": "q", column: None}
        target = target_of(row_schema, [changed_meanwhile, nulled_meanwhile])
        seen_too = {**seen, "id": "q"}
        updates = [(seen, {**seen, "title": "old news"}), (seen_too, {**seen_too, "title": "old news"})]
        assert target.writer.write(write_batch(row_schema, updates=updates)) == Written()
        assert target.writer.write(write_batch(row_schema, deletes=[seen, seen_too])) == Written()
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, [changed_meanwhile, nulled_meanwhile]))

    def test_a_row_that_another_client_inserted_is_left_alone(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, [{"id": "p", "title": "newer"}])
        inserts = [{"id": "p", "title": "older"}, {"id": "q", "title": "mine"}]
        assert target.writer.write(write_batch(row_schema, inserts=inserts)) == Written(inserted=frozenset({"q"}))
        assert self.content(target, row_schema) == rows_of(
            table_of(row_schema, [{"id": "p", "title": "newer"}, {"id": "q", "title": "mine"}])
        )

    def test_a_row_that_another_client_deleted_does_not_come_back(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        target = target_of(row_schema, [{"id": "p"}, {"id": "q"}])
        target.remove("p")
        updates = [({"id": key}, {"id": key, "title": "new"}) for key in ("p", "q")]
        assert target.writer.write(write_batch(row_schema, updates=updates)) == Written(updated=frozenset({"q"}))
        assert set(self.content(target, row_schema)) == {"q"}

    def test_a_column_that_is_not_updated_is_neither_compared_nor_overwritten(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        target = target_of(row_schema, [{"id": "p", "title": "old", "name": "theirs"}])
        update = ({"id": "p", "title": "old", "name": "stale"}, {"id": "p", "title": "new", "name": "ours"})
        assert target.writer.write(write_batch(row_schema, updates=[update])).updated == {"p"}
        assert target.writer.fetch(["p"]).select(["title", "name"]).to_pylist() == [{"title": "new", "name": "theirs"}]

    def test_all_three_kinds_are_one_transaction(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        before = [{"id": "changed", "title": "old"}, {"id": "extra"}]
        target = target_of(row_schema, before)
        target.refuse_title("bad")
        parts: dict[str, Any] = {
            "updates": [(before[0], {"id": "changed", "title": "new"})],
            "deletes": [before[1]],
        }
        with pytest.raises(RowsRefused):
            target.writer.write(
                write_batch(row_schema, inserts=[{"id": "a", "title": "good"}, {"id": "b", "title": "bad"}], **parts)
            )
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, before))
        written = target.writer.write(write_batch(row_schema, inserts=[{"id": "a", "title": "good"}], **parts))
        assert written == Written(frozenset({"a"}), frozenset({"changed"}), frozenset({"extra"}))

    def test_a_row_that_a_trigger_swallows_is_not_counted(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, [])
        target.swallow("p")
        inserts = [{"id": "p"}, {"id": "q"}]
        assert target.writer.write(write_batch(row_schema, inserts=inserts)).inserted == {"q"}

    def test_a_probe_tells_what_would_be_written_and_changes_no_row(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        before = [{"id": "p", "title": "old"}, {"id": "extra"}]
        target = target_of(row_schema, before)
        planned = write_batch(
            row_schema,
            inserts=[{"id": "new"}, {"id": "p"}],
            updates=[(before[0], {"id": "p", "title": "new"})],
            deletes=[before[1]],
        )
        assert target.writer.probe(planned) == Written(frozenset({"new"}), frozenset({"p"}), frozenset({"extra"}))
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, before))
        target.refuse_title("new")
        with pytest.raises(RowsRefused):
            target.writer.probe(planned)

    def test_a_batch_of_nothing_writes_nothing(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, EDGES)
        assert target.writer.write(write_batch(row_schema)) == Written()
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, EDGES))

    def test_the_row_that_holds_a_value_is_named_and_so_is_the_first_of_the_batch_that_wants_it(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        columns = [name for name in EVERY_TYPE if name not in ("id", "name", "active", "extra")]
        target = target_of(row_schema, [{**EDGES[1], "id": "holder"}, {"id": "p"}, {"id": "q"}])
        for column in columns:
            target.make_unique(column)
        for column in columns:
            taken, free = EDGES[1][column], EDGES[2][column]
            batch = write_batch(
                row_schema,
                inserts=[{"id": "new", column: free}, {"id": "null"}],
                updates=[({"id": "p"}, {"id": "p", column: taken}), ({"id": "q"}, {"id": "q", column: free})],
            )
            with pytest.raises(RowsExcluded):
                target.writer.write(batch)
            named = (f"unique_{column}", (column,))
            assert sorted(target.writer.obstacles(batch)) == [
                Obstacle("p", "holder", ObstacleKind.HELD, *named),
                Obstacle("q", "new", ObstacleKind.RIVAL, *named),
            ]
            assert target.writer.obstacles(batch.take([0, 1])) == []

    def test_rows_that_others_refer_to_are_named(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        target = target_of(row_schema, [{"id": "parent"}, {"id": "child", "title": "parent"}, {"id": "p"}])
        target.refer_to_id("title")
        orphan = write_batch(
            row_schema,
            inserts=[{"id": "new", "title": "absent"}, {"id": "itself", "title": "itself"}],
            updates=[({"id": "p"}, {"id": "p", "title": "parent"})],
        )
        with pytest.raises(RowsExcluded):
            target.writer.write(orphan)
        assert target.writer.obstacles(orphan) == [Obstacle("new", "absent", ObstacleKind.NEEDED, "parent", ("title",))]
        deletion = write_batch(row_schema, deletes=[{"id": "parent"}, {"id": "p"}])
        with pytest.raises(RowsExcluded):
            target.writer.write(deletion)
        assert target.writer.obstacles(deletion) == [
            Obstacle("parent", "child", ObstacleKind.REFERRING, "parent", ("title",))
        ]

    def test_steps_are_one_transaction_and_each_sees_the_one_before(
        self, target_of: TargetOf, row_schema: RowSchema
    ) -> None:
        rows: list[Row] = [
            {"id": "p", "title": "1", "whole": 7},
            {"id": "q", "title": "2"},
            {"id": "extra", "title": "3"},
        ]
        target = target_of(row_schema, rows)
        target.make_unique("title")
        parked, done = {**rows[0], "title": None}, {**rows[0], "title": "2"}
        steps = [
            write_batch(row_schema, updates=[(rows[0], parked)], deletes=[rows[2]]),
            write_batch(
                row_schema, updates=[(rows[1], {**rows[1], "title": "1"})], inserts=[{"id": "new", "title": "3"}]
            ),
            write_batch(row_schema, updates=[(parked, done)]),
        ]
        with pytest.raises(RowsExcluded) as caught:
            target.writer.write_in_order(steps[1:])
        assert caught.value.step == 0
        written = target.writer.write_in_order(steps)
        assert written == Written(frozenset({"new"}), frozenset({"p", "q"}), frozenset({"extra"}))
        after: list[Row] = [done, {**rows[1], "title": "1"}, {"id": "new", "title": "3"}]
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, after))

    def test_steps_are_all_written_or_none(self, target_of: TargetOf, row_schema: RowSchema) -> None:
        rows: list[Row] = [{"id": "p", "title": "1"}, {"id": "q", "title": "2"}]
        target = target_of(row_schema, rows)
        steps = [
            write_batch(row_schema, updates=[(rows[0], {**rows[0], "title": "new"})]),
            write_batch(row_schema, updates=[({**rows[1], "title": "as it was"}, {**rows[1], "title": "new"})]),
        ]
        assert target.writer.write_in_order(steps) == Written()
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, rows))
        target.refuse_title("bad")
        steps[1] = write_batch(row_schema, updates=[(rows[1], {**rows[1], "title": "bad"})])
        with pytest.raises(RowsRefused) as caught:
            target.writer.write_in_order(steps)
        assert caught.value.step == 1
        assert self.content(target, row_schema) == rows_of(table_of(row_schema, rows))
