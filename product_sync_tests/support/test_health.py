"""The health check of both connections reports what would stop a sync, and ends in time whatever the servers do."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import psycopg2.extras
import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.embedded import postgres
from product_sync.embedded.process import free_port
from product_sync.embedded.servers import remove
from product_sync.notify.alerts import Level
from product_sync.schema.definition import load_definition
from product_sync.support.health import ConnectionHealth, check_both_sides
from product_sync_tests.databases import another_sync, create_product_table
from product_sync_tests.market import Market, products, wait_until
from product_sync_tests.network import proxy
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod

PASSWORD = "topsecret"
#: A member waits so many milliseconds for its clients before it stops.
QUIESCE = "shutdownTimeoutMillisForSignaledShutdown"


#: Where a look succeeds it is over at once; a busy machine must not make it fail.
PATIENT = {"step_s": 60.0, "check_s": 120.0}


def check_health(market: Market, **env: str) -> tuple[ConnectionHealth, ConnectionHealth]:
    source, target = check_both_sides(load_definition(), {**market.env, **env}, **PATIENT)
    assert (source.side, target.side) == ("mongodb", "postgres")
    return source, target


def test_both_in_order_with_what_the_servers_know_of_counts_and_replication(market: Market) -> None:
    market.stock(products(40))
    market.copy(products(30))
    market.sql("ANALYZE product")
    source, target = check_health(market)
    assert (source.level, target.level) == (Level.OK, Level.OK)
    assert source.facts["mongodb_documents_about"] == 40
    assert target.facts["postgres_rows_about"] == 30
    assert source.facts["mongodb_unsound_members"] == 0
    assert "PRIMARY" in source.text
    assert target.facts["postgres_replicas"] == 0
    assert target.facts["postgres_behind_s"] is None, "nobody is behind, which is not the same as zero"
    for facts, name in ((source.facts, "mongodb_latency_ms"), (target.facts, "postgres_latency_ms")):
        latency = facts[name]
        assert isinstance(latency, float)
        assert 0 < latency < 10_000


def test_one_that_is_down_does_not_hide_the_other_and_no_password_is_told(market: Market) -> None:
    market.stock(products(1))
    source, target = check_health(market, CART_DB_URL=f"postgresql://syncer:{PASSWORD}@127.0.0.1:1/cart")
    assert (source.level, target.level) == (Level.OK, Level.ERROR)
    assert "PostgreSQL at 127.0.0.1:1/cart cannot be reached" in target.text
    assert "Check that the server runs" in target.text
    assert PASSWORD not in str((source, target))


SLOW_OPTION = "?serverSelectionTimeoutMS=600000"


def test_its_limits_win_over_those_of_the_addresses() -> None:
    """Of a server that is not there, and of one that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        away = {
            "PRODUCT_SERVICE_MONGODB_URL": f"mongodb://reader:{PASSWORD}@127.0.0.1:1/shop{SLOW_OPTION}",
            "CART_DB_URL": f"postgresql://syncer:{PASSWORD}@127.0.0.1:{port}/cart?connect_timeout=600",
        }
        source, target = check_both_sides(load_definition(), away, step_s=2.0, check_s=60.0)
    assert "MongoDB at 127.0.0.1:1 cannot be reached" in source.text
    assert f"PostgreSQL at 127.0.0.1:{port}/cart cannot be reached" in target.text
    assert PASSWORD not in str((source, target))


@pytest.mark.parametrize(
    ("env", "side", "text"),
    [
        ({"CART_DB_URL": ""}, 1, "CART_DB_URL is not set."),
        ({"PRODUCT_SERVICE_MONGODB_URL": "nonsense"}, 0, "PRODUCT_SERVICE_MONGODB_URL"),
    ],
)
def test_what_is_set_wrongly_is_said(market: Market, env: dict[str, str], side: int, text: str) -> None:
    market.stock(products(1))
    found = check_health(market, **env)[side]
    assert found.level is Level.ERROR
    assert text in found.text


def test_a_collection_or_a_table_that_is_gone_is_said(market: Market) -> None:
    market.sql("ALTER TABLE product RENAME TO goods")
    source, target = check_health(market)
    assert "There is no database" in source.text, "a database without collections is none"
    assert "Table public.product does not exist" in target.text
    assert (source.level, target.level) == (Level.ERROR, Level.ERROR)


