"""The reading is one consistent picture of all rows, or it fails and says why."""

from __future__ import annotations

from typing import LiteralString

import pyarrow as pa
import pytest
from psycopg import sql

from product_sync.errors import AccessDenied, NotAttempted, TableError, Unreachable
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.adbc_stream import BATCH_BYTES
from product_sync.targets.postgres.reader import PostgresReader
from product_sync_tests.network import proxy
from product_sync_tests.targets.postgres_tables import PASSWORD, execute, locked, other_sessions, role, row_schema_of

MANY = sql.SQL(
    "INSERT INTO product SELECT n::text, repeat('title ', 20), n, 'i', 's', 1 FROM generate_series(1, 20000) AS n"
)

MORE_THAN_IS_BUFFERED = sql.SQL("UPDATE product SET title = repeat('title ', 2000)")


def test_what_is_written_during_the_reading_is_not_in_it(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY)
    batches = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url), batch_rows=1_000).snapshot()
    first = next(batches)
    execute(cart_url, "DELETE FROM product WHERE price > 10000", "UPDATE product SET price = -1")
    read = pa.Table.from_batches([first, *batches])
    assert sorted(read["price"].to_pylist()) == list(range(1, 20_001))
    assert first.num_rows == 1_000


def test_a_batch_ends_at_its_bytes_too(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY, "UPDATE product SET title = repeat('x', 1000000) WHERE price <= 40")
    batches = list(PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url)).snapshot())
    assert sum(batch.num_rows for batch in batches) == 20_000
    assert max(batch.nbytes for batch in batches) < BATCH_BYTES + 1_100_000


def test_a_reading_that_is_not_finished_leaves_no_session_behind(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY)
    batches = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url)).snapshot()
    next(batches)
    batches.close()
    assert other_sessions(cart_url, 0)


def test_the_roles_own_settings_do_not_change_what_is_read(cart_url: str) -> None:
    """A role whose default settings change every text form of a value."""
    execute(
        cart_url,
        "CREATE TABLE t (id text PRIMARY KEY, m timestamptz, d double precision, n numeric, u uuid,"
        " f jsonb, j json, ms timestamptz[], ds real[])",
        "INSERT INTO t VALUES ('é', '2024-02-03 04:05:06.789+00', 0.1, 99.90, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',"
        """ '{"é": 1.50}', '{"b":1,"a":"x"}', '{2024-02-03 04:05:06.789+00}', '{0.1,1e30}')""",
    )
    row_schema = row_schema_of(cart_url, "t")
    with role(
        cart_url,
        "GRANT SELECT ON t TO {}",
        "ALTER ROLE {} SET timezone = 'America/New_York'",
        "ALTER ROLE {} SET datestyle = 'SQL, DMY'",
        "ALTER ROLE {} SET extra_float_digits = -15",
        "ALTER ROLE {} SET client_encoding = 'LATIN1'",
        "ALTER ROLE {} SET standard_conforming_strings = off",
        "ALTER ROLE {} SET search_path = 'nowhere'",
        "ALTER ROLE {} SET default_transaction_isolation = 'serializable'",
    ) as user:
        reader = PostgresReader(TargetAddress(user.url), row_schema)
        (batch,) = reader.snapshot()
        assert reader.fetch(["é"]).equals(pa.Table.from_batches([batch]))
    (row,) = batch.set_column(1, "m", batch["m"].cast(pa.int64())).to_pylist()
    assert row == {
        "id": "é",
        "m": 1_706_933_106_789_000,
        "d": 0.1,
        "n": "99.9",
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "f": '{"é": 1.5}',
        "j": '{"a": "x", "b": 1}',
        "ms": '{"2024-02-03 04:05:06.789+00"}',
        "ds": "{0.1,1e+30}",
    }


def test_more_ids_than_fit_one_statement_are_all_looked_up(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY)
    found = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url)).fetch(
        [str(number) for number in range(30_000)]
    )
    assert found.num_rows == 20_000


def test_a_uuid_key_is_looked_up_by_its_text(cart_url: str) -> None:
    key = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    execute(cart_url, "CREATE TABLE t (id uuid PRIMARY KEY, n int)", sql.SQL("INSERT INTO t VALUES ({})").format(key))
    assert PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url, "t")).fetch([key]).to_pylist() == [
        {"id": key, "n": None}
    ]


def test_the_estimate_follows_the_servers_statistics(cart_url: str, product_table: str) -> None:
    reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url))
    assert reader.estimated_count() == 0
    execute(cart_url, MANY)
    assert 10_000 < reader.estimated_count() < 60_000, "never analysed: from the size"
    execute(cart_url, "ANALYZE product")
    assert reader.estimated_count() == 20_000


def test_the_count_is_exact(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY, "DELETE FROM product WHERE price = 7")
    assert PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url)).count() == 19_999


def test_the_estimate_of_a_partitioned_table_is_the_sum_of_its_partitions(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE p (id text PRIMARY KEY, n int) PARTITION BY HASH (id)",
        "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "INSERT INTO p SELECT n::text, n FROM generate_series(1, 1000) AS n",
        "ANALYZE p",
    )
    reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url, "p"))
    assert reader.estimated_count() == 1_000
    assert sum(batch.num_rows for batch in reader.snapshot()) == 1_000


def test_rows_hidden_by_row_level_security_are_an_error_and_not_missing(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, MANY, "ALTER TABLE product ENABLE ROW LEVEL SECURITY")
    with role(cart_url, "GRANT SELECT ON product TO {}") as user:
        reader = PostgresReader(TargetAddress(user.url), row_schema)
        for read in (lambda: list(reader.snapshot()), lambda: reader.fetch(["1"]), reader.count):
            with pytest.raises(AccessDenied, match="row-level security"):
                read()


