"""A COMMIT that does not wait for the disk counts only when it is there: what a crash takes back is written again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from psycopg import sql

from product_sync.errors import CommitOutcomeUnknown
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import eventually, execute, product, role, row_schema_of
from product_sync_torture.faults.machines import Machines, machines

#: A role whose COMMITs wait for the disk. Those of the tests' server do not.
WAITS = "ALTER ROLE {} SET synchronous_commit = on"
ALL = "GRANT ALL ON product TO {}"
LATER = 3600.0


@contextmanager
def unhurried(url: str) -> Iterator[None]:
    """The server flushes of its own accord every ten seconds only."""
    execute(url, "ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        execute(url, "ALTER SYSTEM RESET wal_writer_delay", "SELECT pg_reload_conf()")


def _writer(url: str, *, flush_within_s: float = LATER, sleep: Callable[[float], None] = time.sleep) -> PostgresWriter:
    return PostgresWriter(
        TargetAddress(url), row_schema_of(url), run_id="test", flush_within_s=flush_within_s, sleep=sleep
    )


def _leaves_the_disk_to_others(writer: PostgresWriter) -> bool:
    return writer._flushes_later


def _is_flushed(url: str, log: str) -> bool:
    asked = sql.SQL("SELECT pg_current_wal_flush_lsn() >= {}::pg_lsn").format(sql.Literal(log))
    return execute(url, asked) == [(True,)]


def _log(url: str) -> str:
    [(position,)] = execute(url, "SELECT pg_current_wal_insert_lsn()::text")
    return str(position)


def test_it_waits_until_somebody_elses_commit_has_flushed_for_both(cart_url: str, product_table: str) -> None:
    execute(cart_url, "CREATE TABLE cart (product text)")
    with unhurried(cart_url), role(cart_url, ALL, "GRANT ALL ON cart TO {}", WAITS) as user:

        def shopper(_: float) -> None:
            assert not _is_flushed(cart_url, log)
            execute(user.url, "INSERT INTO cart VALUES ('p')")

        with _writer(user.url, sleep=shopper) as writer:
            writer.write(write_batch(writer.row_schema, inserts=[product("p")]))
            log = _log(cart_url)
            writer.settle()
            assert _is_flushed(cart_url, log)


def test_where_nobody_commits_it_has_the_log_flushed_when_the_time_is_up(cart_url: str, product_table: str) -> None:
    slept: list[float] = []
    with (
        unhurried(cart_url),
        role(cart_url, ALL, WAITS) as user,
        _writer(user.url, flush_within_s=0.05, sleep=slept.append) as writer,
    ):
        for number in range(3):
            del slept[:]
            writer.write(write_batch(writer.row_schema, inserts=[product(f"p{number}")]))
            log = _log(cart_url)
            writer.settle()
            assert _is_flushed(cart_url, log)
            assert 0.05 <= sum(slept) <= 0.1


def test_who_may_not_update_waits_until_the_server_flushes(cart_url: str, product_table: str) -> None:
    with (
        role(cart_url, "GRANT SELECT, INSERT ON product TO {}", WAITS) as user,
        _writer(user.url, flush_within_s=0.0) as writer,
    ):
        writer.write(write_batch(writer.row_schema, inserts=[product("p")]))
        log = _log(cart_url)
        writer.settle()
        assert _is_flushed(cart_url, log)


def test_only_our_transactions_do_not_wait_and_the_session_is_as_it_was(cart_url: str, product_table: str) -> None:
    with role(cart_url, ALL, WAITS) as user, _writer(user.url) as writer:
        writer.write(write_batch(writer.row_schema, inserts=[product("p")]))
        writer.settle()
        assert writer._connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_where_a_commit_waits_for_a_replica_it_goes_on_to_wait(cart_url: str, product_table: str) -> None:
    """Also where it does so only since a failover."""
    with role(cart_url, ALL, WAITS) as user, _writer(user.url) as writer:
        assert _leaves_the_disk_to_others(writer)
        execute(cart_url, "ALTER SYSTEM SET synchronous_standby_names = 'replica'", "SELECT pg_reload_conf()")
        try:
            eventually(writer.reconnect)
            assert not _leaves_the_disk_to_others(writer)
            writer.close()
            with eventually(lambda: _writer(user.url)) as another:
                assert not _leaves_the_disk_to_others(another)
        finally:
            execute(cart_url, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


def test_a_log_that_never_gets_to_the_disk_is_not_believed(cart_url: str, product_table: str) -> None:
    with (
        unhurried(cart_url),
        role(cart_url, ALL, WAITS) as user,
        _writer(user.url, sleep=lambda _: None) as writer,
    ):
        writer.write(write_batch(writer.row_schema, inserts=[product("p")]))
        with pytest.raises(CommitOutcomeUnknown, match="not on the disk after 30 s"):
            writer.settle()


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Machines]:
    """Servers that may be killed, and that flush."""
    with machines() as started:
        yield started


@pytest.mark.parametrize("was_flushed", [True, False])
def test_what_a_crash_takes_back_is_known_not_to_have_happened(own_servers: Machines, was_flushed: bool) -> None:
    url = own_servers.target_url("postgres", gated=False)
    execute(
        url,
        "DROP TABLE IF EXISTS product",
        'CREATE TABLE product (id text PRIMARY KEY, title text, price int, image text, "sellerId" text, quantity int)',
        "ALTER SYSTEM SET wal_writer_delay = '10s'",
        "SELECT pg_reload_conf()",
    )
    with _writer(url, flush_within_s=0.05) as writer:
        written = writer.write(write_batch(writer.row_schema, inserts=[product("p")]))
        if was_flushed:
            execute(url, "CREATE TABLE IF NOT EXISTS cart ()", "DROP TABLE cart")
        own_servers.kill_postgres()
        with pytest.raises(CommitOutcomeUnknown) as caught:
            writer.settle()
        assert caught.value.written == written
        own_servers.start_again()
        eventually(writer.reconnect)
        assert writer.was_committed(caught.value.transaction) is was_flushed
        assert writer.fetch(["p"]).num_rows == int(was_flushed)
        if was_flushed:
            writer.settle()
