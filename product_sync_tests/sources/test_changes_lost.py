"""Every way in which a real change stream ends or cannot begin: each says why, and no change is missed across it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from product_sync.errors import ChangesLost, ChangesUnavailable, ProductSyncError
from product_sync.schema.addresses import SourceAddress
from product_sync.schema.changes import ChangePosition, Changes, ClusterTime
from product_sync.schema.records import IdType, SourceId
from product_sync.sources.mongodb import MongoChanges, collection
from product_sync.sources.mongodb.client import connect
from product_sync.sources.mongodb.collection import collection_uuid
from product_sync.sources.mongodb.source import MongoSource
from product_sync_tests.source_contract import product, product_row_schema
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod

SET = "changes"
ADMIN, READER, OTHER = "admin:pw@", "reader:pw@", "other:pw@"
Shop = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMongod]:
    """A replica set of one member with access control and the shortest oplog, which it shortens every second."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("c2VjcmV0IG9mIGEgdGVzdA==")
    key.chmod(0o600)
    short = ("--oplogSize", "1", "--syncdelay", "1", "--setParameter", "enableTestCommands=1")
    with private_mongod("--replSet", SET, "--keyFile", str(key), *short, directConnection=True) as started:
        started.make_primary(SET)
        with MongoClient[dict[str, Any]](started.url("admin"), directConnection=True) as client:
            client.admin.command("createUser", "admin", pwd="pw", roles=["root"])
        with open_shop(started, ADMIN) as shop:
            shop.client.admin.command("createUser", "reader", pwd="pw", roles=[{"role": "read", "db": "shop"}])
            shop.client.admin.command("createUser", "other", pwd="pw", roles=[{"role": "read", "db": "elsewhere"}])
            shop.products.insert_many([product("a"), product("b")])
        yield started


def open_shop(server: PrivateMongod, login: str = READER, *, seldom_used: bool = False, more: str = "") -> Any:
    """``seldom_used``: as the watch does. Then the driver learns of a failure only by an error."""
    options = f"?authSource=admin&replicaSet={SET}{'' if seldom_used else '&heartbeatFrequencyMS=500'}{more}"
    return connect(SourceAddress(server.url(login=login, options=options)), seldom_used=seldom_used)


@pytest.fixture
def shop(server: PrivateMongod) -> Iterator[Shop]:
    with open_shop(server, ADMIN) as database:
        yield database


def changes(shop: Shop, since: ChangePosition, feed: MongoChanges | None = None) -> Changes:
    return (feed or feed_of(shop)).changes(since, max_events=1_000, within_s=60.0)


def feed_of(shop: Shop) -> MongoChanges:
    """Its stream stays open from one reading to the next, as that of the watch does."""
    return MongoChanges(shop, "products", stays_open=True)


def position(shop: Shop) -> ChangePosition:
    return feed_of(shop).position()