def test_a_role_that_may_not_read_is_told_so(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with role(cart_url) as user, pytest.raises(AccessDenied, match="permission denied") as caught:
        list(PostgresReader(TargetAddress(user.url), row_schema).snapshot())
    assert "`doctor` shows the statement to execute" in caught.value.hint
    assert PASSWORD not in str(caught.value)


def test_a_table_or_a_column_that_went_away_is_named(cart_url: str, product_table: str) -> None:
    reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url))
    execute(cart_url, "ALTER TABLE product DROP COLUMN image")
    with pytest.raises(TableError, match="image"):
        list(reader.snapshot())
    execute(cart_url, "DROP TABLE product")
    with pytest.raises(TableError, match="product"):
        list(reader.snapshot())
    with pytest.raises(TableError, match=r"public\.product does not exist any more"):
        reader.estimated_count()


def test_a_connection_lost_half_way_fails_the_reading(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY, MORE_THAN_IS_BUFFERED)
    row_schema = row_schema_of(cart_url)
    with proxy(cart_url) as network:
        batches = PostgresReader(TargetAddress(network.url(cart_url)), row_schema, batch_rows=100).snapshot()
        next(batches)
        network.close()
        with pytest.raises(Unreachable, match=r"connection was lost while public\.product was read"):
            list(batches)


def test_a_reading_that_the_server_ends_is_unreachable(cart_url: str, product_table: str) -> None:
    execute(cart_url, MANY, MORE_THAN_IS_BUFFERED)
    batches = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url), batch_rows=100).snapshot()
    next(batches)
    execute(
        cart_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with pytest.raises(Unreachable, match=r"connection was lost while public\.product was read"):
        list(batches)


def test_a_statement_time_out_of_the_role_is_named(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with (
        role(cart_url, "GRANT SELECT ON product TO {}", "ALTER ROLE {} SET statement_timeout = '200ms'") as user,
        locked(cart_url, "product"),
    ):
        with pytest.raises(NotAttempted, match="57014") as caught:
            list(PostgresReader(TargetAddress(user.url), row_schema).snapshot())
        assert "statement_timeout" in caught.value.hint


@pytest.mark.parametrize("setting", ["", "ALTER ROLE {} SET quote_all_identifiers = on"])
def test_a_snapshot_and_a_read_by_id_give_the_same_values(cart_url: str, setting: LiteralString) -> None:
    """With quoted names ADBC knows no type and gives the bytes of each value."""
    execute(
        cart_url,
        """CREATE TABLE t (id text PRIMARY KEY, "Small" smallint, i integer, b bigint, n numeric, m numeric(10,2),
                           r real, d double precision, v varchar(20), f boolean, u uuid, t timestamptz)""",
        """INSERT INTO t VALUES
            ('nothing', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
            ('least', -32768, -2147483648, -9223372036854775808, '-Infinity', -99999999.99, '-Infinity', '-Infinity',
             '', false, '00000000-0000-0000-0000-000000000000', '-infinity'),
            ('most', 32767, 2147483647, 9223372036854775807, 'Infinity', 99999999.99, 'Infinity', 'Infinity',
             '😀 é '' " \\ %', true, 'FFFFFFFF-ffff-FFFF-ffff-FFFFFFFFFFFF', 'infinity'),
            ('odd', 0, 0, 0, 'NaN', 'NaN', 'NaN', 'NaN', ' x ', NULL, NULL, '4714-11-24 00:00:00Z BC'),
            ('zero', 0, -0, 0, -0.00, 0, '-0', '-0', 'v', true, NULL, '1970-01-01Z'),
            ('fine', 1, 2, 3, 1e-100, 0.10, 0.1, 1e-310, E'\\t\\n', false, NULL, '294276-12-31 23:59:59.999999Z'),
            ('', 1, 1, 1, 1e100, 1.50, 1e-45, 1.7976931348623157e308, 'w', true, NULL, '2024-02-03 04:05:06.789+02')""",
    )
    with role(cart_url, "GRANT SELECT ON t TO {}", *([setting] if setting else [])) as user:
        reader = PostgresReader(TargetAddress(user.url), row_schema_of(cart_url, "t"))
        streamed = _comparable(pa.Table.from_batches(list(reader.snapshot())))
        by_id = _comparable(reader.fetch(streamed["id"].to_pylist()))

    assert streamed.num_rows == 7
    assert streamed.schema == by_id.schema
    assert repr(streamed.to_pylist()) == repr(by_id.to_pylist())
    moments = dict(zip(streamed["id"].to_pylist(), streamed["t"].to_pylist(), strict=True))
    assert moments == {
        "nothing": None,
        "least": -(2**63),
        "most": 2**63 - 1,
        "odd": -210_866_803_200_000_000,
        "zero": 0,
        "fine": 2**63 - 2,
        "": 1_706_925_906_789_000,
    }


def _comparable(rows: pa.Table) -> pa.Table:
    """Sorted, and with moments as numbers: `datetime` ends at the year 9999."""
    return rows.set_column(11, "t", rows["t"].cast(pa.int64())).sort_by("id")


def test_a_column_whose_type_was_changed_is_named(cart_url: str, product_table: str) -> None:
    reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url))
    execute(cart_url, MANY, "ALTER TABLE product ALTER price TYPE real")
    for read in (lambda: list(reader.snapshot()), lambda: reader.fetch(["1"])):
        with pytest.raises(TableError, match="price is not integer any more"):
            read()
