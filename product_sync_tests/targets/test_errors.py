"""Each class of errors, produced by a real server: retry, isolate the rows, or stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import LiteralString

import psycopg
import pytest

from product_sync.errors import (
    EveryBatchWouldFail,
    PrivilegeMissing,
    ReadOnlyTarget,
    RowsRefused,
    TableError,
    TransientError,
    WriteError,
)
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.errors import Consequence, consequence, write_error
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.target_contract import Row, write_batch
from product_sync_tests.targets.postgres_tables import (
    PASSWORD,
    eventually,
    execute,
    locked,
    once_waiting,
    product,
    role,
    row_schema_of,
)


@contextmanager
def _writer(url: str) -> Iterator[PostgresWriter]:
    with PostgresWriter(TargetAddress(url), row_schema_of(url), run_id="test") as writer:
        yield writer


def _failure(writer: PostgresWriter, url: str, *inserts: Row, updates: tuple[tuple[Row, Row], ...] = ()) -> WriteError:
    with pytest.raises(WriteError) as caught:
        writer.write(write_batch(row_schema_of(url), inserts=inserts, updates=updates))
    assert isinstance(caught.value.__cause__, psycopg.Error)
    return caught.value


@pytest.mark.parametrize(
    ("change", "row", "sqlstate", "named"),
    [
        (
            "ALTER TABLE product ADD CONSTRAINT cheap CHECK (price < 1000)",
            {"price": 1_000},
            "23514",
            "constraint cheap",
        ),
        ("ALTER TABLE product ADD CONSTRAINT one_title UNIQUE (title)", {}, "23505", "constraint one_title"),
        ("SELECT 1", {"title": None}, "23502", "column title"),
        ("SELECT 1", {"title": "a\0b"}, "22021", "0x00"),
        ("CREATE INDEX ON product (image)", {"image": "x"}, "54000", "index row"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''never %'', 1; END'; "
            "CREATE TRIGGER t BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION f()",
            {},
            "P0001",
            "never 1",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RAISE ''our own'' USING ERRCODE = ''MY001''; END'; "
            "CREATE TRIGGER t BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION f()",
            {},
            "MY001",
            "our own",
        ),
        (
            "CREATE TABLE seller (id text PRIMARY KEY); "
            'ALTER TABLE product ADD CONSTRAINT sold FOREIGN KEY ("sellerId") REFERENCES seller '
            "DEFERRABLE INITIALLY DEFERRED",
            {},
            "23503",
            "constraint sold",
        ),
    ],
)
def test_a_row_that_the_table_refuses_is_to_be_isolated(
    cart_url: str, product_table: str, change: LiteralString, row: Row, sqlstate: str, named: str
) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        if sqlstate == "23505":
            writer.write(write_batch(row_schema, inserts=[product("other")]))
        execute(cart_url, change)
        image = "".join(chr(0x4E00 + number) for number in range(9_000))
        refused = product("p", **(row if "image" not in row else {"image": image}))
        with pytest.raises(RowsRefused) as caught:
            writer.write(write_batch(row_schema, inserts=[refused]))
        assert caught.value.sqlstate == sqlstate
        assert named in caught.value.message
        assert sqlstate in caught.value.message
        assert writer.fetch(["p"]).num_rows == 0


def test_a_unique_violation_does_not_skip_the_row_in_silence(cart_url: str, product_table: str) -> None:
    """ON CONFLICT without a target would."""
    execute(cart_url, "ALTER TABLE product ADD UNIQUE (title)")
    with _writer(cart_url) as writer:
        error = _failure(writer, cart_url, product("a"), product("b"))
    assert isinstance(error, RowsRefused)


def test_the_message_does_not_quote_the_row(cart_url: str, product_table: str) -> None:
    execute(cart_url, "ALTER TABLE product ADD CHECK (price > 0)")
    with _writer(cart_url) as writer:
        error = _failure(writer, cart_url, product("p", price=0, title="a secret title"))
    assert "secret" not in str(error)


def test_a_long_message_is_cut(cart_url: str, product_table: str) -> None:
    execute(
        cart_url,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''%'', repeat(''x'', 100000); END'",
        "CREATE TRIGGER t BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION f()",
    )
    with _writer(cart_url) as writer:
        assert len(_failure(writer, cart_url, product("p")).message) < 600


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ("DROP TABLE product", "42P01"),
        ("ALTER TABLE product DROP COLUMN image", "42703"),
        ("ALTER TABLE product DROP CONSTRAINT product_pkey", "42P10"),
        ("CREATE RULE r AS ON INSERT TO product DO ALSO NOTIFY written", "0A000"),
    ],
)
def test_what_every_batch_would_meet_stops_the_run(
    cart_url: str, product_table: str, change: LiteralString, sqlstate: str
) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        execute(cart_url, change)
        with pytest.raises(EveryBatchWouldFail, match=sqlstate):
            writer.write(write_batch(row_schema, inserts=[product("p")]))


@pytest.mark.parametrize(
    ("column", "type_", "said"),
    [
        ("price", "real", "price is real now and was integer"),  # taken, and rounded
        ("price", "text", "price is text now"),  # taken
        ("price", "bigint", "price is bigint now"),  # taken, and exact; but not what was reflected
        ("price", "smallint", "price is smallint now.*22003"),
        ("price", "boolean USING price > 0", "price is boolean now.*42804"),
        ("title", "varchar(2)", r"title is character varying\(2\) now and was text.*22001"),
    ],
)
@pytest.mark.parametrize("rows", [1, 600], ids=["by insert", "by copy"])
def test_a_column_that_was_given_another_type_stops_the_run_before_anything_is_committed(
    cart_url: str, product_table: str, column: LiteralString, type_: LiteralString, said: str, rows: int
) -> None:
    """COPY in its binary form would take the bytes of an integer for those of a float."""
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        execute(cart_url, f"ALTER TABLE product ALTER COLUMN {column} TYPE {type_}")
        inserts = [product(f"p{number}", price=16_777_217) for number in range(rows)]
        with pytest.raises(EveryBatchWouldFail, match=said) as caught:
            writer.write(write_batch(row_schema, inserts=inserts))
    assert "Start the sync again" in caught.value.hint
    assert execute(cart_url, "SELECT count(*) FROM product") == [(0,)]


def test_an_update_of_a_column_with_another_type_is_not_committed_either(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    old, new = product("p"), product("p", price=16_777_217)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        writer.write(write_batch(row_schema, inserts=[old]))
        execute(cart_url, "ALTER TABLE product ALTER COLUMN price TYPE real")
        with pytest.raises(EveryBatchWouldFail, match="price is real now"):
            writer.write(write_batch(row_schema, updates=[(old, new)]))
    assert execute(cart_url, "SELECT price FROM product") == [(995.0,)]


def test_a_column_that_is_not_mapped_may_change(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        execute(cart_url, "ALTER TABLE product ADD COLUMN note text")
        assert writer.write(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}


@pytest.mark.parametrize("name", ["snapshot", "fetch"])
def test_a_reading_of_values_of_another_type_says_that_the_table_changed(
    cart_url: str, product_table: str, name: str
) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "INSERT INTO product VALUES ('p', 'Ring', 1, 'i', 's', 1)")
    execute(cart_url, "ALTER TABLE product ALTER COLUMN price TYPE real USING 0.5")
    reader = PostgresReader(TargetAddress(cart_url), row_schema)
    with pytest.raises(TableError, match="product changed while it was used"):
        list(reader.snapshot()) if name == "snapshot" else reader.fetch(["p"])


def test_a_missing_privilege_stops_the_run_and_says_which(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with (
        role(cart_url, "GRANT SELECT ON product TO {}") as user,
        PostgresWriter(TargetAddress(user.url), row_schema, run_id="test") as writer,
        pytest.raises(PrivilegeMissing, match="permission denied for table product") as caught,
    ):
        writer.write(write_batch(row_schema, inserts=[product("p")]))
    assert caught.value.sqlstate == "42501"
    assert "Grant SELECT, INSERT and UPDATE" in caught.value.hint
    assert PASSWORD not in str(caught.value)


def test_a_role_that_is_read_only_is_refused_before_the_first_batch(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with (
        role(cart_url, "GRANT ALL ON product TO {}", "ALTER ROLE {} SET default_transaction_read_only = on") as user,
        pytest.raises(ReadOnlyTarget, match="default_transaction_read_only"),
        PostgresWriter(TargetAddress(user.url), row_schema, run_id="test"),
    ):
        pytest.fail("a writer that could not write was opened")


def test_a_standby_is_only_read_only_for_the_moment() -> None:
    error = psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")
    transient = write_error(error, broken=False, standby=True)
    assert isinstance(transient, TransientError)
    assert transient.connection_lost, "a new connection may reach the new primary"
    assert isinstance(write_error(error, broken=False), EveryBatchWouldFail)


def test_a_row_that_another_client_holds_is_transient(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    for setting, sqlstate in (("lock_timeout", "55P03"), ("statement_timeout", "57014")):
        with (
            role(
                cart_url,
                "GRANT ALL ON product TO {}",
                "ALTER ROLE {} SET lock_timeout = '100ms'"
                if setting == "lock_timeout"
                else "ALTER ROLE {} SET statement_timeout = '100ms'",
            ) as user,
            PostgresWriter(TargetAddress(user.url), row_schema, run_id="test") as writer,
        ):
            with locked(cart_url, "product"), pytest.raises(TransientError, match=sqlstate) as caught:
                writer.write(write_batch(row_schema, inserts=[product("p")]))
            assert not caught.value.connection_lost
            assert writer.write(write_batch(row_schema, inserts=[product(setting)])).inserted == {setting}


def test_a_deadlock_is_transient(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    batch = write_batch(row_schema, updates=[(product("a"), product("a", price=1))])
    execute(
        cart_url,
        # Whoever updates a wants b next.
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM 1 FROM product WHERE id = ''b'' FOR UPDATE; RETURN NEW; END'",
        "CREATE TRIGGER t AFTER UPDATE ON product FOR EACH ROW WHEN (NEW.id = 'a') EXECUTE FUNCTION f()",
    )
    with (
        PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer,
        psycopg.connect(cart_url) as other,
    ):
        writer.write(write_batch(row_schema, inserts=[product("a"), product("b")]))
        # The writer's deadlock_timeout is the shorter one, so it is the one that the server ends.
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("UPDATE product SET quantity = 0 WHERE id = 'b'")
        crossing = partial(other.execute, "SELECT 1 FROM product WHERE id = 'a' FOR UPDATE")
        with once_waiting(cart_url, crossing), pytest.raises(TransientError, match="40P01") as caught:
            writer.write(batch)
        other.rollback()
        assert not caught.value.connection_lost
        assert writer.write(batch).updated == {"a"}


def test_a_session_that_an_administrator_ends_is_a_lost_connection(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        execute(
            cart_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        for _ in range(2):
            with pytest.raises(TransientError) as caught:
                writer.write(write_batch(row_schema, inserts=[product("p")]))
            assert caught.value.connection_lost
        eventually(writer.reconnect)
        assert writer.write(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("08006", Consequence.RECONNECT),
        ("40001", Consequence.RETRY),
        ("40P01", Consequence.RETRY),
        ("53100", Consequence.STOP),
        ("53300", Consequence.RECONNECT),
        ("57P01", Consequence.RECONNECT),
        ("57P04", Consequence.STOP),
        ("25P03", Consequence.RECONNECT),
        ("25006", Consequence.STOP),
        ("58030", Consequence.STOP),
        ("22P02", Consequence.ISOLATE),
        ("23P01", Consequence.ISOLATE),
        ("54000", Consequence.ISOLATE),
        ("54001", Consequence.STOP),
        ("XX000", Consequence.ISOLATE),
        ("XX001", Consequence.STOP),
        ("ZZZZZ", Consequence.ISOLATE),
    ],
)
def test_every_code_has_a_consequence(sqlstate: str, expected: Consequence) -> None:
    assert consequence(sqlstate) is expected


def test_an_error_without_a_code_is_a_lost_connection() -> None:
    error = write_error(psycopg.OperationalError("server closed the connection unexpectedly"), broken=False)
    assert isinstance(error, TransientError)
    assert error.connection_lost
    assert error.sqlstate is None
