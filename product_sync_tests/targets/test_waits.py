"""A wait for somebody else's lock, or for a silent server, is reported, has an end, and names who is in the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from types import FrameType

import psycopg
import pytest

from product_sync.errors import TargetLocked, TransientError
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.waits import Patience, watched
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.network import proxy
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import once_waiting, other_sessions, product, row_schema_of

SHORT = Patience(check_every_s=0.05, report_every_s=0.2, wait_s=0.6)


@contextmanager
def migration(url: str, statement: str = "LOCK TABLE product") -> Iterator[psycopg.Connection]:
    """Somebody's transaction that has the table."""
    with psycopg.connect(url, application_name="a migration") as other:
        other.execute(statement.encode())
        yield other
        other.rollback()


def read_all(reader: PostgresReader) -> object:
    return list(reader.snapshot())


def fetch(reader: PostgresReader) -> object:
    return reader.fetch(["p"])


def estimate(reader: PostgresReader) -> object:
    return reader.estimated_count()


@pytest.mark.parametrize("read", [read_all, fetch, estimate])
def test_a_reading_that_waits_for_a_lock_says_so_and_ends_with_who_has_it(
    cart_url: str, product_table: str, read: Callable[[PostgresReader], object]
) -> None:
    heard: list[str] = []
    reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url), on_wait=heard.append, patience=SHORT)
    with migration(cart_url) as other:
        pid = other.info.backend_pid
        with pytest.raises(TargetLocked) as caught:
            read(reader)
    who = f"pid {pid} (a migration, idle in transaction, its transaction "
    assert who in caught.value.message
    assert "LOCK TABLE" not in caught.value.message, "a statement may hold anything"
    assert caught.value.exit_status == 3
    assert heard
    assert all(note.startswith(f"for a lock that is held by {who}") for note in heard)
    assert other_sessions(cart_url, 0)


def test_a_lock_that_is_freed_in_time_costs_nothing_but_the_time(cart_url: str, product_table: str) -> None:
    patient = Patience(check_every_s=0.05, report_every_s=0.1, wait_s=60.0)
    with migration(cart_url) as other:
        reader = PostgresReader(
            TargetAddress(cart_url), row_schema_of(cart_url), on_wait=lambda _: other.rollback(), patience=patient
        )
        assert read_all(reader) == []


def test_a_batch_that_waits_for_a_row_fails_with_who_has_it_and_the_next_one_is_written(
    cart_url: str, product_table: str
) -> None:
    row_schema = row_schema_of(cart_url)
    with PostgresWriter(
        TargetAddress(cart_url), row_schema, run_id="test", on_wait=lambda _: None, patience=SHORT
    ) as writer:
        with (
            migration(cart_url, "INSERT INTO product VALUES ('p', 't', 1, 'i', 's', 1)"),
            pytest.raises(TransientError, match=r"It waited \d s for a lock that is held by pid \d+ \(a migration"),
        ):
            writer.write(write_batch(row_schema, inserts=[product("p")]))
        assert writer.write(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}


def test_a_statement_that_only_works_for_long_is_left_alone(cart_url: str) -> None:
    with (
        closing(connect(TargetAddress(cart_url))) as connection,
        watched(connection, TargetAddress(cart_url), patience=SHORT) as watch,
    ):
        assert connection.execute("SELECT 7 FROM pg_sleep(1.5)").fetchone() == (7,)
    assert watch.ended == ""


def test_a_server_that_does_not_answer_any_more_is_left(cart_url: str, product_table: str) -> None:
    with proxy(cart_url) as network:
        silent = Patience(check_every_s=0.05, wait_s=2.0, answer_within_s=2.0)
        reader = PostgresReader(TargetAddress(network.url(cart_url)), row_schema_of(cart_url), patience=silent)

        with (
            migration(cart_url),
            once_waiting(cart_url, partial(network.stall_at, b"\0")),
            pytest.raises(TargetLocked, match=r"It waited \d+ s for an answer of the server"),
        ):
            read_all(reader)


class Terminate(BaseException):
    """As Dagster interrupts a step: no KeyboardInterrupt, which drivers know."""


def test_a_reading_that_waits_for_a_lock_is_interrupted_at_once_and_leaves_no_session(
    cart_url: str, product_table: str
) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Terminate

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with migration(cart_url):
            reader = PostgresReader(TargetAddress(cart_url), row_schema_of(cart_url))
            with once_waiting(cart_url, partial(os.kill, os.getpid(), signal.SIGTERM)), pytest.raises(Terminate):
                read_all(reader)
            assert other_sessions(cart_url, 1), "the migration's is left"
    finally:
        signal.signal(signal.SIGTERM, before)
