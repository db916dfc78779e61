"""Rows that exclude each other, on a real table: one sync repairs them, or says which two rows and why."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from product_sync.load.deletion import DeletionFacts
from product_sync.load.parking_values import parking_places
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.databases import create_product_table
from product_sync_tests.fakes import FakeSource, FakeTarget
from product_sync_tests.load.bench import Bench, document, row
from product_sync_tests.market import Market, product, products
from product_sync_tests.source_contract import product_row_schema
from product_sync_tests.target_contract import EDGES, EVERY_TYPE, rows_of, table_of, write_batch
from product_sync_tests.targets.postgres_tables import execute, row_schema_of

ROW_SCHEMA = product_row_schema()


class _Table(PostgresWriter):
    """The real table behind both ports of the target."""

    def __init__(self, url: str) -> None:
        super().__init__(TargetAddress(url), ROW_SCHEMA, run_id="test")
        reader = PostgresReader(TargetAddress(url), ROW_SCHEMA)
        self.snapshot = reader.snapshot
        self.estimated_count = reader.estimated_count


def bench_on(folder: str | Path, table: _Table, documents: Sequence[dict[str, Any]]) -> Bench:
    bench = Bench(Path(folder), FakeSource(ROW_SCHEMA, documents), cast("FakeTarget", table), ROW_SCHEMA)
    bench.compare()
    return bench


def titles(url: str) -> dict[str, str]:
    return dict(execute(url, "SELECT id, title FROM product"))


@pytest.mark.usefixtures("product_table")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(2, 25), batch_size=st.integers(1, 12), chance=st.randoms(use_true_random=False), data=st.data()
)
def test_any_permutation_of_a_unique_column_converges_in_one_sync(
    cart_url: str, count: int, batch_size: int, chance: random.Random, data: st.DataObject
) -> None:
    constraint = data.draw(
        st.sampled_from(
            [
                "CREATE UNIQUE INDEX u ON product (title)",
                "CREATE UNIQUE INDEX u ON product (lower(title), quantity) WHERE price > 0",
                "ALTER TABLE product ADD CONSTRAINT u UNIQUE (title) DEFERRABLE",
                "ALTER TABLE product ADD CONSTRAINT u EXCLUDE (title WITH =)",
                "ALTER TABLE product ALTER title DROP NOT NULL, ADD CONSTRAINT u UNIQUE (title)",
            ]
        )
    )
    execute(cart_url, "DROP TABLE product")
    create_product_table(cart_url)
    execute(cart_url, constraint)
    names = [f"p{number:03}" for number in range(count)]
    values = [f"t{number:03}" for number in range(count)]
    shuffled = chance.sample(values, count)
    doomed = {name for name in names if chance.random() < 0.15}
    wanted = dict(zip(names, shuffled, strict=True))
    wanted |= {f"new-{name}": wanted.pop(name) for name in doomed}
    with tempfile.TemporaryDirectory() as folder, _Table(cart_url) as table:
        held = [row(name, title=value) for name, value in zip(names, values, strict=True)]
        table.write(write_batch(ROW_SCHEMA, inserts=held))
        bench = bench_on(folder, table, [document(name, title=title) for name, title in wanted.items()])
        result = bench.load(
            batch_size=batch_size, deletion_facts=DeletionFacts(len(doomed), count, True, (), max_delete_share=1.0)
        )
        assert titles(cart_url) == wanted
        assert result.planned == result.inserted + result.updated + result.deleted
        assert (result.excluded, result.quarantined) == (0, 0)


@pytest.mark.usefixtures("product_table")
def test_no_other_session_sees_a_value_that_neither_side_has(cart_url: str, tmp_path: Path) -> None:
    """A trigger does: it writes down what each row held, and when it was committed is told by its transaction."""
    execute(
        cart_url,
        "CREATE UNIQUE INDEX ON product (title)",
        "CREATE TABLE seen (title text, transaction xid8 DEFAULT pg_current_xact_id())",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO seen VALUES (NEW.title); RETURN NEW; END'",
    )
    with _Table(cart_url) as table:
        table.write(write_batch(ROW_SCHEMA, inserts=[row(f"p{n}", title=f"t{n}") for n in range(3)]))
        execute(cart_url, "CREATE TRIGGER t BEFORE UPDATE ON product FOR EACH ROW EXECUTE FUNCTION f()")
        bench = bench_on(tmp_path, table, [document(f"p{n}", title=f"t{(n + 1) % 3}") for n in range(3)])
        assert bench.load(batch_size=1).updated == 3
    seen = [title for (title,) in execute(cart_url, "SELECT title FROM seen")]
    assert len(seen) == 4, "one row of the circle is written twice, the others once"
    assert execute(cart_url, "SELECT count(DISTINCT transaction) FROM seen") == [(1,)]


@pytest.mark.parametrize("key", ["NO ACTION", "RESTRICT", "NO ACTION DEFERRABLE INITIALLY DEFERRED"])
@pytest.mark.usefixtures("product_table")
def test_rows_that_refer_to_one_another_come_and_go_in_any_order(cart_url: str, tmp_path: Path, key: str) -> None:
    execute(
        cart_url,
        sql.SQL("ALTER TABLE product ADD FOREIGN KEY (image) REFERENCES product ON DELETE " + key),
    )
    parents = {"a": "c", "b": "d", "c": "b", "d": "d", "e": "f", "f": "e"}
    with _Table(cart_url) as table:
        gone = {"v": "v", "w": "v", "x": "w", "y": "z", "z": "y"}
        table.write(write_batch(ROW_SCHEMA, inserts=[row(name, image=parent) for name, parent in gone.items()]))
        bench = bench_on(tmp_path, table, [document(name, image=parent) for name, parent in parents.items()])
        facts = DeletionFacts(5, 5, True, (), max_delete_share=1.0)
        result = bench.load(batch_size=1, deletion_facts=facts)
        assert dict(execute(cart_url, "SELECT id, image FROM product")) == parents
        assert (result.inserted, result.deleted, result.excluded, result.kept_referenced) == (6, 5, 0, 0)


def test_a_parked_value_of_every_type_is_taken_by_the_server(cart_url: str) -> None:
    """Two rows swap all their values at once, in a table that takes no NULL."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(name), sql.SQL(str(kind))) for name, kind in EVERY_TYPE.items()
    )
    execute(cart_url, sql.SQL("CREATE TABLE everything ({}, PRIMARY KEY (id))").format(columns))
    row_schema = row_schema_of(cart_url, "everything")
    unique = [name for name in EVERY_TYPE if name not in ("id", "active", "extra")]
    for name in unique:
        execute(cart_url, sql.SQL("CREATE UNIQUE INDEX ON everything ({})").format(sql.Identifier(name)))
    one, two = {**EDGES[1], "id": "a"}, {**EDGES[2], "id": "b"}
    parked: dict[str, Any] = {"id": "a", "active": True, "extra": "[]"}
    for name in unique:
        parked |= next(parking_places(row_schema, [name]))
    steps = [
        write_batch(row_schema, updates=[(one, parked)]),
        write_batch(row_schema, updates=[(two, {**one, "id": "b"})]),
        write_batch(row_schema, updates=[(parked, {**two, "id": "a"})]),
    ]
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        writer.write(write_batch(row_schema, inserts=[one, two]))
        assert writer.write_in_order(steps).updated == {"a", "b"}
        found = rows_of(writer.fetch(["a", "b"]))
    assert found == rows_of(table_of(row_schema, [{**two, "id": "a"}, {**one, "id": "b"}]))


