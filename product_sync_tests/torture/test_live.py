"""A short version of the campaign under live events. Its judge finds planted harm and names who caused it."""

from __future__ import annotations

import pytest

from product_sync.embedded.servers import Servers
from product_sync_torture.live.campaign import play
from product_sync_torture.live.histories import CONSUMER, OURS, Fact, ShopHistory, Written, product, version_of
from product_sync_torture.live.judge import Run, judge_end, judge_reinserted, judge_runs, judge_writes
from product_sync_torture.live.repairs import Repairs, judge_repairs
from product_sync_torture.live.shop import CONSUMERS, Consumer, Traffic

RUN = Run(started=10.0, ended=20.0, settle_s=1.0)


@pytest.mark.parametrize("consumer", CONSUMERS[1:], ids=lambda consumer: consumer.name)
def test_no_harm_is_done_under_live_events(servers: Servers, consumer: Consumer) -> None:
    """The first consumer is in the next test, which has full syncs too."""
    played = play(servers, consumer, Traffic(400), seed=7)
    assert played.judged.violations == []
    counts = played.judged.counts
    assert counts["ours: insert"] > 0
    assert counts["ours: update"] + counts["said: conflicts"] > 0
    assert played.lost > 0


def test_no_harm_is_done_and_every_lost_event_is_repaired_in_time_while_changes_are_followed(servers: Servers) -> None:
    played = play(servers, CONSUMERS[0], Traffic(250), seed=7, follows=True)
    assert played.judged.violations == []
    assert played.repairs is not None
    assert played.repairs.delays_s
    assert played.judged.counts["watch: passes"] > 0


def shop_of(*facts: tuple[str, int | None, float]) -> ShopHistory:
    """Writes of the shop that took no time: product, version, when."""
    history = ShopHistory()
    for product_id, version, at in facts:
        history.add(product_id, Fact(version, at, at))
    return history


def ours(old: int | None, new: int | None, at: float = 15.0) -> Written:
    return Written(at, OURS, "a", old, new)


def consumers(old: int | None, new: int | None, at: float = 15.0) -> Written:
    return Written(at, CONSUMER, "a", old, new)


class TestWrites:
    SHOP = shop_of(("a", 1, 1.0), ("a", 2, 12.0), ("a", 3, 14.0))

    def faults(self, *entries: Written) -> list[str]:
        return judge_writes(self.SHOP, entries, [RUN]).violations

    def test_what_the_shop_held_while_the_run_was_reading_is_right(self) -> None:
        assert self.faults(ours(None, 1)) == []
        assert self.faults(consumers(None, 1, 2.0), ours(1, 2), ours(2, 3)) == []

    def test_an_update_to_an_older_version_is_found(self) -> None:
        assert "went back from version 3 to 2" in self.faults(consumers(None, 3), ours(3, 2))[0]

    def test_an_update_that_changes_nothing_is_found(self) -> None:
        assert "went back from version 3 to 3" in self.faults(ours(3, 3))[0]

    def test_a_version_that_comes_too_early_or_never_was_is_found(self) -> None:
        assert "did not hold" in self.faults(ours(1, 3, 13.0))[0]
        assert "did not hold" in self.faults(ours(1, 9))[0]

    def test_a_row_that_mixes_two_versions_is_found(self) -> None:
        row = {"id": "a", **product("a", 2), "price": product("a", 3)["price"]}
        mixed = version_of(row)
        assert mixed == -1
        assert "did not hold" in self.faults(Written(15.0, OURS, "a", 1, mixed))[0]

    def test_an_older_version_that_comes_back_after_a_deletion_is_found(self) -> None:
        entries = [consumers(None, 3, 14.5), consumers(3, None, 14.6), ours(None, 2)]
        assert "inserted again as version 2" in self.faults(*entries)[0]

    def test_the_deletion_of_a_living_product_is_found(self) -> None:
        assert "deleted although" in self.faults(ours(3, None))[0]

    def test_the_deletion_of_a_product_that_was_new_to_the_run_is_found(self) -> None:
        shop = shop_of(("a", 1, 11.0))
        assert "deleted although" in judge_writes(shop, [consumers(None, 1, 12.0), ours(1, None)], [RUN]).violations[0]

    def test_the_deletion_of_a_product_that_was_gone_for_a_moment_is_right(self) -> None:
        shop = shop_of(("a", 1, 1.0), ("a", None, 11.0))
        assert judge_writes(shop, [ours(1, None)], [RUN]).violations == []

    def test_what_the_consumer_turns_back_is_the_consumers(self) -> None:
        judged = judge_writes(self.SHOP, [consumers(3, 2)], [RUN])
        assert judged.violations == []
        assert judged.counts["consumer's: went back"] == 1


