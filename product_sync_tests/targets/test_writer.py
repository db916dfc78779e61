"""The connection that writes: nothing over a newer value, nothing twice, nothing assumed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from product_sync.errors import (
    AccessDenied,
    CommitOutcomeUnknown,
    ForeignKeyRefused,
    RowsRefused,
    SyncAlreadyRunning,
    TableError,
    TransactionPooling,
    TransientError,
    Unreachable,
)
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.ports import Written
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.network import Proxy, proxy
from product_sync_tests.pooler import transaction_pooler
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import (
    PASSWORD,
    eventually,
    execute,
    locked,
    once_waiting,
    other_sessions,
    product,
    role,
    row_schema_of,
)

COMMIT = b"COMMIT\0"


def _writer(url: str, *, run_id: str = "test", sleep: Callable[[float], None] = time.sleep) -> PostgresWriter:
    return PostgresWriter(TargetAddress(url), row_schema_of(url), run_id=run_id, sleep=sleep)


def test_a_partitioned_table_is_written_like_any_other(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE p (id text PRIMARY KEY, n int) PARTITION BY HASH (id)",
        "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    )
    row_schema = row_schema_of(cart_url, "p")
    rows: list[dict[str, Any]] = [{"id": str(number), "n": number} for number in range(10)]
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        ids = frozenset(row["id"] for row in rows)
        assert writer.write(write_batch(row_schema, inserts=rows)).inserted == ids
        updates = [(row, {**row, "n": -1}) for row in rows]
        assert writer.write(write_batch(row_schema, updates=updates)) == Written(updated=ids)


def test_triggers_find_their_tables_on_the_roles_search_path(cart_url: str, product_table: str) -> None:
    execute(
        cart_url,
        "CREATE SCHEMA audit",
        "CREATE TABLE audit.seen (id text)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER t AFTER INSERT ON product FOR EACH ROW EXECUTE FUNCTION f()",
    )
    row_schema = row_schema_of(cart_url)
    with (
        role(
            cart_url,
            "GRANT ALL ON product, audit.seen TO {}",
            "GRANT USAGE ON SCHEMA audit TO {}",
            "ALTER ROLE {} SET search_path = audit, public",
        ) as user,
        PostgresWriter(TargetAddress(user.url), row_schema, run_id="test") as writer,
    ):
        assert writer.write(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}


def test_a_row_that_changes_while_the_statement_waits_is_not_overwritten(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with _writer(cart_url) as writer, psycopg.connect(cart_url) as other:
        writer.write(write_batch(row_schema, inserts=[product("p"), product("q")]))
        other.execute("UPDATE product SET price = 1 WHERE id = 'p'")
        updates = [(product(key), product(key, price=2)) for key in ("p", "q")]
        with once_waiting(cart_url, other.commit):
            assert writer.write(write_batch(row_schema, updates=updates)) == Written(updated=frozenset({"q"}))
    assert execute(cart_url, "SELECT price FROM product ORDER BY id") == [(1,), (2,)]


def test_a_row_that_a_cart_still_references_is_not_deleted(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "CREATE TABLE cart_item (product text REFERENCES product)")
    with _writer(cart_url) as writer:
        writer.write(write_batch(row_schema, inserts=[product("p")]))
        execute(cart_url, "INSERT INTO cart_item VALUES ('p')")
        with pytest.raises(ForeignKeyRefused, match="cart_item_product_fkey"):
            writer.write(write_batch(row_schema, deletes=[product("p")]))
    assert execute(cart_url, "SELECT id FROM product") == [("p",)]


def test_a_probe_checks_deferred_constraints_and_leaves_no_row(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(
        cart_url,
        "CREATE TABLE seller (id text PRIMARY KEY)",
        'ALTER TABLE product ADD FOREIGN KEY ("sellerId") REFERENCES seller DEFERRABLE INITIALLY DEFERRED',
    )
    with _writer(cart_url) as writer:
        with pytest.raises(RowsRefused, match="23503"):
            writer.probe(write_batch(row_schema, inserts=[product("p")]))
        execute(cart_url, "INSERT INTO seller VALUES ('s1')")
        assert writer.probe(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}
        assert writer.fetch(["p"]).num_rows == 0


def test_a_probe_gives_way_after_a_second(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with _writer(cart_url) as writer, locked(cart_url, product_table), pytest.raises(TransientError, match="55P03"):
        writer.probe(write_batch(row_schema, inserts=[product("p")]))


class _Terminated(BaseException):
    """As Dagster interrupts a run: raised by a signal handler, in the middle of anything."""


def _terminate(*_: object) -> None:
    raise _Terminated


@pytest.mark.parametrize("handler", [signal.default_int_handler, _terminate])
def test_an_interrupted_batch_leaves_no_row_no_transaction_and_no_lock(
    cart_url: str, product_table: str, handler: Callable[..., object]
) -> None:
    row_schema = row_schema_of(cart_url)
    former = signal.signal(signal.SIGINT, handler)
    try:
        with _writer(cart_url) as writer, locked(cart_url, product_table):
            interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
            with once_waiting(cart_url, interrupt), pytest.raises((KeyboardInterrupt, _Terminated)):
                writer.write(write_batch(row_schema, inserts=[product("p")]))
            writer.close()
            # While the table is still held: nobody waits for it any more.
            eventually(lambda: _writer(cart_url, run_id="next")).close()
    finally:
        signal.signal(signal.SIGINT, former)
    assert execute(cart_url, "SELECT id FROM product") == []


# The answer of COMMIT


def _lost_commit(writer: PostgresWriter, *, price: int = 1) -> CommitOutcomeUnknown:
    with pytest.raises(CommitOutcomeUnknown) as caught:
        writer.write(write_batch(writer.row_schema, inserts=[product("p", price=price)]))
    assert caught.value.connection_lost
    assert caught.value.written == Written(inserted=frozenset({"p"}))
    assert PASSWORD not in str(caught.value)
    return caught.value


def _through(network: Proxy, url: str, **options: Any) -> PostgresWriter:
    return _writer(network.url(url), **options)


def test_a_commit_whose_answer_was_lost_is_known_to_have_happened(cart_url: str, product_table: str) -> None:
    with proxy(cart_url) as network, _through(network, cart_url) as writer:
        network.lose_answer_to(COMMIT)
        unknown = _lost_commit(writer)
        eventually(writer.reconnect)
        assert writer.was_committed(unknown.transaction) is True
        assert writer.fetch(["p"]).num_rows == 1


def test_a_commit_that_never_arrived_is_known_not_to_have_happened(cart_url: str, product_table: str) -> None:
    with proxy(cart_url) as network, _through(network, cart_url) as writer:
        network.lose_request(COMMIT)
        unknown = _lost_commit(writer)
        eventually(writer.reconnect)
        assert writer.was_committed(unknown.transaction) is False
        assert writer.fetch(["p"]).num_rows == 0
        assert writer.write(write_batch(writer.row_schema, inserts=[product("p")])).inserted == {"p"}


def test_an_update_and_a_deletion_leave_the_same_trace(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    old = [product("changed"), product("extra")]
    for part in (
        {"updates": [(old[0], product("changed", price=1))]},
        {"deletes": [old[1]]},
    ):
        with proxy(cart_url) as network, eventually(partial(_through, network, cart_url)) as writer:
            writer.write(write_batch(row_schema, inserts=old))
            network.lose_answer_to(COMMIT)
            with pytest.raises(CommitOutcomeUnknown) as caught:
                writer.write(write_batch(row_schema, **part))
            eventually(writer.reconnect)
            assert writer.was_committed(caught.value.transaction) is True


def test_a_session_that_the_server_has_not_missed_is_ended_and_its_lock_taken_over(
    cart_url: str, product_table: str
) -> None:
    with proxy(cart_url) as network, _through(network, cart_url) as writer:
        network.lose_request(COMMIT, stranded=True)
        unknown = _lost_commit(writer)
        with pytest.raises(TransientError, match="lost session still held") as caught:
            writer.reconnect()
        assert caught.value.connection_lost
        eventually(writer.reconnect)
        assert writer.was_committed(unknown.transaction) is False


def test_a_transaction_in_progress_is_waited_for(cart_url: str, product_table: str) -> None:
    """The server may still be busy with a COMMIT, waiting for its standby, say."""
    other = psycopg.connect(cart_url)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            other.commit()

    with other, _writer(cart_url, sleep=sleep) as writer:
        row = other.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        assert writer.was_committed(row[0]) is True
    assert len(slept) == 3


def test_a_transaction_that_stays_in_progress_is_transient(cart_url: str, product_table: str) -> None:
    with psycopg.connect(cart_url) as other, _writer(cart_url, sleep=lambda _: None) as writer:
        row = other.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        with pytest.raises(TransientError, match="still in progress after 30 s"):
            writer.was_committed(row[0])


def test_an_id_that_a_crashed_server_gives_out_again_is_not_taken_for_ours(cart_url: str, product_table: str) -> None:
    """An id that was never in the log is free again after a crash. Here a stranger commits under it."""
    with proxy(cart_url) as network, _through(network, cart_url) as writer:
        network.lose_request(COMMIT)
        unknown = _lost_commit(writer)
        eventually(writer.reconnect)
        with psycopg.connect(cart_url) as stranger:
            row = stranger.execute("SELECT pg_current_xact_id()::text").fetchone()
            stranger.execute("INSERT INTO product VALUES ('theirs', '', 1, '', '', 1)")
        assert row is not None
        writer._unknown[row[0]] = writer._unknown[unknown.transaction]
        assert writer.was_committed(row[0]) is False
        assert writer.was_committed(str(int(row[0]) + 1_000_000)) is False, "not given out yet"


# Opening, losing and taking the lock again


def test_a_second_sync_is_turned_away_and_told_who_is_at_it(cart_url: str, product_table: str) -> None:
    with _writer(cart_url, run_id="0a1b2c3d-first"):
        with pytest.raises(
            SyncAlreadyRunning, match=r"public\.product is being synced by product_sync 0a1b2c3d"
        ) as caught:
            _writer(cart_url, run_id="second")
        assert re.fullmatch(r"product_sync 0a1b2c3d .+:\d+ \(backend \d+, connected since .+\)", caught.value.holder)
    eventually(lambda: _writer(cart_url, run_id="second")).close()


def test_a_probe_takes_no_lock_and_is_in_no_syncs_way(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    probe = PostgresWriter(TargetAddress(cart_url), row_schema, run_id="dry", probing=True)
    with probe, _writer(cart_url, run_id="real") as real:
        assert real.write(write_batch(row_schema, inserts=[product("p")])).inserted == {"p"}
        assert probe.probe(write_batch(row_schema, inserts=[product("q")])).inserted == {"q"}
        with pytest.raises(SyncAlreadyRunning, match="product_sync real"):
            PostgresWriter(TargetAddress(cart_url), row_schema, run_id="another dry", probing=True)
        read = [
            row["id"]
            for batch in PostgresReader(TargetAddress(cart_url), row_schema).snapshot()
            for row in batch.to_pylist()
        ]
    assert read == ["p"]


def test_a_probe_that_meets_a_syncs_row_gives_way_at_once(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    with (
        PostgresWriter(TargetAddress(cart_url), row_schema, run_id="dry", probing=True) as probe,
        psycopg.connect(cart_url) as sync,
    ):
        sync.execute("INSERT INTO product VALUES ('p', 't', 1, 'i', 's', 1)")
        began = time.monotonic()
        with pytest.raises(TransientError, match="lock timeout"):
            probe.probe(write_batch(row_schema, inserts=[product("p")]))
        assert time.monotonic() - began < 0.9, "before the server looks for deadlocks, which a sync could lose"


def test_another_table_is_another_lock(cart_url: str, product_table: str) -> None:
    execute(cart_url, "CREATE TABLE other (id text PRIMARY KEY, n int)")
    with _writer(cart_url), PostgresWriter(TargetAddress(cart_url), row_schema_of(cart_url, "other"), run_id="test"):
        pass


def test_losing_the_connection_is_losing_the_lock(cart_url: str, product_table: str) -> None:
    with proxy(cart_url) as network, _through(network, cart_url, run_id="first") as first:
        network.lose_request(b"BEGIN")
        with pytest.raises(TransientError):
            first.write(write_batch(first.row_schema, inserts=[product("p")]))
        second = eventually(lambda: _writer(cart_url, run_id="second"))
        with second, pytest.raises(SyncAlreadyRunning, match="product_sync second"):
            first.reconnect()
        eventually(first.reconnect)
        assert first.write(write_batch(first.row_schema, inserts=[product("p")])).inserted == {"p"}


def test_a_server_that_is_away_is_transient_for_a_run_that_has_begun(cart_url: str, product_table: str) -> None:
    with proxy(cart_url) as network:
        writer = _through(network, cart_url)
        network.close()
        for attempt in (lambda: writer.fetch(["p"]), writer.reconnect, writer.reconnect):
            with pytest.raises(TransientError) as caught:
                attempt()
            assert caught.value.connection_lost
        with pytest.raises(Unreachable):
            _through(network, cart_url)


def test_transaction_pooling_is_refused(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    for sessions in (1, 2, 4):
        with transaction_pooler(cart_url, sessions=sessions) as pooler, pytest.raises(TransactionPooling):
            PostgresWriter(TargetAddress(pooler.url), row_schema, run_id="test")


def test_row_level_security_is_refused(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "ALTER TABLE product ENABLE ROW LEVEL SECURITY")
    with role(cart_url, "GRANT ALL ON product TO {}") as user, pytest.raises(AccessDenied, match="Row-level security"):
        PostgresWriter(TargetAddress(user.url), row_schema, run_id="test")


def test_a_writer_that_was_turned_away_leaves_no_session_behind(cart_url: str, product_table: str) -> None:
    with _writer(cart_url):
        with pytest.raises(SyncAlreadyRunning):
            _writer(cart_url)
        assert other_sessions(cart_url, 1)
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "DROP TABLE product")
    with pytest.raises(TableError):
        PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test")
    assert other_sessions(cart_url, 0)


def test_what_was_written_is_what_the_reader_sees(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    rows = [product(str(number), price=number) for number in range(2_345)]
    with _writer(cart_url) as writer:
        for start in range(0, len(rows), 1_000):
            writer.write(write_batch(row_schema, inserts=rows[start : start + 1_000]))
    read = [
        row
        for batch in PostgresReader(TargetAddress(cart_url), row_schema, batch_rows=999).snapshot()
        for row in batch.to_pylist()
    ]
    assert sorted(read, key=lambda row: row["price"]) == rows
