"""The steps of a run in shards: what they share, and what they do if they are repeated, end early or stop."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from product_sync.errors import ChecksFailed, StalePlan
from product_sync.load.result import LoadResult
from product_sync.pipeline import read_back, run_checks, sharded_run
from product_sync.pipeline.load_diff import load, loaded
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync.state import store
from product_sync.verify.checks import CheckResult
from product_sync_tests.pipeline.test_sync_run import begin, databases_of, read_and_compare
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]


def synced_by_steps(
    shop: Shop, is_repeated: bool = False, **settings: Any
) -> tuple[LoadResult, dict[str, CheckResult]]:
    """A run whose steps have nothing in common but their files. Those before the load are made twice, as a retry would,
    and if it ``is_repeated`` those of the load too."""
    run_id, databases = str(uuid4()), databases_of(shop)

    def step() -> SyncRun:
        return begin(shop, run_id=run_id, databases=databases, shards=3, quarantine_budget=0.5, **settings)

    shards = sharded_run.cut(step())
    for number in range(shards):
        sharded_run.read_and_diff(step(), number)
    sharded_run.read_and_diff(step(), 0)
    for _ in range(2):
        assert sharded_run.cut(step()) == shards
        sharded_run.gather(step())
        step().diff()
    attempts = range(1 + is_repeated)
    for number in range(sharded_run.begin_load(step())):
        for _ in attempts:
            sharded_run.load(step(), number)
    for number in range([sharded_run.settle(step()) for _ in attempts][-1]):
        sharded_run.verify(step(), number)
    judged = run_checks.check_result(step())
    return loaded(step()), {each.check: each for each in judged.check_results}


def test_rows_of_several_shards_that_wait_for_one_another_are_written_in_the_same_run(shop: Shop) -> None:
    shop.sql("ALTER TABLE product ADD UNIQUE (title)")
    names = ids(30)
    shop.put(*(product(name, title=f"{number}") for number, name in enumerate(names)))
    synced_by_steps(shop)
    turned = [product(name, title=f"{(number + 1) % 30}") for number, name in enumerate(names)]
    shop.put(*turned)
    made, checks = synced_by_steps(shop, is_repeated=True, accept_changes=True)
    assert (made.updated, made.excluded) == (30, 0), "a circle through all shards"
    assert checks["target_matches_source"].passed
    shop.put(product("p0000", title="7"))
    made, checks = synced_by_steps(shop)
    assert (made.updated, made.excluded) == (0, 1)
    assert "p0000 is to have the same title as the row p0006 has" in checks["target_matches_source"].description


def test_a_source_that_shrank_is_judged_by_the_sum_before_anything_is_written(shop: Shop) -> None:
    """`test_any_number_of_shards.py` has too many changes, and too many deletions."""
    shop.put(*(product(name) for name in ids(300)))
    synced_by_steps(shop)
    before = shop.fingerprint
    shop.remove(*ids(299))
    with pytest.raises(ChecksFailed, match="1 document read, 300 at the last run"):
        synced_by_steps(shop)
    assert shop.fingerprint == before


def test_a_load_that_stops_in_one_shard_stops_in_the_others(shop: Shop) -> None:
    shop.sql("ALTER TABLE product ADD CHECK (price < 500)")
    shop.put(*(product(name) for name in ids(30)))
    made, _ = synced_by_steps(shop, max_isolated_rows=4)
    assert made.stop is not None
    assert made.stop.code == "load_stopped"
    assert (made.quarantined, made.planned) == (5, 30)
    assert made.not_attempted_batches == 2


def test_shards_that_load_at_once_stop_the_load_if_the_database_refuses_too_many_rows_of_all(shop: Shop) -> None:
    shop.sql("ALTER TABLE product ADD CHECK (price < 500)")
    shop.put(*(product(name) for name in ids(30)))
    sync_run = read_and_compare(begin(shop, shards=3, max_isolated_rows=12))
    results = []
    for number in range(sharded_run.begin_load(sync_run)):
        assert sharded_run.load(sync_run, number).stop is None
        results.append(sync_run.files.shard(number).path(store.LOAD_RESULT))
        results[-1].rename(results[-1].with_suffix(".later"))  # the others began before it ended
    for path in results:
        path.with_suffix(".later").rename(path)
    sharded_run.settle(sync_run)
    made = loaded(sync_run)
    assert made.stop is not None
    assert made.stop.message == "The database refused 30 rows of all shards together."
    assert "every_batch_loaded" not in [each.check for each in run_checks.check_own_load(sync_run) if each.passed]


def test_a_run_of_some_products_has_no_shards(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(5)))
    sync_run = read_and_compare(begin(shop, ids=["p0001"], shards=3))
    assert not sync_run.files.has(store.CUT)


def test_a_step_that_is_repeated_reads_again(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(30)))
    sync_run = read_and_compare(begin(shop, shards=3))
    shop.put(product("new"))
    assert read_back.check_change(read_and_compare(sync_run)).passed
    assert load(sync_run).inserted == 31
    assert run_checks.check_result(sync_run).proven
    shop.sql("DELETE FROM product WHERE id = 'p0007'")
    assert run_checks.check_result(sync_run).check_results[0].numbers["missing_ids"] == ["p0007"]


def test_a_run_that_ends_in_the_middle_leaves_nothing_that_another_one_takes_for_whole(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(30)))
    stopped = begin(shop, shards=3)
    sharded_run.cut(stopped)
    sharded_run.read_and_diff(stopped, 0)
    with pytest.raises(StalePlan, match="no source snapshot"):
        begin(shop).diff()
    made, _ = synced_by_steps(shop)
    assert made.inserted == 30


def test_progress_is_that_of_the_whole_run(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(30)))
    told: list[Progress] = []
    begin(shop, shards=3, on_progress=told.append).snapshot_both()
    source = [each for each in told if each.stage == "read source"]
    assert [each.done for each in source] == sorted(each.done for each in source)
    assert (source[-1].done, source[-1].total, source[-1].ended) == (30, 30, True)
    assert not any(each.ended for each in source[:-1])
