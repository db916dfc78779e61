"""Exit statuses 2 and 3 promise that nothing was written. They are given only where that is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from product_sync import api
from product_sync.errors import ConfigurationError
from product_sync.results import SyncReport
from product_sync.runtime.progress import Progress
from product_sync_tests.databases import another_sync
from product_sync_tests.market import Market, products
from product_sync_tests.targets.postgres_tables import role

pytestmark = pytest.mark.usefixtures("in_memory")


def after_the_last_batch(rows: int, harm: Callable[[], object]) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.stage == "load" and progress.done == rows:
            harm()

    return listen


def quick_sync(harm: Callable[[], object], **switches: object) -> SyncReport:
    listener = after_the_last_batch(25, harm)
    return api.sync(batch_size=10, batch_delay_ms=0, settle_seconds=0, on_progress=listener, **switches)  # type: ignore[arg-type]


def test_a_table_that_changes_after_the_last_batch_ends_with_1_and_the_number_of_rows(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock(products(25))
    report = quick_sync(lambda: market.sql("ALTER TABLE product ALTER price TYPE bigint"))
    assert report.failure
    assert (report.exit_status, report.failure.exit_status, report.failure.code) == (1, 1, "table")
    assert report.inserted == 25
    assert "What was written before stays: inserted 25." in report.failure.hint
    with pytest.raises(ConfigurationError) as raised:
        report.raise_for_error()
    assert raised.value.exit_status == 1
    assert ConfigurationError("another one").exit_status == 2


def test_a_right_that_is_lost_after_the_last_batch_ends_with_1_with_a_plan_too(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    market.stock(products(25))
    with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}") as user:
        monkeypatch.setenv("CART_DB_URL", user.url)
        plan = api.sync(dry_run=True).raise_for_error().plan_id
        report = quick_sync(lambda: market.sql(f"REVOKE SELECT ON product FROM {user.name}"), plan=plan)
    assert report.failure
    assert (report.exit_status, report.failure.code, report.inserted) == (1, "access_denied", 25)


def test_the_command_ends_with_the_same_status(market: Market) -> None:
    market.stock(products(600))

    def half_written() -> bool:
        return int(market.sql("SELECT count(*) FROM product")[0][0]) >= 10

    with market.start("sync", "--json", "--batch-size", "10", "--delay-ms", "300") as command:
        command.wait_until(half_written)
        market.sql("ALTER TABLE product RENAME TO gone")
        outcome = command.outcome()
    assert outcome.answer["inserted"] >= 10
    assert outcome.status == 1, outcome.everything


def test_what_is_met_before_the_first_write_keeps_its_status(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)
    market.stock(products(25))
    plan = api.sync(dry_run=True).raise_for_error().plan_id
    assert api.sync(plan=plan, max_plan_age_s=0).exit_status == 3
    with another_sync(market.cart_url):
        assert api.sync(lock_wait_s=0).exit_status == 3
    market.sql("ALTER TABLE product RENAME TO gone")
    for dry_run in (True, False):
        assert api.sync(dry_run=dry_run).exit_status == 2
    monkeypatch.setenv("CART_DB_URL", "postgresql://127.0.0.1:1/cart")
    for dry_run in (True, False):
        assert api.sync(dry_run=dry_run).exit_status == 3
