"""Whatever keeps a row out of a real table is named, as the catalogue has the constraint."""

from __future__ import annotations

from typing import Any

import pytest

from product_sync.errors import RowsExcluded
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.obstacle import Obstacle, ObstacleKind
from product_sync.schema.ports import WriteBatch
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import execute, role, row_schema_of

TABLE = "CREATE TABLE t (id text PRIMARY KEY, a text, b text, n int, m int, note text)"


def found(url: str, row_schema: RowSchema, batch: WriteBatch) -> set[tuple[str, str, str]]:
    """(row, other, constraint) of the obstacles of a batch that the server refuses."""
    with PostgresWriter(TargetAddress(url), row_schema, run_id="test") as writer:
        with pytest.raises(RowsExcluded):
            writer.write(batch)
        return {(each.row, each.other, each.constraint) for each in writer.obstacles(batch)}


def update(row_id: str, **new: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"id": row_id}, {"id": row_id, **new}


@pytest.mark.parametrize(
    ("constraint", "held", "wanted"),
    [
        ("CREATE UNIQUE INDEX u ON t (lower(a))", {"a": "RED"}, {"a": "red"}),
        ("CREATE UNIQUE INDEX u ON t (a, b)", {"a": "x", "b": "y"}, {"a": "x", "b": "y"}),
        ("CREATE UNIQUE INDEX u ON t (a) INCLUDE (b) WHERE n > 0", {"a": "x", "n": 1}, {"a": "x", "n": 2}),
        ("ALTER TABLE t ADD CONSTRAINT u UNIQUE NULLS NOT DISTINCT (a, n)", {"a": "x"}, {"a": "x"}),
        ("ALTER TABLE t ADD CONSTRAINT u UNIQUE (a) DEFERRABLE INITIALLY DEFERRED", {"a": "x"}, {"a": "x"}),
        (
            "ALTER TABLE t ADD CONSTRAINT u EXCLUDE USING gist (int4range(n, m) WITH &&)",
            {"n": 1, "m": 5},
            {"n": 4, "m": 9},
        ),
        ("ALTER TABLE t ADD CONSTRAINT u EXCLUDE (lower(b) WITH =) WHERE (a IS NULL)", {"b": "X"}, {"b": "x"}),
        (
            "ALTER TABLE t ADD slug text GENERATED ALWAYS AS (lower(a) || coalesce(n::text, '')) STORED UNIQUE;"
            " ALTER INDEX t_slug_key RENAME TO u",
            {"a": "RED"},
            {"a": "red"},
        ),
        ("CREATE UNIQUE INDEX u ON t ((a || '{}%' || coalesce(b, '')))", {"a": "x", "b": "y"}, {"a": "x", "b": "y"}),
    ],
)
def test_the_row_that_a_constraint_is_about_is_named(
    cart_url: str, constraint: Any, held: dict[str, Any], wanted: dict[str, Any]
) -> None:
    execute(cart_url, TABLE, constraint)
    row_schema = row_schema_of(cart_url, "t")
    others = {"n": 100, "m": 101}
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        rows = [{"id": "holder", **held}, {"id": "p", "a": "free", "b": "free", **others}]
        writer.write(write_batch(row_schema, inserts=rows))
        batch = write_batch(row_schema, updates=[(rows[1], {"id": "p", **wanted})])
    assert found(cart_url, row_schema, batch) == {("p", "holder", "u")}
    assert found(cart_url, row_schema, write_batch(row_schema, inserts=[{"id": "new", **wanted}])) == {
        ("new", "holder", "u")
    }


def test_columns_that_the_mapping_leaves_out_keep_what_they_have(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE t (id text PRIMARY KEY, a text, shop money, key text DEFAULT '1')",
        "CREATE UNIQUE INDEX u ON t (a, shop, key)",
        "INSERT INTO t VALUES ('p', '1', '1', 'k'), ('q', '2', '1', 'k'), ('r', '2', '2', 'k')",
    )
    row_schema = row_schema_of(cart_url, "t", not_updated=["key"])
    old, new = {"id": "p", "a": "1"}, {"id": "p", "a": "2", "key": "not written"}
    assert found(cart_url, row_schema, write_batch(row_schema, updates=[(old, new)])) == {("p", "q", "u")}