class TestRisen:
    SHOP = shop_of(("a", 1, 1.0), ("a", None, 12.0))
    INSERTED = ours(None, 1, 15.0)

    def faults(self, *entries: Written, event_at: float | None) -> list[str]:
        deletions = {} if event_at is None else {"a": event_at}
        return judge_reinserted(self.SHOP, entries, deletions).violations

    def test_a_deleted_product_that_rose_by_our_insert_is_found(self) -> None:
        assert "inserted again by the sync" in self.faults(self.INSERTED, event_at=13.0)[0]

    def test_it_is_found_also_where_a_later_run_has_removed_it(self) -> None:
        later = Written(25.0, f"{OURS} 2", "a", 1, None)
        assert "inserted again by the sync" in self.faults(self.INSERTED, later, event_at=13.0)[0]
        assert self.faults(self.INSERTED, later, event_at=26.0) == [], "its event was late"
        assert self.faults(self.INSERTED, later, event_at=None) == [], "its event was lost"

    def test_one_that_rose_by_an_event_or_was_never_deleted_is_not_ours(self) -> None:
        assert self.faults(self.INSERTED, consumers(1, 1), event_at=13.0) == []
        assert self.faults(self.INSERTED, event_at=None) == []

    def test_one_that_was_taken_back_is_not_left(self) -> None:
        assert self.faults(self.INSERTED, ours(1, None, 15.1), event_at=13.0) == []


class TestRuns:
    RED = Run(10.0, 20.0, 1.0, "checks_failed: a is changed", ("a",))
    SHOP = shop_of(("a", 1, 1.0), ("a", 2, 11.0))

    def test_a_run_that_is_red_for_a_stale_product_has_a_cause(self) -> None:
        judged = judge_runs(self.SHOP, [consumers(None, 1, 2.0)], [self.RED])
        assert judged.violations == []
        assert judged.counts["runs: products that were stale"] == 1

    def test_a_run_that_is_red_for_a_product_that_agreed_is_found(self) -> None:
        assert judge_runs(self.SHOP, [consumers(1, 2, 12.0)], [self.RED]).violations

    def test_a_run_that_is_red_and_names_nothing_is_found(self) -> None:
        assert judge_runs(self.SHOP, [], [Run(10.0, 20.0, 1.0, "lost its way")]).violations


class TestEnd:
    SHOP = shop_of(("a", 1, 1.0), ("b", 2, 1.0), ("b", None, 2.0))

    def test_the_last_version_of_all_products_is_what_both_sides_hold(self) -> None:
        assert judge_end(self.SHOP, {"a": 1}, {"a": 1}).violations == []

    @pytest.mark.parametrize("target", [{}, {"a": 9}, {"a": 1, "b": 2}, {"a": -1}])
    def test_a_row_too_few_too_many_or_of_another_version_is_found(self, target: dict[str, int | None]) -> None:
        assert len(judge_end(self.SHOP, {"a": 1}, target).violations) == 1


class TestRepairs:
    SHOP = shop_of(("a", 1, 1.0), ("a", 2, 12.0), ("a", 3, 30.0), ("b", 4, 1.0), ("b", None, 12.0))

    def judged(self, product_id: str, *entries: Written, bound_s: float = 5.0) -> Repairs:
        lost = [(product_id, self.SHOP.facts[product_id][1])]
        return judge_repairs(self.SHOP, entries, lost, bound_s=bound_s, ended=40.0)

    def test_the_time_to_the_repair_is_counted_from_the_write_of_the_shop(self) -> None:
        found = self.judged("a", consumers(None, 1, 2.0), ours(1, 2, 14.0))
        assert (found.delays_s, found.violations, found.distribution) == ([2.0], [], "2.0 / 2.0 / 2.0")

    def test_a_repair_that_comes_too_late_or_never_is_found(self) -> None:
        assert "stood for 8.0 s" in self.judged("a", ours(1, 2, 20.0)).violations[0]
        assert "stood for 18.0 s" in self.judged("a", ours(1, 3, 31.0)).violations[0]
        row = Written(2.0, CONSUMER, "b", None, 4)
        assert "stood for 28.0 s" in self.judged("b", row).violations[0]

    def test_a_write_of_the_shop_before_the_repair_ends_the_wait(self) -> None:
        found = self.judged("a", ours(1, 3, 31.0), bound_s=20.0)
        assert (found.superseded, found.delays_s, found.violations) == (1, [], [])

    def test_a_lost_event_that_left_no_difference_needs_no_repair(self) -> None:
        found = self.judged("b")
        assert (found.harmless, found.violations) == (1, [])
