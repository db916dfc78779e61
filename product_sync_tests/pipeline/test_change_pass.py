"""A pass repairs what changed since the last proof, keeps what it could not settle, and is repeated after a kill."""

from __future__ import annotations

from typing import Any

import pytest

from product_sync.errors import ChangesLost, ChangesUnavailable
from product_sync.pipeline import change_pass, run_checks
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.run_checks import RunChecks
from product_sync.pipeline.sync_run import SyncRun
from product_sync.state.change_position import StoredPosition, read_position
from product_sync_tests.pipeline.test_sync_run import begin, read_and_compare
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]


def synced(shop: Shop, **settings: Any) -> tuple[SyncRun, RunChecks]:
    sync_run = read_and_compare(begin(shop, **settings))
    load(sync_run)
    return sync_run, run_checks.check_result(sync_run)


def stored(shop: Shop) -> StoredPosition:
    found = read_position(begin(shop).folder)
    assert found is not None
    return found


def unsettled(shop: Shop) -> dict[str, str]:
    return {source_id.text: each.reason for source_id, each in stored(shop).unsettled.items()}


def test_a_pass_repairs_every_kind_of_lost_event_and_nothing_else(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(50)))
    synced(shop)
    before = stored(shop)
    shop.put(product("new"), product("p0001", price=7), product("bad", price="a lot"), product("odd", _id={"a": 1}))
    shop.remove("p0002")
    shop.sql("UPDATE product SET price = 1 WHERE id = 'p0003'")
    sync_run, judged = synced(shop, changes=True, extra="delete", quarantine_budget=1.0)
    assert (shop.rows["new"][0], shop.rows["p0001"][0], "p0002" in shop.rows) == (500, 7, False)
    assert shop.rows["p0003"][0] == 1, "only a full run sees what was changed on the target"
    assert sorted(shop.quarantine) == ['"bad"', '{"a": {"$numberInt": "1"}}']
    made = change_pass.of(sync_run.files)
    assert (len(made.scope), made.events, made.at_end) == (5, 5, True)
    assert judged.proven is None
    after = stored(shop)
    assert judged.check_results[0].numbers["position_at"] == after.position.time.at.isoformat()
    assert after.proof == before.proof
    assert after.position.time > before.position.time
    assert unsettled(shop) == {}
    assert len(change_pass.of(synced(shop, changes=True)[0].files).scope) == 0, "it has been compared"


def test_without_a_proof_a_pass_says_that_a_full_sync_is_needed(shop: Shop) -> None:
    with pytest.raises(ChangesUnavailable, match="Run a full sync: `product-sync sync`"):
        begin(shop, changes=True).snapshot_both()
    shop.put(product("a"))
    synced(shop)
    shop.sql("SELECT 1")
    for _ in range(2):
        from pymongo import MongoClient

        with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
            client.get_default_database()["products"].drop()
            client.get_default_database()["products"].insert_one(product("a"))
        with pytest.raises(ChangesLost):
            begin(shop, changes=True).snapshot_both()
    synced(shop)
    synced(shop, changes=True)


def test_a_dry_run_of_a_pass_and_a_failed_full_run_move_nothing(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)))
    synced(shop)
    before = stored(shop)
    shop.put(product("p0001", price=7))
    plan = dry_run(read_and_compare(begin(shop, changes=True, dry_run=True))).plan_id
    assert stored(shop) == before
    synced(shop, changes=True, plan=plan)
    assert shop.rows["p0001"][0] == 7
    before = stored(shop)
    shop.put(product("p0002", price=2.5))
    assert synced(shop)[1].proven is None, "over the budget of the quarantine"
    assert stored(shop) == before