def test_an_index_on_columns_that_the_role_may_not_read_is_passed_over(cart_url: str) -> None:
    execute(cart_url, TABLE, "CREATE UNIQUE INDEX u ON t (note, a)", "CREATE UNIQUE INDEX v ON t (b)")
    execute(cart_url, "INSERT INTO t (id, a, b) VALUES ('p', '1', '1'), ('q', '2', '2')")
    execute(cart_url, "ALTER TABLE t ALTER note TYPE int4range USING NULL")
    row_schema = row_schema_of(cart_url, "t")
    columns = "id, a, b, n, m"
    with (
        role(
            cart_url,
            f"GRANT SELECT ({columns}), INSERT ({columns}) ON t TO {{}}",
            "GRANT UPDATE (a, b, n, m) ON t TO {}",
        ) as user,
    ):
        batch = write_batch(row_schema, updates=[({"id": "p", "a": "1", "b": "1"}, {"id": "p", "a": "2", "b": "2"})])
        assert found(user.url, row_schema, batch) == {("p", "q", "v")}


def test_references_are_followed_where_the_role_may_read_them(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE brand (id int, shop int, PRIMARY KEY (id, shop))",
        "INSERT INTO brand VALUES (1, 1)",
        "CREATE TABLE t (id text PRIMARY KEY, parent text REFERENCES t DEFERRABLE, brand int, shop int,"
        " CONSTRAINT b FOREIGN KEY (brand, shop) REFERENCES brand)",
        "INSERT INTO t VALUES ('p', NULL, 1, 1), ('child', 'p', NULL, 2)",
    )
    row_schema = row_schema_of(cart_url, "t")
    rows: list[dict[str, Any]] = [
        {"id": "x", "parent": "p", "brand": 1, "shop": 1},
        {"id": "y", "parent": "y", "brand": 7, "shop": 1},
        {"id": "z", "parent": "nowhere"},
    ]
    batch = write_batch(row_schema, inserts=rows)
    with role(cart_url, "GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {}") as user:
        assert found(user.url, row_schema, batch) == {("z", "nowhere", "t_parent_fkey")}
        with PostgresWriter(TargetAddress(user.url), row_schema, run_id="test") as writer:
            deletion = write_batch(row_schema, deletes=[{"id": "p", "brand": 1, "shop": 1}])
            named = ("t_parent_fkey", ("parent",), True)
            assert writer.obstacles(deletion) == [Obstacle("p", "child", ObstacleKind.REFERRING, *named)]
    assert found(cart_url, row_schema, batch) == {("z", "nowhere", "t_parent_fkey"), ("y", "7, 1", "b")}
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        assert {each.table for each in writer.obstacles(batch) if each.row == "y"} == {"public.brand"}


def test_keys_of_another_type_and_hostile_names_are_asked_about_too(cart_url: str) -> None:
    execute(
        cart_url,
        'CREATE TABLE "T {} %s" ("i d" uuid PRIMARY KEY, "we""ird {} %s" numeric UNIQUE, "k" text, "number" int)',
        'CREATE UNIQUE INDEX ON "T {} %s" (k, "number")',
    )
    row_schema = row_schema_of(cart_url, "T {} %s")
    one, two = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
    weird = 'we"ird {} %s'
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        writer.write(write_batch(row_schema, inserts=[{"i d": one, weird: "1.50", "k": "k", "number": 1}]))
    batch = write_batch(row_schema, inserts=[{"i d": two, weird: "1.5", "k": "k", "number": 1}])
    assert {(row, other) for row, other, _ in found(cart_url, row_schema, batch)} == {(two, one)}
    assert len(found(cart_url, row_schema, batch)) == 2


def test_a_batch_of_any_size_is_asked_about(cart_url: str) -> None:
    execute(cart_url, TABLE, "CREATE UNIQUE INDEX u ON t (a)")
    execute(cart_url, "INSERT INTO t (id, a) SELECT 'p' || i, i FROM generate_series(1, 20000) AS i", "ANALYZE t")
    row_schema = row_schema_of(cart_url, "t")
    updates = [
        ({"id": f"p{number}", "a": str(number)}, {"id": f"p{number}", "a": str(number + 1)})
        for number in range(1, 6_000)
    ]
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        found = writer.obstacles(write_batch(row_schema, updates=updates))
    assert len(found) == 5_999
    assert {each[:2] for each in found} == {(f"p{number}", f"p{number + 1}") for number in range(1, 6_000)}


def test_an_expression_that_fails_for_a_value_of_the_batch_is_no_obstacle_and_no_error(cart_url: str) -> None:
    execute(cart_url, TABLE, "CREATE UNIQUE INDEX u ON t ((10 / n))", "CREATE UNIQUE INDEX v ON t (a)")
    execute(cart_url, "INSERT INTO t (id, a, n) VALUES ('p', '1', 1)")
    row_schema = row_schema_of(cart_url, "t")
    batch = write_batch(row_schema, inserts=[{"id": "q", "a": "1", "n": 2}, {"id": "r", "n": 0}])
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        assert [each[:2] for each in writer.obstacles(batch)] == [("q", "p")]
