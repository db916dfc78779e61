"""The steps of a run without an orchestrator: the files that they need, and those that an interrupted step leaves."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from product_sync.errors import StalePlan
from product_sync.pipeline import run_checks
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.dry_run import dry_run
from product_sync.pipeline.load_diff import load, loaded
from product_sync.pipeline.pending_diff import newest_diff
from product_sync.pipeline.sync_run import SyncRun, open_sync_run
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.runtime.progress import OnProgress, Progress, no_progress
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import load_definition
from product_sync.settings import RunOptions
from product_sync.state import store
from product_sync.state.files import row_count
from product_sync_tests.shop import Shop, ids, product, shop
from product_sync_tests.targets.postgres_tables import role

__all__ = ["shop"]


def databases_of(shop: Shop) -> Databases:
    return Databases(load_definition(), SourceAddress(shop.mongodb_url), TargetAddress(shop.cart_url))


def begin(
    shop: Shop,
    *,
    run_id: str = "",
    databases: Databases | None = None,
    on_progress: OnProgress = no_progress,
    timing: Timing = SYSTEM_TIMING,
    **settings: object,
) -> SyncRun:
    """The session of a new run, or of ``run_id``."""
    return open_sync_run(
        databases or databases_of(shop),
        RunOptions.resolve({}, {"batch_delay_ms": 0, "settle_seconds": 0.0, **settings}),
        state_root=shop.state,
        run_id=run_id or str(uuid4()),
        on_progress=on_progress,
        timing=timing,
    )


def read_and_compare(sync_run: SyncRun) -> SyncRun:
    sync_run.snapshot_both()
    sync_run.diff()
    return sync_run


@pytest.mark.parametrize(("pacing", "within_s"), [("fixed", None), ("adaptive", 0.006 * 97 / 3)])
def test_only_an_adaptive_load_leaves_the_disk_to_others_for_as_long_as_the_target_rests(
    shop: Shop, pacing: str, within_s: float | None
) -> None:
    with begin(shop, pacing=pacing).writer() as writer:
        assert writer.flush_within_s == (within_s and pytest.approx(within_s))


def test_a_step_uses_the_files_of_its_own_run_and_not_newer_ones_of_another(shop: Shop) -> None:
    shop.put(product("a"))
    mine = read_and_compare(begin(shop))
    shop.put(product("b"))
    read_and_compare(begin(shop))
    assert load(mine).inserted == 1
    assert list(shop.rows) == ["a"]


def test_what_was_found_equal_while_both_sides_were_read_is_not_compared_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(*(product(name) for name in ids(3)))
    load(read_and_compare(begin(shop)))
    shop.put(product("later"))
    sync_run = begin(shop)
    source, target = sync_run.snapshot(source=True, target=True)
    assert source is not None
    assert target is not None
    assert (source.documents, target.rows) == (4, 3)
    unmatched = sync_run.unmatched(sync_run.files, sync_run.files.path(store.TARGET_ROWS))
    assert unmatched is not None
    assert [row_count(path) for path in unmatched] == [1, 0]
    with monkeypatch.context() as patch:
        patch.setattr("product_sync.compare.diff.drop_identical_rows", None)
        assert sync_run.diff().counts.missing == 1

    assert sync_run.snapshot(source=True, target=False)[1] is None
    stale = sync_run.unmatched(sync_run.files, sync_run.files.path(store.TARGET_ROWS))
    assert stale is None, "they belong to a reading that is no longer there"
    assert sync_run.diff().counts.missing == 1


def test_a_diff_whose_source_snapshot_is_gone_is_refused(shop: Shop) -> None:
    shop.put(product("a"))
    first = begin(shop)
    first.snapshot_both()
    second = begin(shop)
    second.diff()
    shutil.rmtree(first.files.folder)
    with pytest.raises(StalePlan, match="no longer there"):
        load(second)


def test_a_diff_is_as_old_as_the_reading_it_was_made_from(shop: Shop) -> None:
    shop.put(product("a"))
    sync_run = read_and_compare(begin(shop))
    started = datetime.now(UTC)
    newest_diff(sync_run.folder, sync_run.files, started + timedelta(minutes=59))
    with pytest.raises(StalePlan, match="61 minutes old"):
        newest_diff(sync_run.folder, sync_run.files, started + timedelta(minutes=61, seconds=1))
    newest_diff(sync_run.folder, sync_run.files, started - timedelta(minutes=4))
    with pytest.raises(StalePlan, match="by this machine's clock"):
        newest_diff(sync_run.folder, sync_run.files, started - timedelta(minutes=6))


def test_a_cancelled_load_leaves_its_counts_frees_the_lock_and_keeps_the_quarantine(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(5)))

    def cancel(progress: Progress) -> None:
        if progress.stage == "load" and progress.done == 2:
            raise KeyboardInterrupt

    sync_run = read_and_compare(begin(shop, on_progress=cancel, batch_size=1))
    with pytest.raises(KeyboardInterrupt):
        load(sync_run)
    assert loaded(sync_run).inserted == 2
    assert databases_of(shop).lock_holder() is None
    assert sync_run.previous_quarantine is None
    assert load(read_and_compare(begin(shop))).inserted == 3


def test_a_run_that_lost_its_lock_in_the_load_keeps_what_another_run_has_learnt_meanwhile(shop: Shop) -> None:
    shop.sql("ALTER TABLE product ADD CONSTRAINT not_negative CHECK (price >= 0)")
    shop.put(product("a"), product("b"), product("first", price=-1))
    was_committed: list[str] = []

    def another_run_takes_over(progress: Progress) -> None:
        if progress.stage == "load" and progress.done == 1 and not was_committed:
            was_committed.append("once")
            shop.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            assert load(read_and_compare(begin(shop))).quarantined == 2

    sync_run = read_and_compare(begin(shop, on_progress=another_run_takes_over, batch_size=1))
    shop.put(product("late", price=-1))
    load(sync_run)
    assert was_committed
    assert set(shop.quarantine) == {'"first"', '"late"'}
    assert shop.quarantine['"first"']["attempts"] == 2
    shop.put(product("late"), product("first"))
    load(read_and_compare(begin(shop)))
    assert shop.quarantine == {}, "what is mended leaves with the next run"


def test_two_runs_do_not_replace_the_quarantine_at_once(shop: Shop) -> None:
    shop.put(product("bad", price="12"))
    sync_run = read_and_compare(begin(shop))
    loading = threading.Thread(target=load, args=[sync_run])
    with sync_run.folder.replaced(store.QUARANTINE).alone():
        loading.start()
        loading.join(1.0)
        assert loading.is_alive()
        assert sync_run.previous_quarantine is None
    loading.join(30.0)
    assert set(shop.quarantine) == {'"bad"'}


def test_both_sides_are_counted_and_not_estimated(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(7)))
    shop.sql("INSERT INTO product VALUES ('x', 't', 1, 'i', 's', 1)")
    assert databases_of(shop).count() == (7, 1)


def test_progress_keeps_the_files_of_a_run_from_being_taken_for_old_ones(shop: Shop) -> None:
    shop.put(product("a"))
    sync_run = begin(shop)
    os.utime(sync_run.files.folder, (0, 0))
    sync_run.on_progress(Progress("load", 1, 2, 1.0, 1.0))
    assert sync_run.files.folder.stat().st_mtime > 0


def test_a_difference_counts_only_after_the_time_to_settle_even_where_nothing_was_written(shop: Shop) -> None:
    shop.put(product("a"))
    shop.sql("INSERT INTO product VALUES ('a', 'The a', 500, 'i.jpg', 's1', 1), ('x', 't', 1, 'i', 's', 1)")
    slept: list[float] = []
    sync_run = read_and_compare(begin(shop, settle_seconds=5.0))
    load(sync_run)
    run_checks.check_result(replace(sync_run, timing=replace(SYSTEM_TIMING, sleep=slept.append)))
    assert slept == [5.0]


def test_the_files_of_a_run_can_be_read_by_their_owner_only(shop: Shop) -> None:
    shop.put(product("a"))
    sync_run = read_and_compare(begin(shop))
    tables = [path for path in Path(sync_run.files.folder).iterdir() if path.suffix == ".arrow"]
    assert {path.stat().st_mode & 0o077 for path in tables} == {0}
    assert sync_run.files.has(store.DIFF)


def test_a_plan_is_kept_to_even_where_a_product_changes_between_the_reading_and_its_batch(shop: Shop) -> None:
    shop.put(product("a", price=2), product("b", price=2))
    shop.sql("INSERT INTO product VALUES ('a', 'The a', 1, 'i.jpg', 's1', 1), ('b', 'The b', 1, 'i.jpg', 's1', 1)")
    plan_id = dry_run(read_and_compare(begin(shop, dry_run=True, probe=False))).plan_id
    sync_run = read_and_compare(begin(shop, plan=plan_id))
    shop.put(product("a", price=3))
    result = load(sync_run)
    assert (result.planned, result.updated, result.skipped_since_plan) == (2, 1, 1)
    assert {name: row[0] for name, row in shop.rows.items()} == {"a": 1, "b": 2}


def test_an_adaptive_load_gives_way_while_others_wait_for_locks_and_recovers(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.put(*(product(name) for name in ids(80)))
    shop.sql("CREATE TABLE cart (id int)")
    with (
        psycopg.connect(shop.cart_url) as holder,
        psycopg.connect(shop.cart_url, autocommit=True) as waiting,
        ThreadPoolExecutor() as pool,
    ):
        holder.execute("LOCK TABLE cart")
        waiter = pool.submit(waiting.execute, "SELECT * FROM cart")

        def release(progress: Progress) -> None:
            # Looks are a fifth of a second apart: one after each batch.
            time.sleep(0.21 if progress.stage == "load" else 0)
            if "waits for a lock" in caplog.text:
                holder.rollback()

        smallest: dict[str, Any] = {"pacing": "adaptive", "target_batch_s": 0.0001, "batch_size": 10}
        assert load(read_and_compare(begin(shop, on_progress=release, **smallest))).inserted == 80
        waiter.result()
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 2
    assert "The load gives way to the target's users" in messages[0]
    assert "The target is calm again" in messages[1]


def test_a_role_that_sees_little_is_told_so_in_the_log(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shop.put(product("a"))
    with role(shop.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}") as user:
        sync_run = read_and_compare(begin(shop, pacing="adaptive"))
        databases = replace(sync_run.databases, target=TargetAddress(user.url))
        assert load(replace(sync_run, databases=databases)).inserted == 1
    assert "Adaptive pacing cannot see: active sessions and replica lag" in caplog.text
