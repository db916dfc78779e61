"""Many inserts go by COPY, and nothing that the statements promise is lost by it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg import sql

from product_sync.errors import RowsRefused
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres import binary
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import execute, product, role, row_schema_of

MANY = 600


def _products() -> list[dict[str, object]]:
    return [product(str(number)) for number in range(MANY)]


def test_every_type_that_copy_takes_arrives_as_it_is(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE t (id varchar(20) PRIMARY KEY, a smallint, b integer, c bigint, d real, e double precision, "
        "f boolean, g timestamptz, h text)",
    )
    row_schema = row_schema_of(cart_url, "t")
    assert binary.can_be_copied(row_schema)
    values: dict[str, list[object]] = {
        "a": [-(2**15), 2**15 - 1, None],
        "b": [-(2**31), 2**31 - 1, None],
        "c": [-(2**63), 2**63 - 1, None],
        "d": [-1.5, 3.4028234663852886e38, None],
        "e": [0.1, -5e-324, None],
        "f": [True, False, None],
        "g": [-210_866_803_200_000_000, 2**63 - 2 - 946_684_800_000_000, None],
        "h": ["", 'é\t\\N\n"', None],
    }
    ids = [str(number) for number in range(MANY)]
    columns = [
        pa.array(ids),
        *(pa.array((values[name] * MANY)[:MANY], row_schema.target_schema.field(name).type) for name in values),
    ]
    rows = pa.Table.from_arrays(columns, schema=row_schema.target_schema)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        nothing = write_batch(row_schema)
        written = writer.write(type(nothing)(rows, nothing.new, nothing.old, nothing.deletes))
    assert written.inserted == set(ids)
    read = pa.Table.from_batches(PostgresReader(TargetAddress(cart_url), row_schema).snapshot())
    assert read.take(pc.sort_indices(read["id"].cast(pa.int32()))).equals(rows)


def test_numbers_that_travel_as_text_do_not_go_by_copy(cart_url: str) -> None:
    execute(cart_url, "CREATE TABLE t (id text PRIMARY KEY, price numeric(10,2))")
    assert not binary.can_be_copied(row_schema_of(cart_url, "t"))


def test_a_row_that_appeared_meanwhile_is_left_alone_and_all_others_are_inserted(
    cart_url: str, product_table: str
) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "INSERT INTO product VALUES ('7', 'of an event', 1, 'i', 's', 1)")
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        written = writer.write(write_batch(row_schema, inserts=_products()))
    assert written.inserted == {str(number) for number in range(MANY)} - {"7"}
    assert execute(cart_url, "SELECT title FROM product WHERE id = '7'") == [("of an event",)]
    assert execute(cart_url, "SELECT count(*) FROM product") == [(MANY,)]


def test_a_row_that_a_trigger_swallows_is_not_counted(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(
        cart_url,
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER swallow BEFORE INSERT ON product FOR EACH ROW WHEN (NEW.id = '7') EXECUTE FUNCTION swallow()",
    )
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        written = writer.write(write_batch(row_schema, inserts=_products()))
    assert written.inserted == {str(number) for number in range(MANY)} - {"7"}


def test_a_refused_row_refuses_the_batch_and_nothing_of_it_remains(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "ALTER TABLE product ADD CONSTRAINT few CHECK (id <> '7')")
    with (
        PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer,
        pytest.raises(RowsRefused, match="few"),
    ):
        writer.write(write_batch(row_schema, inserts=_products()))
    assert execute(cart_url, "SELECT count(*) FROM product") == [(0,)]


def test_many_inserts_are_probed_without_a_trace(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        assert len(writer.probe(write_batch(row_schema, inserts=_products())).inserted) == MANY
    assert execute(cart_url, "SELECT count(*) FROM product") == [(0,)]


def test_inserts_and_updates_of_a_batch_are_one_transaction(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "INSERT INTO product SELECT 'old', 'old', 1, 'i', 's', 1")
    old = product("old", title="old", price=1, image="i", sellerId="s", quantity=1)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        written = writer.write(
            write_batch(row_schema, inserts=_products(), updates=[(old, product("old", title="new"))])
        )
    assert len(written.inserted) == MANY
    assert written.updated == {"old"}
    assert execute(cart_url, "SELECT count(DISTINCT xmin::text) FROM product") == [(1,)]


def test_copy_needs_no_right_but_insert(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in row_schema.columns).as_string()
    with (
        role(cart_url, f"GRANT SELECT, INSERT ({names}) ON product TO {{}}") as user,
        PostgresWriter(TargetAddress(user.url), row_schema, run_id="test") as writer,
    ):
        assert len(writer.write(write_batch(row_schema, inserts=_products())).inserted) == MANY