@pytest.mark.usefixtures("product_table")
def test_a_constraint_that_refuses_every_parked_value_is_named(cart_url: str, tmp_path: Path) -> None:
    execute(
        cart_url, "CREATE UNIQUE INDEX ON product (title)", "ALTER TABLE product ADD CHECK (title IN ('1', '2', '3'))"
    )
    with _Table(cart_url) as table:
        table.write(write_batch(ROW_SCHEMA, inserts=[row("a", title="1"), row("b", title="2"), row("c", title="3")]))
        bench = bench_on(tmp_path, table, [document("a", title="2"), document("b", title="1"), document("c", price=1)])
        result = bench.load()
    assert (result.updated, result.excluded, result.quarantined) == (0, 2, 1)
    assert "product_title_check" in result.exclusions[0].message
    assert "2 rows wait for one another in a circle (a, b)" in result.exclusions[0].message


@pytest.mark.usefixtures("product_table")
def test_a_row_that_changes_while_the_circle_is_written_stays_as_it_is(cart_url: str, tmp_path: Path) -> None:
    execute(cart_url, "CREATE UNIQUE INDEX ON product (title)")
    with _Table(cart_url) as table:
        table.write(write_batch(ROW_SCHEMA, inserts=[row("a", title="1"), row("b", title="2")]))
        bench = bench_on(tmp_path, table, [document("a", title="2"), document("b", title="1")])
        ask = table.obstacles

        def changed_meanwhile(batch: Any) -> Any:
            found = ask(batch)
            execute(cart_url, "UPDATE product SET title = 'newer', price = 7 WHERE id = 'b'")
            return found

        table.obstacles = changed_meanwhile  # type: ignore[method-assign]
        result = bench.load(batch_size=1)
    assert titles(cart_url) == {"a": "2", "b": "newer"}
    assert (result.updated, result.conflicts, result.excluded) == (1, 1, 0)


def test_a_sync_repairs_what_excludes_each_other_and_tells_what_it_cannot(market: Market) -> None:
    market.stock(products(30))
    market.sql("CREATE UNIQUE INDEX product_slug ON product (title)")
    market.sql("CREATE TABLE seller (id varchar PRIMARY KEY)")
    market.sql("INSERT INTO seller VALUES ('s1')")
    market.sql('ALTER TABLE product ADD CONSTRAINT of_seller FOREIGN KEY ("sellerId") REFERENCES seller')
    market.copy(
        [product(n, title=f"Ring {(n + 1) % 20}") for n in range(20)]
        + [product(20, title="Ring 21"), product(21, title="Ring 20"), product(40, title="Ring 29")]
    )
    market.unstock({"_id": {"$in": ["p0022", "p0023"]}})
    market.stock([product(22, title="Ring 24"), product(23, sellerId="nobody")])

    first = market.run("sync", "--json", "--settle-seconds", "0")
    answer = first.answer
    assert (first.status, answer["valid"], answer["quarantined"]) == (1, False, 0)
    assert (answer["excluded"], answer["updated"]) == (3, 22)
    told = {each["id"]: (each["other"], each["constraint"]) for each in answer["exclusions"]}
    assert told["p0023"] == (None, "of_seller")
    assert told["p0029"] == ("p0040", "product_slug")
    assert {told.get("p0022"), told.get("p0024")} == {None, ("p0022" if "p0024" in told else "p0024", "product_slug")}
    assert "product_slug" in answer["error"]["message"]
    assert "of_seller" in first.everything

    market.unstock({"_id": "p0022"})
    market.sql("INSERT INTO seller VALUES ('nobody')")
    second = market.run("sync", "--json", "--settle-seconds", "0", "--extra", "delete", "--max-delete-share", "1")
    assert (second.status, second.answer["valid"], second.answer["excluded"]) == (0, True, 0), second.everything
    source = {f"p{n:04}": f"Ring {n}" for n in range(30) if n != 22}
    assert dict(market.sql("SELECT id, title FROM product")) == source
