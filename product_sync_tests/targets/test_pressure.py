"""What the target has to bear is seen as far as the role may see it, and looking never fails and never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import psycopg2.extras
import pytest

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.ports import Signals
from product_sync.targets.postgres.pressure import PostgresPressure
from product_sync_tests.network import proxy
from product_sync_tests.targets.postgres_tables import PASSWORD, execute, locked, role


def seen(probe: PostgresPressure, expected: Callable[[Signals], bool]) -> Signals:
    """The first signals that show what is expected, or the last ones after five seconds."""
    for _ in range(100):
        found = probe.measure()
        if expected(found):
            break
        time.sleep(0.05)
    return found


@contextmanager
def busy(url: str, statement: str) -> Iterator[None]:
    """A client that executes ``statement`` for the length of the block."""
    with psycopg.connect(url, autocommit=True) as client:

        def run() -> None:
            with suppress(psycopg.errors.QueryCanceled):
                client.execute(statement.encode())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            client.cancel_safe()
            thread.join()


def test_a_calm_target_shows_a_latency_and_nothing_else(cart_url: str) -> None:
    with PostgresPressure(TargetAddress(cart_url)) as probe:
        found = probe.measure()
    assert found.latency_s is not None
    assert 0 < found.latency_s < 1
    assert (found.lock_waits, found.active_sessions, found.replica_lag_s, found.unseen) == (0, 0, 0.0, ())


def test_the_latency_is_the_middle_one_of_three_round_trips(cart_url: str) -> None:
    # The first two are the time at which the look began.
    ticks = iter([0.0, 0.0, 0.0, 0.001, 2.0, 2.9, 3.0, 3.004])
    with PostgresPressure(TargetAddress(cart_url), clock=lambda: next(ticks)) as probe:
        assert probe.measure().latency_s == pytest.approx(0.004)


def test_sessions_that_wait_for_a_lock_are_counted(cart_url: str, product_table: str) -> None:
    with (
        PostgresPressure(TargetAddress(cart_url)) as probe,
        locked(cart_url, product_table),
        busy(cart_url, "SELECT * FROM product"),
        busy(cart_url, "SELECT * FROM product"),
    ):
        assert seen(probe, lambda found: found.lock_waits == 2).lock_waits == 2


def test_row_locks_are_waited_for_too(cart_url: str, product_table: str) -> None:
    execute(cart_url, "INSERT INTO product VALUES ('a', 't', 1, 'i', 's', 1)")
    with PostgresPressure(TargetAddress(cart_url)) as probe, psycopg.connect(cart_url) as holder:
        holder.execute("UPDATE product SET price = 2")
        with busy(cart_url, "UPDATE product SET price = 3"):
            assert seen(probe, lambda found: found.lock_waits == 1).lock_waits == 1
            holder.rollback()


def test_sessions_that_execute_a_statement_are_counted(cart_url: str) -> None:
    with PostgresPressure(TargetAddress(cart_url)) as probe, busy(cart_url, "SELECT pg_sleep(60)"):
        assert seen(probe, lambda found: found.active_sessions == 1).active_sessions == 1


def test_a_replica_that_lags_is_seen(cart_url: str, product_table: str) -> None:
    standby = psycopg2.connect(cart_url, connection_factory=psycopg2.extras.PhysicalReplicationConnection)
    try:
        cursor = standby.cursor()
        (position,) = execute(cart_url, "SELECT pg_current_wal_lsn()::text")[0]
        cursor.start_replication(start_lsn=position)
        began = cursor.wal_end or _lsn(position)
        with PostgresPressure(TargetAddress(cart_url)) as probe:
            assert probe.measure().replica_lag_s == 0

            def lags(found: Signals) -> bool:
                execute(cart_url, "INSERT INTO product VALUES (gen_random_uuid(), 't', 1, 'i', 's', 1)")
                while message := cursor.read_message():
                    # It has received everything and applied what came a second ago.
                    cursor.send_feedback(
                        write_lsn=message.wal_end, flush_lsn=message.wal_end, apply_lsn=began + 1, force=True
                    )
                return (found.replica_lag_s or 0) > 0.2

            assert lags(seen(probe, lags))
    finally:
        standby.close()


def _lsn(text: str) -> int:
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def test_a_role_without_the_right_sees_lock_waits_and_says_what_it_does_not_see(
    cart_url: str, product_table: str
) -> None:
    with (
        role(cart_url) as user,
        PostgresPressure(TargetAddress(user.url)) as probe,
        locked(cart_url, product_table),
        busy(cart_url, "SELECT * FROM product"),
    ):
        found = seen(probe, lambda found: found.lock_waits == 1)
    assert (found.lock_waits, found.active_sessions, found.replica_lag_s) == (1, None, None)
    assert found.unseen == (
        "active sessions and replica lag (only a role with the rights of pg_read_all_stats sees them)",
    )


def test_a_role_with_the_right_sees_all(cart_url: str) -> None:
    with (
        role(cart_url, "GRANT pg_read_all_stats TO {}") as user,
        PostgresPressure(TargetAddress(user.url)) as probe,
        busy(cart_url, "SELECT pg_sleep(60)"),
    ):
        found = seen(probe, lambda found: found.active_sessions == 1)
    assert (found.active_sessions, found.replica_lag_s, found.unseen) == (1, 0.0, ())


def test_where_nobody_answers_it_says_so_and_tries_again_half_a_minute_later(cart_url: str) -> None:
    now = 0.0
    with role(cart_url, password=PASSWORD) as user:
        wrong = user.url.replace(PASSWORD, "wrong")
        with PostgresPressure(TargetAddress(wrong), clock=lambda: now) as probe:
            first = probe.measure()
            assert first.latency_s is None
            assert "password authentication failed" in first.unseen[0]
            execute(cart_url, f"ALTER ROLE {user.name} PASSWORD 'wrong'")
            assert probe.measure() == first
            now = 31.0
            assert probe.measure().lock_waits == 0


def test_a_connection_that_breaks_is_opened_again(cart_url: str) -> None:
    now = 0.0
    with proxy(cart_url) as network, PostgresPressure(TargetAddress(network.url(cart_url)), clock=lambda: now) as probe:
        assert probe.measure().lock_waits == 0
        network.lose_request(b"pg_locks")
        assert "anything of the target" in probe.measure().unseen[0]
        now = 31.0
        assert probe.measure().lock_waits == 0


def test_a_look_that_takes_too_long_is_a_latency(cart_url: str) -> None:
    with PostgresPressure(TargetAddress(cart_url)) as probe:
        probe.measure()
        with psycopg.connect(cart_url) as owner:
            owner.execute("LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE")
            found = probe.measure()
    assert found.latency_s is not None
    assert found.latency_s > 0.9
    assert found.lock_waits is None
    assert found.unseen