def test_a_load_that_is_running_holds_nothing_up(market: Market) -> None:
    market.stock(products(1))
    market.copy(products(1))
    with another_sync(market.cart_url) as load:
        load.execute("UPDATE product SET price = 1")
        load.execute("LOCK TABLE product IN SHARE UPDATE EXCLUSIVE MODE")
        assert [found.level for found in check_health(market)] == [Level.OK, Level.OK]


def test_a_lock_that_even_readers_wait_for_ends_the_look_and_is_said(market: Market) -> None:
    market.stock(products(1))
    with psycopg.connect(market.cart_url) as other:
        other.execute("LOCK TABLE product IN ACCESS EXCLUSIVE MODE")
        _, target = check_both_sides(load_definition(), market.env, step_s=2.0, check_s=60.0)
    assert target.level is Level.ERROR
    assert "timeout" in target.text


def test_a_network_that_is_silent_ends_no_look_late_and_is_not_asked_again_until_it_answers(market: Market) -> None:
    market.stock(products(1))
    with proxy(market.cart_url) as network:
        through = {**market.env, "CART_DB_URL": network.url(market.cart_url)}
        network.stall_at(b"pg_stat_replication")
        began = time.monotonic()
        # Its statement limit is the server's, and the server has not heard of the statement.
        _, target = check_both_sides(load_definition(), through, step_s=60.0, check_s=2.0)
        assert time.monotonic() - began < 30.0
        assert target.level is Level.ERROR
        assert "has not answered. Check that the server and the network are not stalled." in target.text
        for _ in range(5):
            assert check_both_sides(load_definition(), through, step_s=60.0, check_s=0.1)[1].level is Level.ERROR
        assert [each.name for each in threading.enumerate()].count("product_sync prefetch") <= len(
            ("this", "MongoDB's")
        )
        network.flow_on()
        ends = time.monotonic() + 120.0
        while check_both_sides(load_definition(), through)[1].level is not Level.OK:
            assert time.monotonic() < ends
    assert check_health(market)[1].level is Level.OK


