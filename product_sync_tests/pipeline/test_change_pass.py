"""A pass repairs what changed since the last proof, keeps what it could not settle, and is repeated after a kill."""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from product_sync.errors import ChangesLost, ChangesUnavailable
from product_sync.pipeline import change_pass, read_back, run_checks
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.run_checks import RunChecks
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.clock import SYSTEM_TIMING
from product_sync.runtime.progress import Progress
from product_sync.schema.definition import load_definition
from product_sync.state.change_position import StoredPosition, read_position
from product_sync.targets.postgres.writer import PostgresWriter
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
    for _ in range(2):
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


def test_what_the_database_refuses_stays_unsettled_until_it_is_accepted(shop: Shop) -> None:
    shop.put(product("a"))
    synced(shop)
    shop.sql("ALTER TABLE product ADD CONSTRAINT not_negative CHECK (price >= 0)")
    shop.put(product("a", price=-1))
    for _ in range(2):
        synced(shop, changes=True, quarantine_budget=1.0)
        assert unsettled(shop) == {"a": "refused"}
    shop.sql("ALTER TABLE product DROP CONSTRAINT not_negative")
    synced(shop, changes=True)
    assert (shop.rows["a"][0], unsettled(shop)) == (-1, {})


def test_what_differs_in_the_end_stays_unsettled_since_it_was_first_seen(shop: Shop) -> None:
    shop.put(product("a"), product("b", title="Taken"))
    synced(shop)
    shop.sql("ALTER TABLE product ADD CONSTRAINT one_title UNIQUE (title)")
    shop.put(product("new", title="Taken"))
    _, judged = synced(shop, changes=True)
    assert not judged.check_results[0].passed
    assert unsettled(shop) == {"new": "still_differs"}
    first = stored(shop)
    shop.put(product("a", price=3))
    synced(shop, changes=True)
    assert stored(shop).unsettled == first.unsettled, "since then"
    assert stored(shop).position.time > first.position.time, "the others are compared"
    shop.put(product("b"))
    synced(shop, changes=True)
    assert (shop.rows["new"][1], unsettled(shop)) == ("Taken", {})


def test_what_changes_during_a_full_run_is_compared_by_the_pass_after_it(shop: Shop) -> None:
    shop.put(product("a"), product("b"))

    def meanwhile(progress: Progress) -> None:
        if progress.stage == "load":
            shop.put(product("a", price=8))
        if progress.stage == "confirm differences":
            shop.put(product("b", price=9))

    sync_run = read_and_compare(begin(shop, on_progress=meanwhile))
    load(sync_run)
    shop.sql("UPDATE product SET price = 9 WHERE id = 'b'")
    assert run_checks.check_result(sync_run).proven, "what is on its way is no failure"
    assert unsettled(shop) == {"b": "in_flight"}
    sync_run, _ = synced(shop, changes=True)
    assert list(change_pass.of(sync_run.files).scope.texts) == ["a", "b"]
    assert (shop.rows["a"][0], shop.rows["b"][0], unsettled(shop)) == (8, 9, {})


def test_an_event_that_is_on_its_way_is_waited_for_once(shop: Shop) -> None:
    shop.put(product("a"), product("b"))
    synced(shop)
    waited: list[Progress] = []

    def event_arrives(progress: Progress) -> None:
        if progress.stage == "wait for events" and not waited:
            waited.append(progress)
            shop.sql("UPDATE product SET price = 7 WHERE id = 'a'")

    settings: dict[str, Any] = {"changes": True, "settle_seconds": 2.0, "on_progress": event_arrives}
    shop.put(product("a", price=7))
    assert begun(shop, **settings).diff().counts.changed == 0
    assert waited
    waited.clear()
    begun(shop, **settings)
    assert not waited, "nothing differs"


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)], ids=["set back", "set ahead"])
def test_a_clock_of_this_machine_that_jumps_before_a_pass_changes_no_age_and_no_lag(
    shop: Shop, jump: timedelta
) -> None:
    shop.put(product("a"), product("b"))
    synced(shop)
    before = stored(shop)
    shop.put(product("a", price=7))
    jumped = replace(SYSTEM_TIMING, now=lambda: datetime.now(UTC) + jump)
    for settle_seconds, young in ((3_600.0, ["a"]), (0.0, [])):
        sync_run = begin(shop, changes=True, settle_seconds=settle_seconds, timing=jumped)
        change_pass.begin(sync_run)
        made = change_pass.of(sync_run.files)
        assert (made.events, list(made.young), made.lag_s) == (1, young, 0.0)
    load(read_and_compare(sync_run))
    run_checks.check_result(sync_run)
    assert (shop.rows["a"][0], unsettled(shop)) == (7, {})
    assert 0.0 <= (change_pass.longest_repair_s(sync_run, {}) or 0.0) < 60.0
    after = stored(shop)
    assert before.position.time < after.position.time
    assert (after.position.time.at - before.position.time.at) < timedelta(minutes=5), "it is the time of the source"


