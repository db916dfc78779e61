"""The session that holds the lock: the server too checks that its client is still there."""

from __future__ import annotations

from contextlib import closing

from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.lock import try_lock
from product_sync_tests.targets.postgres_tables import row_schema_of


def test_a_host_that_vanishes_frees_the_lock_within_about_a_minute(cart_url: str, product_table: str) -> None:
    with closing(connect(TargetAddress(cart_url))) as connection:
        assert try_lock(connection, row_schema_of(cart_url).table)
        probing = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
    assert probing == {
        "tcp_keepalives_idle": ("30",),
        "tcp_keepalives_interval": ("10",),
        "tcp_keepalives_count": ("3",),
    }
