"""A run that looks at some products only: it repairs these, and says nothing about the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bson.objectid import ObjectId

from product_sync.errors import ChecksFailed, ConfigurationError, StalePlan
from product_sync.notify.events import FinishedRun, status_updates
from product_sync.notify.run_metrics import RunMetrics
from product_sync.pipeline import read_back, run_checks
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.run_checks import RunChecks
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync.verify.checks import CheckResult, Severity
from product_sync_tests.market import Market, products
from product_sync_tests.pipeline.test_sync_run import begin, read_and_compare
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]

OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")


def synced(shop: Shop, **settings: Any) -> tuple[SyncRun, RunChecks]:
    sync_run = read_and_compare(begin(shop, **settings))
    load(sync_run)
    return sync_run, run_checks.check_result(sync_run)


def found(judged: RunChecks) -> dict[str, CheckResult]:
    return {each.check: each for each in judged.check_results}


def test_only_the_named_products_are_read_and_repaired_and_nothing_else_is_claimed(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(20)), product("other", price="a lot"))
    synced(shop, quarantine_budget=0.1)
    before = shop.files()
    shop.put(product("p0001", price=7), product("p0002", price=7), product("p0003", price=2.5))
    sync_run, judged = synced(shop, ids=["p0001", "p0003", "nowhere"])
    assert (sync_run.files.read_json("diff.json") or {})["counts"] == {
        "source_count": 2, "target_count": 2, "missing": 0, "changed": 1, "extra": 0, "quarantined": 1, "refused": 0
    }  # fmt: skip
    assert (shop.rows["p0001"][0], shop.rows["p0002"][0]) == (7, 500)
    assert judged.proven is None
    matches = found(judged)["target_matches_source"]
    assert matches.description == (
        "Both sides agree on 3 named products apart from 1 in quarantine. Nothing else was compared."
    )
    assert matches.numbers["scope"] == "3 named products"
    assert shop.files()["baseline.json"] == before["baseline.json"]
    assert sorted(shop.quarantine) == ['"other"', '"p0003"'], "the others' entries stay"
    shop.put(product("p0003"))
    heard: list[Progress] = []
    assert shop.run(ids=["p0003"], on_progress=heard.append).success
    assert {each.total for each in heard if each.stage.startswith("read")} == {1}, "not of the whole catalogue"
    assert list(shop.quarantine) == ['"other"']


@pytest.mark.parametrize(
    ("named", "documents", "expected"),
    [
        (["5"], [product("5"), product("x", _id=5)], {"duplicate_id": 2}),
        ([str(OBJECT_ID)], [product("x", _id=OBJECT_ID), product(str(OBJECT_ID))], {"duplicate_id": 2}),
        ([f'{{"$oid": "{OBJECT_ID}"}}'], [product("x", _id=OBJECT_ID, price="a lot")], {"wrong_type": 1}),
        (['{"a": 1}'], [product("x", _id={"a": 1}), product("other", _id={"b": 1})], {"unsupported_id": 1}),
        (["7"], [product("x", _id=7), product("x", _id=8)], {}),
    ],
)
def test_every_document_whose_id_has_the_named_text_is_looked_at(
    shop: Shop, named: list[str], documents: list[dict[str, Any]], expected: dict[str, int]
) -> None:
    shop.put(*documents)
    sync_run, _ = synced(shop, ids=named, quarantine_budget=1.0)
    assert read_back.quarantine_summary(sync_run)[1] == expected
    assert list(shop.rows) == ([] if expected else named)


def test_what_judges_a_share_judges_the_whole_catalogue(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(300)))
    synced(shop)
    shop.sql("ANALYZE product")
    shop.put(product("p0000", price="a lot"))
    shop.sql("INSERT INTO product SELECT 'extra', title, price, image, \"sellerId\", quantity FROM product LIMIT 1")
    quarantined = found(synced(shop, ids=["p0000"])[1])["quarantine_within_budget"]
    assert quarantined.severity is Severity.WARN, "one of one, but of 300 documents"
    extra = found(synced(shop, ids=["extra"])[1])["no_extra_products"]
    assert (extra.numbers["extra"], "extra" in shop.rows) == (1, True)
    synced(shop, ids=["extra"], extra="delete")
    assert "extra" not in shop.rows

    shop.sql("UPDATE product SET price = 1 WHERE id < 'p0150'")
    mapping = begin(shop, ids=ids(150))
    assert read_back.check_change(read_and_compare(mapping)).passed, "150 of 300 are half, not more"

    shop.remove(*ids(299))
    with pytest.raises(ChecksFailed, match="1 document in the collection, 300 at the last run"):
        read_and_compare(begin(shop, ids=["p0299"]))


def test_no_other_run_takes_a_part_for_the_whole(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(5)))
    read_and_compare(begin(shop))
    read_and_compare(begin(shop, ids=["p0000"]))
    assert begin(shop).diff().counts.missing == 5, "of the newest run that read everything"
    with pytest.raises(StalePlan, match="no source snapshot"):
        begin(shop, ids=["p0000"]).diff()


def test_a_plan_is_executed_with_the_products_that_it_was_made_for(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)))
    plan = dry_run(read_and_compare(begin(shop, dry_run=True, ids=["p0001"]))).plan_id
    with pytest.raises(ConfigurationError, match="made for the products p0001, and this run is for everything"):
        begin(shop, plan=plan).snapshot_both()
    synced(shop, plan=plan, ids=["p0001"])
    assert list(shop.rows) == ["p0001"]


def test_a_run_has_one_scope(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="either products or the changes"):
        begin(shop, ids=["a"], changes=True)
    with pytest.raises(ConfigurationError, match="a list of ids as the target has them"):
        begin(shop, ids=[])


def test_a_part_that_agrees_is_no_recovery_and_no_heartbeat(shop: Shop) -> None:
    checks = [CheckResult("target_matches_source", True, Severity.ERROR, {}, "")]
    run = FinishedRun("r", "product_sync", True, 1.0, checks=checks, counts={"inserted": 2}, loaded=True, scope="ids")
    assert not run.verified
    assert list(status_updates(run, "")) == []
    passed = list(status_updates(replace(run, scope="changes"), ""))
    assert [each.subject for each in passed] == ["changes/target_matches_source", "job/product_sync_changes"]
    assert not replace(run, scope="changes").verified
    metrics = RunMetrics()
    metrics.add(run)
    assert metrics.syncs["product"].rows["inserted"] == 2
    assert metrics.syncs["product"].jobs == {}
    metrics.add(replace(run, scope="changes"))
    assert list(metrics.syncs["product"].jobs) == ["product_sync_changes"]
    assert metrics.syncs["product"].checks == {}


def test_a_verified_run_of_everything_ends_the_alerts_of_passes_and_nothing_else_of_them() -> None:
    checks = [
        CheckResult("target_matches_source", True, Severity.ERROR, {}, ""),
        CheckResult("no_extra_products", False, Severity.WARN, {}, ""),
    ]
    run = FinishedRun("r", "product_sync", True, 1.0, checks=checks, loaded=True)
    levels = {each.subject: str(each.level) for each in status_updates(run, "")}
    assert levels == {
        "check/target_matches_source": "OK",
        "changes/target_matches_source": "OK",
        "check/no_extra_products": "WARN",
        "job/product_sync": "OK",
        "job/product_sync_changes": "OK",
    }
    for other in (replace(run, succeeded=False), replace(run, loaded=False)):
        assert not [each.subject for each in status_updates(other, "") if "changes" in each.subject]


def test_the_command_names_products_and_the_report_its_scope(market: Market) -> None:
    market.stock(products(20))
    made = market.run("sync", "--id", "p0003", "--id", "p0012", "--json").answer
    assert (made["scope"], made["compared"], made["inserted"], made["valid"]) == ("ids", 2, 2, True)
    assert (made["source_count"], made["quarantined"], made["drift_report"]) == (2, 0, None)
    assert sorted(market.rows()) == ["p0003", "p0012"]
    assert market.run("stats", "--json").answer["last_sync_at"] is None, "a part is no sync of the two sides"
    shown = market.run("sync", "--id", "p0003")
    assert "Compared: 1 named product. Both sides agree on them. Nothing else was compared." in shown.stdout
    assert "copy agrees" not in shown.stdout


def test_the_command_follows_the_changes_and_says_up_to_when(market: Market) -> None:
    market.stock(products(20))
    refused = market.run("sync", "--changes", "--json")
    assert (refused.status, refused.error["code"], refused.answer["scope"]) == (3, "changes_unavailable", "changes")
    full = market.run("sync", "--delay-ms", "0", "--json").answer
    assert (full["scope"], full["events"], full["unsettled"]) == ("everything", None, 0)
    market.stock([product("new")])
    market.unstock({"_id": "p0003"})
    made = market.run("sync", "--changes", "--settle-seconds", "0", "--json").answer
    assert (made["scope"], made["events"], made["compared"], made["inserted"], made["extra"]) == ("changes", 2, 2, 1, 1)
    assert (made["valid"], made["unsettled"], made["lag_s"]) == (True, 0, 0)
    assert made["full_proof_at"] == full["full_proof_at"]
    assert made["position_at"] > full["position_at"]
    shown = market.run("sync", "--changes")
    assert "Compared: 0 products that changed since" in shown.stdout
    assert "copy agrees" not in shown.stdout
