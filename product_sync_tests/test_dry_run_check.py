"""A dry run predicts the checks of a sync that starts now, and `--check` makes a red prediction an exit status.

Each prediction is compared with what a real sync of the same two sides then comes to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from product_sync import api
from product_sync.results import SyncReport
from product_sync.terminal import summaries
from product_sync_tests.market import Market, product, products
from product_sync_tests.targets.postgres_tables import role

Sync = Callable[..., SyncReport]


@pytest.fixture
def sync(market: Market, history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sync:
    market.enter(monkeypatch)
    return partial(api.sync, instance=history, batch_delay_ms=0, settle_seconds=0.0)


def would(report: SyncReport) -> dict[str, str]:
    """Each check that would not pass, with its severity."""
    return {check.check: check.severity for check in report.predicted_checks or () if not check.passed}


def test_more_quarantined_than_the_budget_is_predicted_as_red_and_comes_true(market: Market, sync: Sync) -> None:
    market.stock([*products(20), product(7000, price="a lot")])
    dry = sync(dry_run=True)
    assert (dry.exit_status, dry.would_pass, would(dry)) == (0, False, {"quarantine_within_budget": "ERROR"})
    assert (dry.lacking, dry.no_estimate_because) == ([], None)
    assert dry.prediction is not None
    assert "1 of 21 documents cannot be copied (wrong_type: 1)" in dry.prediction
    checked = sync(dry_run=True, check=True)
    assert checked.exit_status == 1
    assert checked.failure is not None
    assert checked.failure.code == "checks_failed"
    assert checked.failure.message == "A sync would fail: quarantine_within_budget."
    assert market.rows() == {}

    within = sync(dry_run=True, check=True, quarantine_budget=0.05)
    assert (within.exit_status, within.would_pass, would(within)) == (0, True, {"quarantine_within_budget": "WARN"})

    real = sync()
    assert real.exit_status == 1
    assert real.failure is not None
    assert real.failure.hint == "product-sync quarantine"
    assert "quarantine_within_budget" in real.failure.message
    assert sync(quarantine_budget=0.05).exit_status == 0
    assert (real.would_pass, real.predicted_checks, real.lacking, real.no_estimate_because) == (None,) * 4


def test_lacking_privileges_and_the_missing_estimate_are_told(
    market: Market, sync: Sync, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    market.stock(products(2))
    with role(market.cart_url, "GRANT SELECT ON product TO {}") as reader:
        monkeypatch.setenv("CART_DB_URL", reader.url)
        dry = sync(dry_run=True)
        assert (dry.exit_status, dry.would_pass, dry.lacking) == (0, False, ["INSERT"])
        assert dry.estimated_s is None
        assert "lacks privileges on public.product: INSERT on id" in (dry.no_estimate_because or "")
        summaries.show_sync(dry)
        grant = f'  GRANT INSERT ON "public"."product" TO "{reader.name}";'
        assert grant in capsys.readouterr().out.splitlines(), "on a line of its own"
        assert sync(dry_run=True, check=True).exit_status == 1
        assert sync().exit_status == 3


def test_a_deletion_that_would_be_refused_is_predicted_with_its_reason(market: Market, sync: Sync) -> None:
    market.stock(products(10))
    market.copy(products(12))
    refused = sync(dry_run=True, check=True, extra="delete")
    assert (refused.exit_status, would(refused)) == (0, {"no_extra_products": "WARN"})
    assert "2 rows would not be deleted: 2 of 12 rows are extra" in (refused.prediction or "")
    assert sync(extra="delete").deleted == 0
    allowed = sync(dry_run=True, extra="delete", max_delete_share=0.5)
    assert (allowed.would_pass, would(allowed)) == (True, {})
    assert sync(extra="delete", max_delete_share=0.5).deleted == 2


def test_a_check_that_stops_a_sync_stops_the_dry_run_too_and_is_in_the_prediction(market: Market, sync: Sync) -> None:
    catalogue = products(150)
    market.stock(catalogue)
    market.copy([{**each, "price": 1} for each in catalogue])
    dry = sync(dry_run=True, check=True)
    assert (dry.exit_status, dry.would_pass, would(dry)) == (1, False, {"change_is_plausible": "ERROR"})
    assert len(dry.first_differences) == 10
    assert dry.failure is not None
    assert dry.failure.hint == f"The drift report shows what differs: {dry.drift_report}"
    assert Path(dry.drift_report or "").is_file()
    assert sync(dry_run=True, accept_changes=True).would_pass is True


def test_a_check_without_a_dry_run_is_refused_and_the_command_says_all_of_it(market: Market, sync: Sync) -> None:
    market.forget_all()
    assert sync(check=True).exit_status == 2
    assert not market.state.exists()
    market.stock([*products(20), product(7000, price="a lot")])
    outcome = market.run("sync", "--dry-run", "--check", "--json")
    assert outcome.status == 1
    assert outcome.error["message"] == "A sync would fail: quarantine_within_budget."
    assert outcome.answer["would_pass"] is False
    [said] = [check for check in outcome.answer["predicted_checks"] if not check["passed"]]
    assert (said["check"], said["severity"]) == ("quarantine_within_budget", "ERROR")
    assert set(said) == set(asdict(sync(dry_run=True).predicted_checks[0]))  # type: ignore[index]