def begun(shop: Shop, **settings: Any) -> SyncRun:
    sync_run = begin(shop, **settings)
    sync_run.snapshot_both()
    return sync_run


def test_two_documents_with_one_text_are_both_looked_at_when_one_changes(shop: Shop) -> None:
    shop.put(product("5"))
    synced(shop)
    shop.put(product("x", _id=5))
    sync_run, _ = synced(shop, changes=True, quarantine_budget=1.0)
    assert read_back.quarantine_summary(sync_run)[1] == {"duplicate_id": 2}
    shop.remove(5)
    synced(shop, changes=True)
    assert shop.quarantine == {}


@pytest.mark.parametrize(
    "raw",
    [
        bson.encode(product("QQQ")).replace(b"QQQ", b"\xff\xfeQ"),
        bson.encode(product("x", _id={"aa": 1, "ab": 2})).replace(b"ab", b"aa"),
    ],
    ids=["bytes that are not UTF-8", "a name that stands twice"],
)
def test_a_document_whose_id_cannot_be_decoded_enters_and_leaves_the_quarantine(shop: Shop, raw: bytes) -> None:
    shop.put(product("a"))
    synced(shop)
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        products = client.get_default_database()["products"]
        products.insert_one(RawBSONDocument(raw))
        synced(shop, changes=True, quarantine_budget=1.0)
        assert len(shop.quarantine) == 1
        products.delete_many({"_id": {"$ne": "a"}})
    synced(shop, changes=True)
    assert shop.quarantine == {}


def test_a_product_that_no_longer_matches_the_filter_is_extra_whatever_its_event_says(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_definition()
    cheap = whole.model_copy(update={"source": whole.source.model_copy(update={"filter": {"price": {"$lt": 1000}}})})
    monkeypatch.setattr("product_sync_tests.pipeline.test_sync_run.load_definition", lambda: cheap)
    shop.put(product("a"), product("b"))
    synced(shop)
    shop.put(product("a", price=2000), product("b", price=1))
    sync_run, judged = synced(shop, changes=True)
    assert (sync_run.files.read_json("diff.json") or {})["counts"]["extra"] == 1
    assert (shop.rows["a"][0], shop.rows["b"][0]) == (500, 1)
    assert unsettled(shop) == {}, "the check of extra rows reports it"
    assert not judged.check_results[1].passed


@pytest.mark.parametrize("changes", [False, True])
def test_a_row_that_an_event_has_written_before_the_run_could_is_left_to_the_next_pass(
    shop: Shop, changes: bool
) -> None:
    """A late event has written an older value, and nothing in the source will change again. Only with an extra row
    has a full run a proof, and a position."""
    shop.put(*(product(name) for name in ids(50)))
    synced(shop)
    shop.remove("p0001", "p0002")
    overtaken = ["p0001"]
    if changes:
        shop.put(product("p0003", price=7), product("new"))
        overtaken += ["p0003", "new"]
    settings: dict[str, Any] = {"extra": "delete", "max_delete_share": 1.0}
    sync_run = read_and_compare(begin(shop, changes=changes, **settings))
    shop.sql("UPDATE product SET price = 1 WHERE id = ANY (%s)", overtaken)
    if changes:
        shop.sql("INSERT INTO product VALUES ('new', 'The new', 1, 'i.jpg', 's1', 1)")
    result = load(sync_run)
    assert (result.deleted, result.conflicts, sorted(result.overtaken)) == (1, len(overtaken), sorted(overtaken))
    run_checks.check_result(sync_run)
    assert unsettled(shop) == dict.fromkeys(overtaken, "in_flight")
    synced(shop, changes=True, **settings)
    assert not shop.rows.keys() & {"p0001", "p0002"}
    if changes:
        assert (shop.rows["new"][0], shop.rows["p0003"][0]) == (500, 7)
    assert unsettled(shop) == {}


def test_a_pass_that_is_killed_anywhere_is_repeated_and_skips_nothing(shop: Shop) -> None:
    """It dies after each file that it replaces and each transaction that it commits, and each time another event was
    lost before."""
    shop.put(*(product(name) for name in ids(60)))
    synced(shop)
    planted, kills = 0, 0
    while True:
        shop.put(product(f"p{planted:04}", price=planted))
        planted += 1
        before = stored(shop).position.time
        child = os.fork()
        if child == 0:
            _die_after(kills)
            synced(shop, changes=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        agree = [name for name in ids(planted) if shop.rows[name][0] == int(name[1:])]
        if stored(shop).position.time > before:
            assert len(agree) == planted, "the position has moved only behind compared work"
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    assert kills > 8
    assert len(agree) == planted
    assert unsettled(shop) == {}


def _die_after(calls: int) -> None:
    """Kill this process behind the call of that number."""
    number = itertools.count()

    def dying(call: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            if next(number) == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    PostgresWriter.write = dying(PostgresWriter.write)  # type: ignore[method-assign]
