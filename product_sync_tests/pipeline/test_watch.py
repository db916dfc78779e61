"""A look of the watch on real servers: it finds what differs, writes nothing, and never stores ahead of its work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partialmethod
from typing import Any

import psycopg
import pytest
from bson.objectid import ObjectId
from pymongo import MongoClient

from product_sync.errors import ProductSyncError
from product_sync.pipeline import run_checks, watch
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.watch import Look, look
from product_sync.schema.records import IdType, SourceId
from product_sync.sources.mongodb.changes import MongoChanges
from product_sync.state import change_position
from product_sync.state.change_position import UnsettledReason, read_position, record_full_proof, take_position
from product_sync.state.store import StateFolder
from product_sync_tests.pipeline.test_sync_run import begin, databases_of, read_and_compare
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]


def prove(shop: Shop, **settings: Any) -> StateFolder:
    """A full run, and the position that was taken before it."""
    sync_run = begin(shop, **settings)
    with sync_run.source() as source:
        position = take_position(sync_run.folder, source)
    load(read_and_compare(sync_run))
    assert run_checks.check_result(sync_run).proven
    record_full_proof(sync_run.folder, position, run_id="full", at=datetime.now(UTC), unsettled={})
    return sync_run.folder


def seen(shop: Shop, folder: StateFolder, *, settle_s: float = 0.0) -> Look:
    return look(databases_of(shop), folder, settle_s=settle_s)


def texts(found: Any) -> set[str]:
    return {each.text for each in found}


def test_a_change_grows_old_also_while_nothing_else_is_written(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("p"))
    folder = prove(shop)
    shop.put(product("p", price=1))
    read_present = MongoChanges._present

    def idle(self: MongoChanges, clock: int = 0) -> Any:
        """Without writes the time of a replica set stands still, its clock goes on."""
        present = read_present(self)
        return present._replace(clock=present.time.seconds + clock)

    for clock, due in ((4, set()), (5, {"p"})):
        monkeypatch.setattr(MongoChanges, "_present", partialmethod(idle, clock))
        assert texts(seen(shop, folder, settle_s=5.0).due) == due


def test_each_kind_of_difference_is_due_and_equal_products_are_not(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(6)))
    folder = prove(shop)
    shop.put(product("p0000", price=1), product("p0001", price=2), product("new"), product("bad", price=2.5))
    shop.sql("UPDATE product SET price = 1 WHERE id = 'p0000'")
    shop.remove("p0002", "p0003")
    shop.sql("DELETE FROM product WHERE id = 'p0003'")
    before = shop.fingerprint
    found = seen(shop, folder)
    assert texts(found.due) == {"p0001", "new", "bad", "p0002"}
    assert (found.events, found.compared, found.tried, found.backlog) == (6, 6, [], False)
    assert shop.fingerprint == before
    assert texts(seen(shop, folder).due) == {"p0001", "new", "bad", "p0002"}, "they stay until they are settled"


def test_a_product_that_its_event_settles_is_never_due(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    shop.put(product("a", price=9))
    first = seen(shop, folder, settle_s=3600.0)
    assert (first.due, texts(first.unsettled)) == ([], {"a"})
    shop.sql("UPDATE product SET price = 9")
    second = seen(shop, folder)
    assert (second.events, second.compared, second.due, dict(second.unsettled)) == (0, 1, [], {})


def test_a_quiet_source_moves_the_position_on(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    before = read_position(folder)
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database().other.insert_one({})
    found = seen(shop, folder)
    assert before is not None
    assert found.stored is not None
    assert found.stored.position.time > before.position.time
    assert found.lag_s == 0.0


def test_two_documents_with_one_text_and_quarantined_ones_are_due_once(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    shop.put(product("by ObjectId", _id=ObjectId("5f" * 12)), product("5f" * 12), product("by number", _id=2.5))
    assert texts(seen(shop, folder).due) >= {"5f" * 12}
    assert {each.type for each in seen(shop, folder).due} >= {IdType.OTHER}
    shop.put(product("bad", price=2.5))
    folder = prove(shop, quarantine_budget=1.0)
    for each in ("bad", "5f" * 12):
        shop.put(product(each, price=3.5))
    assert seen(shop, folder).due == []


def test_a_document_that_leaves_the_quarantine_is_due_although_both_sides_agree(shop: Shop) -> None:
    shop.put(*(product(name) for name in ("a", *ids(9))))
    shop.put(product("bad", price=2.5), product("gone", price=2.5), product("by number", _id=2.5))
    folder = prove(shop, quarantine_budget=1.0)
    assert len(shop.quarantine) == 3
    shop.put(product("bad", price=3))
    copy = """INSERT INTO product SELECT 'bad', title, 3, image, "sellerId", quantity FROM product WHERE id = 'a'"""
    shop.sql(copy)
    shop.remove("gone", 2.5)
    assert {(each.type, each.text) for each in seen(shop, folder).due} >= {("string", "bad"), ("string", "gone")}
    assert {each.type for each in seen(shop, folder).due} == {IdType.STRING, IdType.OTHER}
    sync_run = begin(shop, changes=True)
    load(read_and_compare(sync_run))
    run_checks.check_result(sync_run)
    assert shop.quarantine == {}
    assert seen(shop, folder).unsettled == {}


def test_what_a_run_could_not_settle_is_told_from_what_is_new(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    shop.put(product("a", price=9))
    found = seen(shop, folder)
    assert found.stored is not None
    unsettled = {key: replace(each, reason=UnsettledReason.REFUSED) for key, each in found.unsettled.items()}
    record_full_proof(folder, found.stored.position, run_id="full", at=datetime.now(UTC), unsettled=unsettled)
    assert texts(seen(shop, folder).tried) == {"a"}
    assert seen(shop, folder).due == []


def test_a_backlog_moves_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    before = read_position(folder)
    shop.put(*(product(name) for name in ids(5)))
    monkeypatch.setattr(watch, "MAX_EVENTS", 3)
    found = seen(shop, folder)
    assert (found.backlog, found.events) == (True, 3)
    assert read_position(folder) == before


def test_more_products_that_differ_than_can_be_kept_are_a_backlog_and_no_loss(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    before = read_position(folder)
    for bound in (watch, change_position):
        monkeypatch.setattr(bound, "MAX_UNSETTLED", 3)
    shop.put(*(product(name) for name in ids(4)))
    found = seen(shop, folder)
    assert (found.backlog, found.events, found.lost) == (True, 4, None)
    assert read_position(folder) == before
    shop.remove("p0003")
    assert texts(seen(shop, folder).due) == {"p0000", "p0001", "p0002"}


def test_a_lost_stream_is_said_with_its_reason_until_a_full_run(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database().products.drop()
    shop.put(product("gap"))
    first, second = seen(shop, folder), seen(shop, folder)
    assert first.lost is not None
    assert (first.stored, first.lost.reason) == (None, "recreated")
    assert (second.stored, second.lost) == (None, first.lost)
    folder = prove(shop, accept_source_count=1)
    assert shop.rows["gap"][0] == 500
    assert seen(shop, folder).lost is None


def test_a_look_that_fails_stores_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    before = read_position(folder)
    shop.put(product("a", price=9))
    with psycopg.connect(shop.cart_url) as connection:
        connection.execute("ALTER TABLE product RENAME TO elsewhere")
        connection.commit()
        databases = databases_of(shop)
        with pytest.raises(ProductSyncError):
            look(databases, folder, settle_s=0.0)
    assert read_position(folder) == before


def test_a_change_of_an_id_that_no_row_can_have_needs_no_row(shop: Shop) -> None:
    shop.put(product("a"))
    folder = prove(shop)
    shop.put(product("by document", _id={"sku": 1}))
    shop.remove({"sku": 1})
    found = seen(shop, folder)
    assert (found.events, found.due) == (2, [])
    assert SourceId(IdType.STRING, "a") not in found.unsettled