def test_a_bug_is_told_by_the_name_of_its_error(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError(PASSWORD)

    monkeypatch.setattr("product_sync.support.health.mongodb.require_readable", broken)
    source, target = check_health(market)
    assert "ValueError in broken" in source.text
    assert PASSWORD not in source.text
    assert (source.level, target.level) == (Level.ERROR, Level.OK)


def test_replicas_are_counted_and_how_far_they_are_is_shown_to_who_may_see_it(market: Market) -> None:
    market.stock(products(1))
    market.sql("CREATE ROLE looker LOGIN PASSWORD 'topsecret'")
    try:
        replica = psycopg2.connect(market.cart_url, connection_factory=psycopg2.extras.PhysicalReplicationConnection)
        with closing(replica):
            cursor = replica.cursor()
            (position,) = market.sql("SELECT pg_current_wal_lsn()::text")[0]
            cursor.start_replication(start_lsn=position)
            _, target = check_health(market)
            assert (target.facts["postgres_replicas"], target.facts["postgres_behind_s"]) == (1, None), (
                "it said nothing"
            )

            def says_that_it_has_everything() -> bool:
                (now,) = market.sql("SELECT (pg_current_wal_lsn() - '0/0')::int8")[0]
                cursor.send_feedback(write_lsn=now, flush_lsn=now, apply_lsn=now, force=True)
                return check_health(market)[1].facts["postgres_behind_s"] == 0.0

            wait_until(says_that_it_has_everything)
            assert re.search(r"primary with 1 replica, at most \d\.\d s behind", check_health(market)[1].text)
            _, target = check_health(market, CART_DB_URL=_as("looker", market.cart_url))
            assert (target.facts["postgres_replicas"], target.facts["postgres_behind_s"]) == (1, None)
            assert "without pg_read_all_stats a role may not see it" in target.text
            assert target.level is Level.OK
    finally:
        market.sql("DROP ROLE looker")


def _as(role: str, url: str) -> str:
    return f"postgresql://{role}:{PASSWORD}@{url.rpartition('@')[2]}"


@contextmanager
def postgres_on(folder: Path) -> Iterator[postgres.Postgres]:
    """A server of the test's own."""
    server = postgres.launch(folder, port=free_port(), log=folder / "log", durable=False, say=lambda _: None)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.stop()


def test_a_standby_cannot_be_written_to_and_is_said_to_be_one(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.stock(products(1))
    folder = Path(tempfile.mkdtemp(prefix="product_sync_tests_"))
    folder.chmod(0o711)
    try:
        with postgres_on(folder) as server:
            create_product_table(server.url("postgres"))
        (server.home / "data" / "standby.signal").touch()
        with postgres_on(folder) as server:
            _, target = check_health(market, CART_DB_URL=server.url("postgres"))
            market.env["CART_DB_URL"] = server.url("postgres")
            market.enter(monkeypatch)
            started = time.monotonic()
            refused = [report.error for report in (api.doctor(), api.sync())]
            assert time.monotonic() - started < 60, "not retried for minutes"
            assert api.sync(dry_run=True).raise_for_error().missing == 1
    finally:
        remove(folder)
    for error in refused:
        assert error is not None
        assert (error.code, "a standby cannot be written to" in error.message) == ("read_only", True)
    assert target.level is Level.ERROR
    assert f"PostgreSQL at 127.0.0.1:{server.port}/postgres is in recovery" in target.text
    assert "Promote it" in target.text


@pytest.fixture(scope="module")
def replica_set() -> Iterator[PrivateMongod]:
    """Of one member, with access control: ``root`` may see all of it, ``reader`` what a sync needs."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.touch(mode=0o600)
        key.write_text("c2VjcmV0" * 4)
        options = ("--replSet", "rs", "--keyFile", str(key), "--setParameter", f"{QUIESCE}=0")
        with private_mongod(*options, directConnection=True) as server:
            member = {"_id": 0, "host": f"127.0.0.1:{server.port}"}
            with MongoClient[dict[str, Any]]("127.0.0.1", server.port, directConnection=True) as local:
                local.admin.command("replSetInitiate", {"_id": "rs", "members": [member]})
                wait_until(lambda: local.admin.command("hello")["isWritablePrimary"])
                local.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
            with as_root(server) as client:
                client.shop.command("createUser", "reader", pwd=PASSWORD, roles=[{"role": "read", "db": "shop"}])
                client.shop.products.insert_one({"_id": 1})
            yield server


def as_root(server: PrivateMongod) -> MongoClient[dict[str, Any]]:
    return MongoClient(server.url("admin", login=f"root:{PASSWORD}@", options="?directConnection=true"))


def look_at_source(server: PrivateMongod, user: str, database: str = "shop", options: str = "") -> ConnectionHealth:
    url = server.url(database, login=f"{user}:{PASSWORD}@", options=options)
    return check_both_sides(load_definition(), {"PRODUCT_SERVICE_MONGODB_URL": url}, **PATIENT)[0]


AS_ROOT = "?authSource=admin"


def test_members_are_shown_to_who_may_see_them_and_to_others_it_is_said(replica_set: PrivateMongod) -> None:
    found = look_at_source(replica_set, "root", options=AS_ROOT)
    assert f"127.0.0.1:{replica_set.port} PRIMARY" in found.text
    assert found.facts["mongodb_unsound_members"] == 0
    found = look_at_source(replica_set, "reader")
    assert found.level is Level.OK, found
    assert f"primary 127.0.0.1:{replica_set.port}" in found.text
    assert "not visible to this user (that takes the role clusterMonitor)" in found.text
    assert found.facts["mongodb_unsound_members"] is None
    assert found.facts["mongodb_documents_about"] == 1


def test_a_user_without_its_role_is_said(replica_set: PrivateMongod) -> None:
    with as_root(replica_set) as client:
        client.shop.command("createUser", "nobody", pwd=PASSWORD, roles=[])
    found = look_at_source(replica_set, "nobody")
    assert found.level is Level.ERROR
    assert "`read`" in found.text


def test_a_member_that_is_away_is_a_warning_and_a_set_without_a_primary_a_failure(replica_set: PrivateMongod) -> None:
    away = f"127.0.0.1:{free_port()}"
    with as_root(replica_set) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        config["members"].append({"_id": 1, "host": away, "votes": 0, "priority": 0})
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)
        wait_until(lambda: look_at_source(replica_set, "root", options=AS_ROOT).level is Level.WARN)
        found = look_at_source(replica_set, "root", options=AS_ROOT)
        assert found.text.startswith(f"{away} is (not reachable/healthy): the loss of another member")
        assert found.facts["mongodb_unsound_members"] == 1

        client.admin.command("replSetStepDown", 600, force=True)
        url = replica_set.url(login=f"reader:{PASSWORD}@", options="?replicaSet=rs")
        found = check_both_sides(load_definition(), {"PRODUCT_SERVICE_MONGODB_URL": url}, step_s=3.0, check_s=60.0)[0]
        assert found.level is Level.ERROR
        assert "cannot be reached" in found.text
        assert PASSWORD not in found.text
