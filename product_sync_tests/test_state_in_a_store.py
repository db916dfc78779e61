"""The state in an object store: the same results as with a folder, on a new machine each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from product_sync import api
from product_sync.results import SyncReport
from product_sync_tests.market import Market, product, products
from product_sync_tests.object_store import S3Server, s3_server, store_url  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """One for all tests: to make the local one costs a second."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def in_store(market: Market, store_url: str, s3_server: S3Server, tmp_path: Path) -> Market:  # noqa: F811 - the fixtures
    """A market whose state is in the store."""
    market.env |= {
        **s3_server.env,
        "PRODUCT_SYNC_STATE": store_url,
        "PRODUCT_SYNC_SCRATCH": str(tmp_path / "scratch"),
        "XDG_STATE_HOME": str(tmp_path / "home"),
        "SYNC_QUARANTINE_BUDGET": "1",
        "SYNC_BATCH_DELAY_MS": "0",
    }
    return market


@pytest.fixture
def new_machine(in_store: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Gives this process a scratch folder that knows nothing."""
    numbers = itertools.count()
    in_store.enter(monkeypatch)
    return lambda: monkeypatch.setenv("PRODUCT_SYNC_SCRATCH", str(tmp_path / f"machine{next(numbers)}"))


def test_each_machine_finds_what_the_one_before_has_left(
    in_store: Market, instance: dg.DagsterInstance, new_machine: Callable[[], None]
) -> None:
    def sync(**options: object) -> SyncReport:
        new_machine()
        report = api.sync(instance=instance, settle_seconds=0.0, **options)  # type: ignore[arg-type]
        return report.raise_for_error()

    in_store.stock([*products(19), product(70, price="12")])
    assert sync().inserted == 19
    in_store.sql("UPDATE product SET price = 1 WHERE id = 'p0001'")
    planned = sync(dry_run=True)
    assert planned.changed == 1
    applied = sync(plan=planned.run_id)
    assert (applied.updated, applied.quarantined) == (1, 1)
    in_store.unstock({"_id": "p0002"})
    passed = sync(changes=True)
    assert (passed.compared, passed.extra) == (1, 1)
    new_machine()
    [entry] = api.quarantine().raise_for_error().entries
    assert entry.attempts == 2
    new_machine()
    shown = api.show("p0001").raise_for_error()
    assert len({each.run_id for each in shown.earlier or ()}) == 3
    new_machine()
    assert api.stats(instance=instance).raise_for_error().full_proof_at is not None
    new_machine()
    assert api.validate(instance=instance).raise_for_error().extra_in_target == 1


def test_a_command_leaves_nothing_in_its_scratch_folder_and_keeps_the_run_history_on_its_machine(
    in_store: Market, tmp_path: Path
) -> None:
    in_store.stock(products(3))
    outcome = in_store.run("sync", "--json")
    assert outcome.answer["inserted"] == 3, outcome.everything
    assert outcome.answer["drift_report"].startswith(in_store.env["PRODUCT_SYNC_STATE"])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [path.name for path in (tmp_path / "home" / "product_sync").glob("dagster")] == ["dagster"]