def open_cursors(shop: Shop) -> int:
    return int(shop.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"])


def set_price(shop: Shop, name: str, price: int) -> None:
    durable = shop.products.with_options(write_concern=WriteConcern(w="majority", j=True))
    durable.update_one({"_id": name}, {"$set": {"price": price}})


def string_ids(*texts: str) -> set[SourceId]:
    return {SourceId(IdType.STRING, text) for text in texts}


def test_the_role_read_is_enough(server: PrivateMongod, shop: Shop) -> None:
    with open_shop(server, READER) as reading:
        before = position(reading)
        set_price(shop, "a", 11)
        assert set(changes(reading, before).ids) == string_ids("a")


def test_the_connection_of_the_watch_takes_every_read_preference_of_the_url(server: PrivateMongod) -> None:
    stale = "&readPreference=secondaryPreferred&maxStalenessSeconds=90"
    with open_shop(server, seldom_used=True, more=stale) as reading:
        assert changes(reading, position(reading)).events == 0


def test_a_user_without_the_right_is_refused_with_the_grant_to_give(server: PrivateMongod) -> None:
    with open_shop(server, OTHER) as reading, pytest.raises(ChangesUnavailable) as refused:
        position(reading)
    assert "'read'" in refused.value.hint or '"read"' in refused.value.hint, refused.value.hint


def test_a_standalone_server_is_refused_and_full_syncs_still_work() -> None:
    with private_mongod() as alone, connect(SourceAddress(alone.url())) as shop:
        shop.products.insert_one(product("a"))
        source = MongoSource(shop, product_row_schema())
        with pytest.raises(ChangesUnavailable, match="standalone"):
            source.change_feed().position()
        was_a_member = ChangePosition("resume::server", ClusterTime(1, 1), str(collection_uuid(shop, "products")))
        with pytest.raises(ChangesUnavailable, match="standalone"):
            changes(shop, was_a_member)
        assert sum(batch.documents for batch in source.snapshot()) == 1


def test_a_failover_in_the_gap_loses_nothing(server: PrivateMongod, shop: Shop) -> None:
    set_price(shop, "a", 20)
    with open_shop(server, seldom_used=True) as kept, closing(feed_of(kept)) as feed:
        before = changes(kept, position(kept), feed).position
        set_price(shop, "a", 21)
        shop.client.admin.command("replSetStepDown", 2, secondaryCatchUpPeriodSecs=0, force=True)
        assert set(changes(kept, before, feed).ids) == string_ids("a")


def test_a_change_that_no_majority_has_is_not_claimed_and_seen_when_one_has_it(
    server: PrivateMongod, shop: Shop
) -> None:
    set_price(shop, "a", 25)
    stalls = {"configureFailPoint": "disableSnapshotting", "mode": "alwaysOn"}
    with open_shop(server, seldom_used=True) as kept, closing(feed_of(kept)) as feed:
        before = changes(kept, position(kept), feed).position
        shop.client.admin.command(stalls)
        try:
            shop.products.with_options(write_concern=WriteConcern(1)).update_one({"_id": "a"}, {"$set": {"price": 26}})
            found = changes(kept, before, feed)
            assert (found.events, found.position.time) == (0, before.time)
            assert found.now > found.position.time
        finally:
            shop.client.admin.command(stalls | {"mode": "off"})
        set_price(shop, "b", 27)
        assert set(changes(kept, found.position, feed).ids) == string_ids("a", "b")


def test_a_member_that_lags_behind_the_position_is_not_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and each page of the snapshot asks for that time again: another member may answer."""
    stalls, at = {"configureFailPoint": "disableSnapshotting", "mode": "alwaysOn"}, position(shop)
    source = MongoSource(shop, product_row_schema())
    shop.client.admin.command(stalls)
    try:
        with shop.client.start_session() as session:
            alone = shop.products.with_options(write_concern=WriteConcern(1))
            alone.update_one({"_id": "a"}, {"$set": {"price": 28}}, session=session)
            assert session.operation_time is not None
            ahead = replace(at, time=ClusterTime(session.operation_time.time, session.operation_time.inc))
        with monkeypatch.context() as patch:
            patch.setattr(collection, "REPLICATION_MS", 300)
            with pytest.raises(ChangesUnavailable, match="lags more than"):
                source.read_after(ahead)
    finally:
        shop.client.admin.command(stalls | {"mode": "off"})
    set_price(shop, "b", 29)
    source.read_after(ahead)
    shop.command("profile", 2)
    assert {row["price"] for batch in source.snapshot() for row in batch.rows.to_pylist() if row["id"] == "a"} == {28}
    shop.command("profile", 0)
    pages = [each["command"]["readConcern"] for each in shop["system.profile"].find({"command.find": "products"})]
    assert pages
    assert {str(each.get("afterClusterTime")) for each in pages} == {str(Timestamp(*ahead.time))}


def test_a_right_that_is_taken_away_is_missed_by_the_next_look(server: PrivateMongod, shop: Shop) -> None:
    roles, cursors = [{"role": "read", "db": "shop"}], open_cursors(shop)
    with open_shop(server, seldom_used=True) as kept, closing(feed_of(kept)) as feed:
        before = changes(kept, position(kept), feed).position
        shop.client.admin.command("revokeRolesFromUser", "reader", roles=roles)
        try:
            with pytest.raises(ProductSyncError, match="lacks the privileges"):
                changes(kept, before, feed)
            assert open_cursors(shop) <= cursors
        finally:
            shop.client.admin.command("grantRolesToUser", "reader", roles=roles)
        assert changes(kept, before, feed).events == 0


def test_a_crash_in_the_gap_loses_nothing(server: PrivateMongod, shop: Shop) -> None:
    with open_shop(server, seldom_used=True) as kept, closing(feed_of(kept)) as feed:
        since = position(kept)
        set_price(shop, "b", 30)
        before = changes(kept, since, feed).position
        set_price(shop, "a", 31)
        server.crash_and_restart()
        assert set(changes(kept, before, feed).ids) == string_ids("a")
        set_price(shop, "b", 32)
        assert set(changes(kept, before).ids) == string_ids("a", "b")


def test_a_restored_backup_is_never_taken_for_the_same_history(
    server: PrivateMongod, shop: Shop, tmp_path: Path
) -> None:
    at = position(shop)
    set_price(shop, "a", 40)
    at_backup = changes(shop, at).position
    backup = tmp_path / "backup"
    server.restart_with(lambda data: shutil.copytree(data, backup))
    no_event_yet = position(shop)
    set_price(shop, "a", 41)
    feed = feed_of(shop)
    after = changes(shop, at_backup, feed).position

    def restore(data: Path) -> None:
        shutil.rmtree(data)
        shutil.copytree(backup, data)

    server.restart_with(restore)
    set_price(shop, "b", 42)
    for since in (after, no_event_yet):
        with pytest.raises(ChangesLost) as lost:
            changes(shop, since, feed)
        assert lost.value.reason in ("restored", "token_invalid", "history_lost")
    assert set(changes(shop, at_backup).ids) == string_ids("b")


def follow_while_the_oplog_turns_over(shop: Shop, since: ChangePosition) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for _ in range(10):
            shop.other.insert_one({"text": "y" * 2_000_000})
        changes(shop, since)


def test_a_position_that_the_oplog_no_longer_has_is_lost_and_asks_for_a_longer_one(shop: Shop) -> None:
    before = position(shop)
    set_price(shop, "a", 50)
    with pytest.raises(ChangesLost) as lost:
        follow_while_the_oplog_turns_over(shop, before)
    assert lost.value.reason == "history_lost"
    assert "longer oplog" in lost.value.hint
