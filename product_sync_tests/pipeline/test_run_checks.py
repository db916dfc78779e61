"""The proof on real servers: it compares while it reads, keeps what it has read, and leaves nothing where it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from product_sync.compare import diff as diffs
from product_sync.compare.prefilter import Window, drop_identical_rows
from product_sync.compare.snapshot import READ_AHEAD_BYTES
from product_sync.errors import LocalStorageError, Unreachable
from product_sync.pipeline import run_checks
from product_sync.pipeline.load_diff import load
from product_sync.pipeline.sync_run import SyncRun
from product_sync.runtime.progress import Progress
from product_sync.state.files import RUN_ID, TAKEN_AT, read_metadata
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import VERIFIED_DIFF, VERIFIED_TARGET_ROWS
from product_sync_tests.pipeline.test_sync_run import begin, read_and_compare
from product_sync_tests.shop import Shop, ids, product, shop
from product_sync_tests.tables import read_table
from product_sync_tests.targets.postgres_tables import other_sessions

__all__ = ["shop"]

#: Rows that are more than the reader is ahead by, and than the sockets hold.
WIDE, WIDE_BYTES = 3_000, 12_000
OTHERS = "INSERT INTO product SELECT 'x' || n, repeat('title ', %s), n, 'i', 's', 1 FROM generate_series(1, %s) AS n"
END_ALL_READINGS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def loaded(shop: Shop, products: int = 1) -> SyncRun:
    """A run that has just loaded so many products."""
    shop.put(*(product(name) for name in ids(products)))
    sync_run = read_and_compare(begin(shop))
    assert load(sync_run).inserted == products
    return sync_run


def at_first_rows(event: Callable[[], object]) -> Callable[[Progress], None]:
    """What happens as soon as the first rows of the target have been taken."""
    events = [event]

    def on_progress(progress: Progress) -> None:
        if progress.stage == "read target" and progress.done and events:
            events.pop()()

    return on_progress


def assert_nothing_is_left(shop: Shop, sync_run: SyncRun) -> None:
    assert [path.name for path in sync_run.files.folder.iterdir() if "verified" in path.name] == []
    assert list(sync_run.files.folder.glob("pairs-*")) == []
    assert other_sessions(shop.cart_url, 0)
    for thread in threading.enumerate():
        if thread.name == "product_sync prefetch":
            thread.join(1.0)
            assert not thread.is_alive()


def test_what_the_proof_has_read_is_kept(shop: Shop) -> None:
    sync_run = loaded(shop, 3)
    heard: list[Progress] = []
    proven = run_checks.check_result(replace(sync_run, on_progress=heard.append)).proven
    assert proven is not None
    assert (proven.source_count, proven.target_count, proven.missing, proven.extra) == (3, 3, 0, 0)
    kept = sync_run.files.path(VERIFIED_TARGET_ROWS)
    assert sorted(read_table(kept)["id"].to_pylist()) == ids(3)
    assert read_metadata(kept)[RUN_ID] == sync_run.files.run_id
    assert TAKEN_AT in read_metadata(kept)
    assert {progress.stage for progress in heard} == {"read target"}
    assert (heard[-1].done, heard[-1].ended) == (3, True)


@pytest.mark.parametrize("trial_pages", [1, 1_000])
def test_what_differs_is_found_in_whatever_order_the_rows_lie(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, trial_pages: int
) -> None:
    window = Window(rows=4, page_rows=2, trial_pages=trial_pages)
    monkeypatch.setattr(diffs, "drop_identical_rows", partial(drop_identical_rows, window=window))
    sync_run = loaded(shop, 50)
    shop.sql("CREATE TABLE before AS SELECT * FROM product")
    shop.sql("TRUNCATE product")
    shop.sql("INSERT INTO product SELECT * FROM before ORDER BY id DESC")
    shop.sql("DELETE FROM product WHERE id = 'p0007'")
    shop.sql("UPDATE product SET price = 1 WHERE id = 'p0021'")
    shop.sql("INSERT INTO product VALUES ('x', 't', 1, 'i', 's', 1)")
    check_result = run_checks.check_result(sync_run).check_results[0]
    assert not check_result.passed
    found = read_table(sync_run.files.path(VERIFIED_DIFF)).select(["op", "id"]).to_pylist()
    assert [(row["op"], row["id"]) for row in found] == [("insert", "p0007"), ("update", "p0021"), ("extra", "x")]


def test_a_reading_that_the_server_ends_half_way_fails_the_proof_and_leaves_nothing(shop: Shop) -> None:
    assert 2 * READ_AHEAD_BYTES < WIDE * WIDE_BYTES
    sync_run = loaded(shop)
    shop.sql(OTHERS, WIDE_BYTES // 6, WIDE)
    on_progress = at_first_rows(lambda: shop.sql(END_ALL_READINGS))
    with pytest.raises(Unreachable, match=r"connection was lost while public\.product was read"):
        run_checks.check_result(replace(sync_run, on_progress=on_progress))
    assert_nothing_is_left(shop, sync_run)


def test_a_proof_that_is_interrupted_ends_its_reading_and_leaves_nothing(shop: Shop) -> None:
    sync_run = loaded(shop)
    shop.sql(OTHERS, WIDE_BYTES // 6, WIDE)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_checks.check_result(replace(sync_run, on_progress=at_first_rows(interrupt)))
    assert_nothing_is_left(shop, sync_run)


def test_a_comparison_that_fails_ends_the_reading_and_leaves_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_run = loaded(shop)
    shop.sql(OTHERS, WIDE_BYTES // 6, WIDE)
    sync_run.files.path("source.arrow").unlink()
    with pytest.raises(LocalStorageError, match=r"source\.arrow is gone"), local_storage(shop.state):
        run_checks.check_result(sync_run)
    assert_nothing_is_left(shop, sync_run)
