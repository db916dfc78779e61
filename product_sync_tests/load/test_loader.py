"""The load keeps its promises on a bad day: against fakes that fail, one call at a time, as databases do."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from bson import ObjectId

from product_sync.errors import EveryBatchWouldFail, SourceReadError, SyncAlreadyRunning, TransientError
from product_sync.load.batching import MAX_BATCH_BYTES
from product_sync.load.deletion import DeletionFacts
from product_sync.load.loader import LoadPolicy
from product_sync.load.pacing import FixedPacing
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.progress import Progress
from product_sync.runtime.row_log import LOGGED_ROWS
from product_sync_tests.load.bench import Bench, document, make_bench, row


def ids(count: int) -> list[str]:
    return [f"p{number:04}" for number in range(count)]


def with_missing(folder: Path, count: int) -> Bench:
    bench = make_bench(folder, [document(name) for name in ids(count)])
    bench.compare()
    return bench


def gone_away() -> TransientError:
    return TransientError("server closed the connection", connection_lost=True)


def test_missing_products_are_inserted_and_changed_ones_updated(tmp_path: Path) -> None:
    bench = make_bench(
        tmp_path,
        [document("a"), document("b", price=5), document("c")],
        [row("b"), row("c")],
    )
    bench.compare()
    result = bench.load()
    assert (result.planned, result.inserted, result.updated, result.failed_batches) == (2, 1, 1, 0)
    assert bench.target.rows == {"a": row("a"), "b": row("b", price=5), "c": row("c")}


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document(name) for name in ids(50)], [row(name) for name in ids(49)])
    bench.sync()
    assert [batch.num_rows for batch in bench.target.committed] == [1]


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    bench.load()
    bench.target.committed.clear()
    bench.compare()
    result = bench.load()
    assert (result.planned, result.batches, bench.target.committed) == (0, 0, [])


def test_each_batch_is_a_transaction_of_its_own(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    result = bench.load(batch_size=10)
    assert [batch.num_rows for batch in bench.target.committed] == [10, 10, 5]
    assert result.batches == 3


def test_the_load_pauses_between_batches_and_not_after_the_last(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 30)
    bench.load(batch_size=10, pause_ms=250)
    assert bench.time.sleeps == [0.25, 0.25]


def test_a_pacing_hears_how_long_the_target_worked_and_how_long_it_rested(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 20)
    heard: list[tuple[int, float, float]] = []

    class Listening(FixedPacing):
        pausing = True

        def batch_done(self, rows: int, seconds: float, rested_s: float = 0.0) -> None:
            heard.append((rows, seconds, rested_s))

    bench.target.script.on("target.write", lambda: bench.time.pass_(0.25), gone_away())
    bench.source.script.on("source.existing", lambda: bench.time.pass_(8))
    bench.load(pacing=Listening(10, 0))
    waited_s = sum(bench.time.sleeps)
    assert waited_s, "it waited before it tried again"
    assert heard == [(10, 0.25, 8.0), (10, 0.0, pytest.approx(waited_s))]


def test_progress_is_told_after_each_batch(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 25)
    heard: list[Progress] = []
    bench.load(batch_size=10, pause_ms=1000, on_progress=heard.append)
    assert [(progress.done, progress.total) for progress in heard] == [(10, 25), (20, 25), (25, 25)]
    assert heard[1].percent == 80.0
    assert heard[1].rate == 20.0
    assert heard[1].seconds_left == 0.25


def test_a_failed_batch_does_not_stop_the_next(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 30)
    bench.target.script.on("target.write", None, TransientError("deadlock detected", sqlstate="40P01"))
    result = bench.load(batch_size=10, policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    assert (result.batches, result.failed_batches, result.inserted, result.stop) == (3, 1, 20, None)
    assert set(bench.target.rows) == {*ids(30)} - {*ids(20)[10:]}


def test_a_failed_batch_is_logged_with_its_number_its_keys_and_the_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = with_missing(tmp_path, 4)
    bench.target.script.on("target.write", None, TransientError("deadlock detected", sqlstate="40P01"))
    with caplog.at_level(logging.ERROR):
        result = bench.load(batch_size=2, policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    [message] = [record.getMessage() for record in caplog.records]
    assert "Batch 2 of 2 rows" in message
    assert "p0002, p0003" in message
    assert "deadlock detected" in message
    [failure] = result.failures
    assert (failure.batch, failure.keys) == (2, ("p0002", "p0003"))


def test_a_transient_error_is_retried_on_the_same_connection(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 10)
    bench.target.script.on("target.write", TransientError("deadlock detected", sqlstate="40P01"))
    result = bench.load()
    assert (result.inserted, result.retries, result.failed_batches) == (10, 1, 0)
    assert bench.target.script.calls["target.reconnect"] == 0


def test_a_lost_connection_is_opened_again_before_the_retry(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 10)
    bench.target.script.on("target.write", gone_away())
    bench.target.script.on("target.reconnect", gone_away(), gone_away())
    result = bench.load()
    assert (result.inserted, result.retries, result.failed_batches) == (10, 3, 0)


def test_the_batch_after_one_that_gave_up_reconnects_first(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 20)
    bench.target.script.on("target.write", gone_away())
    result = bench.load(policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    assert (result.failed_batches, result.inserted) == (1, 10)


@pytest.mark.parametrize("committed", [True, False])
def test_a_batch_whose_commit_answer_was_lost_is_written_once(tmp_path: Path, committed: bool) -> None:
    bench = with_missing(tmp_path, 10)
    bench.target.lose_commit_answer(committed=committed)
    bench.target.script.on("target.happened", gone_away())
    result = bench.load()
    assert (result.inserted, result.conflicts, result.failed_batches) == (10, 0, 0)
    assert len(bench.target.committed) == 1
    assert bench.target.script.calls["target.write"] == (1 if committed else 2)


def test_one_bad_row_costs_one_row(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 20)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "p0007" else None
    result = bench.load()
    assert (result.inserted, result.quarantined, result.failed_batches) == (19, 1, 0)
    assert bench.load_rejects() == {"p0007": ["refused_by_database"]}


def test_each_half_of_a_bad_batch_is_a_transaction_of_its_own(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 8)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "p0000" else None
    bench.load()
    assert [batch.num_rows for batch in bench.target.committed] == [1, 2, 4]


def test_too_many_refused_rows_stop_the_run_and_only_the_first_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = with_missing(tmp_path, 40)
    bench.target.refuses = lambda _: "price_is_fair"
    with caplog.at_level(logging.WARNING):
        result = bench.load(policy=LoadPolicy(isolated_rows=12))
    about_rows = [record.getMessage() for record in caplog.records if "Row" in record.getMessage()]
    assert [" goes to the quarantine: " in line for line in about_rows] == [True] * LOGGED_ROWS
    assert caplog.text.count("More rows were refused or kept. They are counted") == 1
    assert result.stop is not None
    assert result.stop.code == "load_stopped"
    assert result.quarantined == 13
    assert (result.batches, result.failed_batches, result.not_attempted_batches) == (2, 1, 2)


def test_an_error_that_every_batch_would_meet_stops_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 40)
    bench.target.script.on(
        "target.write", None, EveryBatchWouldFail("No space left.", sqlstate="53100", hint="Free some.")
    )
    result = bench.load()
    assert (result.inserted, result.failed_batches, result.not_attempted_batches) == (10, 1, 2)
    assert result.stop is not None
    assert (result.stop.message, result.stop.hint) == ("No space left.", "Free some.")
    assert bench.target.script.calls["target.write"] == 2


def test_five_failing_batches_in_a_row_stop_the_run(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 80)
    fault = TransientError("canceling statement due to lock timeout", sqlstate="55P03")
    bench.target.script.on("target.write", fault, None, *[fault] * 5)
    result = bench.load(policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    assert (result.batches, result.failed_batches, result.not_attempted_batches) == (7, 6, 1)
    assert result.stop is not None
    assert "lock timeout" in result.stop.message


def test_a_lock_that_another_sync_took_meanwhile_stops_the_run(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 20)
    bench.target.script.on("target.write", gone_away())
    bench.target.script.on("target.reconnect", SyncAlreadyRunning("Another sync runs.", holder="pid 7"))
    result = bench.load()
    assert result.stop is not None
    assert (result.stop.code, result.inserted, result.not_attempted_batches) == ("already_running", 0, 1)


def test_a_source_that_cannot_be_read_again_fails_the_batch_and_writes_nothing(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.script.on("source.fetch", SourceReadError("no primary"))
    result = bench.load()
    assert (result.failed_batches, result.updated, bench.target.committed) == (1, 0, [])


def test_an_update_writes_what_the_source_holds_now(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.put(document("a", price=6))
    bench.load()
    assert bench.target.rows["a"]["price"] == 6


def test_a_newer_row_of_the_target_is_never_turned_back(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.target.script.on("target.write", lambda: bench.target.rows["a"].update(price=7))
    result = bench.load()
    assert bench.target.rows["a"]["price"] == 7
    assert (result.updated, result.conflicts, result.quarantined) == (0, 1, 0)


def test_a_product_that_went_back_to_the_targets_value_is_a_conflict(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.put(document("a"))
    result = bench.load()
    assert (result.updated, result.conflicts, bench.target.committed) == (0, 1, [])


def test_a_changed_product_that_has_gone_is_a_conflict(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.remove("a")
    result = bench.load()
    assert (result.updated, result.conflicts, bench.target.committed) == (0, 1, [])


def test_a_row_that_appeared_meanwhile_is_left_alone(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 1)
    bench.target.rows["p0000"] = row("p0000", price=3)
    result = bench.load()
    assert (result.inserted, result.conflicts, result.quarantined) == (0, 1, 0)
    assert bench.target.rows["p0000"]["price"] == 3


def test_inserts_of_a_fresh_snapshot_are_not_read_again(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 10)
    bench.load()
    assert bench.source.script.calls["source.fetch"] == 0


@pytest.mark.parametrize("seconds", [61.0, -3_600.0], ids=["old", "a clock that was set back"])
def test_inserts_of_an_old_snapshot_are_read_again(tmp_path: Path, seconds: float) -> None:
    bench = with_missing(tmp_path, 3)
    bench.time.pass_(seconds)
    bench.source.put(document("p0001", price=9))
    bench.source.remove("p0002")
    result = bench.load()
    assert bench.target.rows == {"p0000": row("p0000"), "p0001": row("p0001", price=9)}
    assert (result.inserted, result.conflicts) == (2, 1)


def test_a_document_that_became_impossible_to_copy_goes_to_the_quarantine(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=5)], [row("a")])
    bench.compare()
    bench.source.put(document("a", price="5"))
    result = bench.load()
    assert (result.quarantined, result.conflicts, bench.target.committed) == (1, 0, [])
    assert bench.load_rejects() == {"a": ["wrong_type"]}


def test_a_product_deleted_around_its_insert_is_taken_back(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 3)
    bench.source.script.on("source.existing", lambda: bench.source.remove("p0001"))
    result = bench.load()
    assert set(bench.target.rows) == {"p0000", "p0002"}
    assert (result.inserted, result.taken_back) == (3, 1)
    assert [batch.deletes.num_rows for batch in bench.target.committed] == [0, 1]


def test_what_was_written_since_the_insert_is_not_taken_back(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 1)

    def an_event_comes() -> None:
        bench.source.remove("p0000")
        bench.target.rows["p0000"]["price"] = 3

    bench.source.script.on("source.existing", an_event_comes)
    result = bench.load()
    assert bench.target.rows["p0000"]["price"] == 3
    assert result.taken_back == 0


def test_without_the_right_to_delete_the_row_stays_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = with_missing(tmp_path, 20)
    bench.target.may_delete = False
    bench.source.script.on("source.existing", lambda: bench.source.remove("p0001"))
    result = bench.load()
    assert (result.inserted, result.taken_back, result.kept_undeletable, result.stop) == (20, 0, 1, None)
    assert "p0001" in caplog.text


def test_a_row_that_a_cart_references_already_is_not_taken_back(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 2)
    bench.target.referenced = {"p0000"}

    def both_go() -> None:
        bench.source.remove("p0000")
        bench.source.remove("p0001")

    bench.source.script.on("source.existing", both_go)
    result = bench.load()
    assert set(bench.target.rows) == {"p0000"}
    assert (result.taken_back, result.kept_referenced) == (1, 1)


@pytest.mark.parametrize("rows", [[], [row("p0000", price=1)]], ids=["insert", "update"])
def test_a_row_that_a_trigger_swallows_is_quarantined_and_not_called_a_conflict(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    bench = make_bench(tmp_path, [document("p0000"), document("p0001")], rows)
    bench.compare()
    bench.target.swallows = {"p0000"}
    result = bench.load()
    assert (result.inserted, result.quarantined, result.conflicts) == (1, 1, 0)
    assert bench.load_rejects() == {"p0000": ["suppressed_by_database"]}


def test_a_row_that_came_and_went_while_we_inserted_is_a_conflict(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 1)
    bench.target.rows["p0000"] = row("p0000")

    def a_delete_event_comes() -> None:
        del bench.target.rows["p0000"]
        bench.source.remove("p0000")

    bench.target.script.on("target.fetch", a_delete_event_comes)
    result = bench.load()
    assert (result.conflicts, result.quarantined) == (1, 0)


def test_a_refused_row_is_tried_again_last_and_apart_from_the_others(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 12)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "p0000" else None
    bench.load()
    bench.merge_quarantine()
    bench.target.rows.clear()
    bench.target.committed.clear()
    bench.target.refuses = lambda _: None
    counts = bench.compare()
    assert (counts.missing, counts.refused) == (11, 1)
    result = bench.load(batch_size=100)
    assert [batch.inserts["id"].to_pylist() for batch in bench.target.committed] == [ids(12)[1:], ["p0000"]]
    assert result.quarantined == 0


def test_refused_rows_that_the_load_did_not_get_to_stay_in_quarantine(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 12)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "p0000" else None
    bench.load()
    bench.merge_quarantine()
    bench.target.rows.clear()
    bench.compare()
    bench.target.script.on("target.write", EveryBatchWouldFail("No space left.", sqlstate="53100"))
    result = bench.load(batch_size=100)
    assert [source_id.text for source_id in result.untried] == ["p0000"]
    bench.merge_quarantine()
    assert bench.compare().refused == 1


def test_refused_rows_whose_batch_failed_stay_in_quarantine(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 2)
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "p0000" else None
    bench.load()
    bench.merge_quarantine()
    assert bench.compare().refused == 1
    bench.target.script.on("target.write", TransientError("deadlock detected", sqlstate="40P01"))
    result = bench.load(policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    assert (result.failed_batches, [source_id.text for source_id in result.untried]) == (1, ["p0000"])
    bench.merge_quarantine()
    assert bench.compare().refused == 1


def test_a_cancelled_load_has_counted_what_it_did(tmp_path: Path) -> None:
    bench = with_missing(tmp_path, 30)
    bench.target.script.on("target.write", None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.load()
    assert (bench.result.inserted, bench.result.batches) == (10, 2)
    assert len(bench.target.rows) == 10


def test_extra_rows_are_left_alone_unless_deletion_is_asked_for(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a")], [row("a"), row("x")])
    bench.compare()
    result = bench.load()
    assert (result.planned, result.batches, result.deleted) == (0, 0, 0)
    assert set(bench.target.rows) == {"a", "x"}


def facts(extra: int, target_count: int = 1_000) -> DeletionFacts:
    return DeletionFacts(extra, target_count, source_complete=True, cascading_foreign_keys=())


def test_extra_rows_are_deleted_on_demand_after_all_others(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a"), document("b")], [row("a"), row("x"), row("y")])
    bench.compare()
    result = bench.load(deletion_facts=facts(2))
    assert (result.planned, result.inserted, result.deleted) == (3, 1, 2)
    assert [batch.deletes.num_rows for batch in bench.target.committed] == [0, 2]
    assert set(bench.target.rows) == {"a", "b"}


def test_an_extra_row_that_a_cart_references_stays(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a")], [row("a"), *(row(name) for name in ids(5))])
    bench.compare()
    bench.target.referenced = {"p0003"}
    result = bench.load(deletion_facts=facts(5))
    assert (result.deleted, result.kept_referenced, result.failed_batches) == (4, 1, 0)
    assert set(bench.target.rows) == {"a", "p0003"}


def test_an_extra_row_that_changed_since_it_was_read_stays(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a")], [row("a"), row("x")])
    bench.compare()
    bench.target.rows["x"]["quantity"] = 9
    result = bench.load(deletion_facts=facts(1))
    assert (result.deleted, result.conflicts) == (0, 1)


def test_a_product_that_came_back_as_another_type_of_id_is_not_deleted(tmp_path: Path) -> None:
    hexadecimal = "507f1f77bcf86cd799439011"
    bench = make_bench(tmp_path, [document("a")], [row("a"), row(hexadecimal)])
    bench.compare()
    bench.source.put(document(ObjectId(hexadecimal)))
    result = bench.load(deletion_facts=facts(1))
    assert (result.deleted, result.conflicts) == (0, 1)
    assert hexadecimal in bench.target.rows


def test_too_many_extra_rows_are_not_deleted_and_the_reason_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(tmp_path, [document("a")], [row("a"), row("x")])
    bench.compare()
    result = bench.load(deletion_facts=facts(1, target_count=2))
    assert (result.planned, result.deleted) == (0, 0)
    assert result.no_deletion_because is not None
    assert "5 %" in result.no_deletion_because
    assert result.no_deletion_because in caplog.text


class TestWithoutPauses:
    """The next batch is prepared, and the last one followed up, while one is written."""

    @staticmethod
    def changed(folder: Path, count: int) -> Bench:
        bench = make_bench(folder, [document(name, price=5) for name in ids(count)], [row(name) for name in ids(count)])
        bench.compare()
        return bench

    def test_the_next_batch_is_read_again_while_one_is_written(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 20)
        is_read = threading.Event()
        bench.source.script.on("source.fetch", None, is_read.set)
        bench.target.script.on("target.write", lambda: expect(is_read))
        assert bench.load(batch_size=10).updated == 20

    def test_a_row_of_many_megabytes_is_read_again_only_when_the_one_before_it_is_written(self, tmp_path: Path) -> None:
        wide = "x" * (MAX_BATCH_BYTES + 1)
        bench = make_bench(tmp_path, [document(name, title=wide) for name in ids(2)], [row(name) for name in ids(2)])
        bench.compare()
        is_read, was_early = threading.Event(), []
        bench.source.script.on("source.fetch", None, is_read.set)
        # Time enough to read the second row, if it were read now.
        bench.target.script.on("target.write", lambda: was_early.append(is_read.wait(1)))
        assert bench.load().updated == 2
        assert was_early == [False]
        assert is_read.is_set()

    def test_what_was_inserted_is_looked_up_while_the_next_batch_is_written(self, tmp_path: Path) -> None:
        bench = with_missing(tmp_path, 20)
        is_written = threading.Event()
        bench.source.script.on("source.all_exist", lambda: expect(is_written))
        bench.target.script.on("target.write", None, is_written.set)
        result = bench.load(batch_size=10)
        assert (result.inserted, result.failed_batches) == (20, 0)

    def test_with_a_pause_each_batch_is_read_written_and_looked_up_before_the_next(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 2)
        bench.source.put(document("p0002"))
        bench.source.put(document("p0003"))
        bench.compare()
        bench.target.script = bench.source.script
        bench.source.script.log.clear()
        # Time enough for whoever would go ahead.
        bench.target.script.on("target.write", *[partial(time.sleep, 0.05)] * 4)
        bench.load(batch_size=1, pause_ms=1)
        insert, update = ["target.write", "source.all_exist", "source.existing"], ["source.fetch", "target.write"]
        assert bench.source.script.log == [*insert, *insert, *update, *update]

    def test_a_product_that_goes_while_it_is_inserted_is_taken_back_though_the_next_batch_is_written(
        self, tmp_path: Path
    ) -> None:
        bench = with_missing(tmp_path, 30)
        bench.target.script.on("target.write", None, lambda: bench.source.remove("p0003"))
        bench.source.script.on("source.all_exist", lambda: bench.source.remove("p0002"))
        result = bench.load(batch_size=10)
        assert (result.inserted, result.taken_back, result.failed_batches) == (30, 2, 0)
        assert set(bench.target.rows) == {*ids(30)} - {"p0002", "p0003"}

    def test_a_look_that_fails_is_the_failure_of_its_own_batch(self, tmp_path: Path) -> None:
        bench = with_missing(tmp_path, 6)
        bench.source.script.on("source.all_exist", None, SourceReadError("no primary"))
        result = bench.load(batch_size=2)
        assert (result.batches, result.inserted, result.failed_batches, result.stop) == (3, 6, 1, None)
        [failure] = result.failures
        assert (failure.batch, failure.keys) == (2, ("p0002", "p0003"))

    def test_a_batch_that_cannot_be_read_again_fails_alone(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 6)
        bench.source.script.on("source.fetch", None, SourceReadError("no primary"))
        result = bench.load(batch_size=2)
        assert (result.batches, result.updated, result.failed_batches, result.stop) == (3, 4, 1, None)
        assert [(failure.batch, failure.keys) for failure in result.failures] == [(2, ("p0002", "p0003"))]

    def test_five_looks_in_a_row_that_fail_stop_the_run(self, tmp_path: Path) -> None:
        bench = with_missing(tmp_path, 20)
        bench.source.script.on("source.all_exist", *[SourceReadError("no primary")] * 20)
        result = bench.load(batch_size=2)
        assert result.stop is not None
        assert "5 batches in a row failed" in result.stop.message
        # The sixth batch was being written when the look of the fifth failed.
        assert (result.batches, result.failed_batches, result.not_attempted_batches) == (6, 6, 4)
        assert [failure.batch for failure in result.failures] == [1, 2, 3, 4, 5, 6]

    def test_failures_count_in_the_order_of_the_batches(self, tmp_path: Path) -> None:
        """The second batch fails before the check after the first commit succeeds: both count as consecutive."""
        bench = with_missing(tmp_path, 8)
        fault = TransientError("canceling statement due to lock timeout", sqlstate="55P03")
        bench.target.script.on("target.write", None, fault, fault)
        result = bench.load(batch_size=2, policy=LoadPolicy(failures_in_row=2, retry=RetryPolicy(total_s=0)))
        assert result.stop is not None
        assert (result.batches, result.failed_batches, result.not_attempted_batches) == (3, 2, 1)

    def test_a_batch_that_succeeds_ends_the_row_also_where_nothing_is_looked_up(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 8)
        fault = TransientError("canceling statement due to lock timeout", sqlstate="55P03")
        bench.target.script.on("target.write", fault, None, fault)
        result = bench.load(batch_size=2, policy=LoadPolicy(failures_in_row=2, retry=RetryPolicy(total_s=0)))
        assert (result.batches, result.failed_batches, result.stop) == (4, 2, None)

    def test_after_a_stop_nothing_more_is_read(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 20)
        bench.target.script.on(
            "target.write", EveryBatchWouldFail("No space left.", sqlstate="53100", hint="Free some.")
        )
        result = bench.load(batch_size=2)
        assert (result.batches, result.not_attempted_batches) == (1, 9)
        assert bench.source.script.calls["source.fetch"] <= 2

    def test_an_interrupt_in_mid_load_ends_it_at_once(self, tmp_path: Path) -> None:
        bench = self.changed(tmp_path, 20)
        bench.target.script.on("target.write", None, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.load(batch_size=2)
        assert bench.result.updated == 2


def expect(event: threading.Event) -> None:
    assert event.wait(10), "what was to happen at the same time did not"
