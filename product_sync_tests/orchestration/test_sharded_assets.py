"""The assets of a sync with shards: the same as without, and the same results, by a step for each shard."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from product_sync.errors import Unreachable
from product_sync.orchestration.assets import sync_assets
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.resources import Steps
from product_sync.orchestration.run_history import finished_runs
from product_sync.orchestration.sharded_assets import in_shards
from product_sync.pipeline import sharded_run
from product_sync.schema.definition import load_definition
from product_sync.state.storage_errors import damaged
from product_sync_tests.orchestration.test_drift_report import page
from product_sync_tests.shop import QUICK, Outcome, Shop, ids, product, project

SHARDS = 3
AUTOMATIC = {"dagster/schedule_name": "product_sync_schedule"}


def run(shop: Shop, job: str = PRODUCT.sync_job, tags: dict[str, str] | None = None, **switches: Any) -> Outcome:
    """Run a job whose definitions have shards."""
    config = {"resources": {"sync": {"config": {**QUICK, "shards": SHARDS, **switches}}}}
    result = (
        project(shards=SHARDS)
        .resolve_job_def(job)
        .execute_in_process(instance=shop.instance, run_config=config, tags=tags, raise_on_error=False)
    )
    return Outcome(shop.instance, result.run_id, result.success)


def begun(outcome: Outcome) -> list[str]:
    """The keys of the steps that have begun, with the attempts of each."""
    kind = dg.DagsterEventType.STEP_START
    again = dg.DagsterEventType.STEP_RESTARTED
    return sorted(str(event.step_key) for event in outcome.events if event.event_type in (kind, again))


def shown(assets: list[Any]) -> dict[str, Any]:
    """What the UI and other assets see of each asset and of each check."""
    specs = [spec for asset in assets for spec in (asset.specs if isinstance(asset, dg.AssetsDefinition) else [asset])]
    checks = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.check_specs]
    return {
        **{spec.key.to_user_string(): spec for spec in specs},
        **{f"{spec.asset_key.to_user_string()}:{spec.name}": spec for spec in checks},
    }


def test_no_asset_and_no_check_differs_from_those_without_shards() -> None:
    steps = Steps(load_definition())
    plain = sync_assets(steps)
    assert shown(in_shards(steps, plain)) == shown(plain)


@pytest.fixture
def drifted(shop: Shop) -> Shop:
    shop.put(*(product(name) for name in ids(60)), product("bad", price="12"))
    shop.sql("INSERT INTO product VALUES ('p0001', 'old', 500, 'i.jpg', 's1', 1), ('x', 't', 1, 'i', 's', 1)")
    return shop


def test_a_sync_has_the_results_of_one_without_shards_by_steps_for_each(drifted: Shop) -> None:
    done = run(drifted, quarantine_budget=1.0)
    assert done.success, done.failures
    assert sorted(drifted.rows) == [*ids(60), "x"]
    for step in ("product_snapshots.read", "product_load.load", "product_load.verify"):
        assert [key for key in begun(done) if key.startswith(step)] == [f"{step}[{n}]" for n in range(SHARDS)]
    counts = {name: done.materialized[PRODUCT.load][name] for name in ("inserted", "updated", "conflicts")}
    assert counts == {"inserted": 59, "updated": 1, "conflicts": 0}
    assert done.materialized[PRODUCT.source_snapshot]["documents"] == 61
    assert set(drifted.quarantine) == {'"bad"'}
    assert "proven_copy" in done.materialized
    assert len(done.checks) == 7
    again = run(drifted, quarantine_budget=1.0)
    assert again.success
    assert not any(key.startswith("product_load.verify") for key in begun(again)), "the diff is the proof"


def test_a_dry_run_loads_no_shard_and_predicts_for_all(drifted: Shop) -> None:
    before = drifted.fingerprint
    done = run(drifted, PRODUCT.dry_run_job, quarantine_budget=1.0)
    assert done.success, done.failures
    assert drifted.fingerprint == before
    assert done.observed[PRODUCT.load]["missing"] == 59
    assert not any(key.startswith(("product_load.load", "product_load.verify")) for key in begun(done))


def test_a_validation_and_a_run_on_named_products_work_as_without_shards(drifted: Shop) -> None:
    red = run(drifted, PRODUCT.validate_job)
    assert not red.success
    assert "Check target_matches_source: failed. 59 missing" in red.failures
    assert run(drifted, ids=["p0001", "p0002"]).success
    assert sorted(drifted.rows) == ["p0001", "p0002", "x"]


def test_a_scheduled_run_gives_way_and_one_that_a_person_started_fails(drifted: Shop) -> None:
    with drifted.locked():
        scheduled = run(drifted, tags=AUTOMATIC, lock_wait_s=0.0)
        asked_for = run(drifted, lock_wait_s=0.0)
    assert scheduled.success
    assert "Skipped: public.product is being synced by another sync" in scheduled.log
    assert not any(key.startswith("product_load.settle") for key in begun(scheduled))
    assert not asked_for.success
    assert "is being synced by another sync" in asked_for.failures


@pytest.mark.parametrize(
    ("start", "error", "said"),
    [
        (Shop.run, damaged(Path("/a/diff.arrow")), "/a/diff.arrow is damaged."),
        (run, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "The disk of the state folder {state} is full"),
    ],
    ids=["whole", "in shards"],
)
def test_a_load_that_the_state_folder_keeps_from_beginning_has_a_report_too(
    drifted: Shop, monkeypatch: pytest.MonkeyPatch, start: Callable[[Shop], Outcome], error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("product_sync.pipeline.saved_plan.only_planned", fail)
    failed = start(drifted)
    assert said.format(state=drifted.state) in failed.failures
    assert "the load could not begin" in page(failed)


@pytest.mark.parametrize("is_back", [True, False])
def test_a_shard_whose_server_goes_away_is_done_again_and_the_others_stand(
    drifted: Shop, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    monkeypatch.setattr("product_sync.orchestration.sharded_assets._RETRY", dg.RetryPolicy(max_retries=3))
    real = sharded_run.load
    failed: list[int] = []

    def load(sync_run: Any, number: int) -> Any:
        result = real(sync_run, number)
        if number == 1 and not (failed and is_back):
            failed.append(number)
            raise Unreachable("PostgreSQL does not answer.")
        return result

    monkeypatch.setattr(sharded_run, "load", load)
    done = run(drifted, quarantine_budget=1.0)
    written = {"inserted": 59, "updated": 1, "conflicts": 0}
    if not is_back:
        assert (done.success, len(failed)) == (False, 4)
        assert written.items() <= done.observed[PRODUCT.load].items(), "as far as it was known"
        [told] = finished_runs(drifted.instance, 0, ())
        assert (told.failure, told.succeeded) == ("PostgreSQL does not answer.", False)
        assert written.items() <= told.counts.items()
        return
    assert done.success, done.failures
    assert [key for key in begun(done) if key.startswith("product_load.load")] == [
        "product_load.load[0]", "product_load.load[1]", "product_load.load[1]", "product_load.load[2]",
    ]  # fmt: skip
    assert written.items() <= done.materialized[PRODUCT.load].items(), "nothing of it is taken for somebody else's"
    assert sum("Load: 2" in line for line in done.log.splitlines()) >= 2, "each shard says what it has done"
    assert len(drifted.rows) == 61


def sharded_project() -> dg.Definitions:
    return project(shards=SHARDS)


@pytest.mark.parametrize("broken", ["read_and_diff", "load"])
def test_re_executed_from_failure_a_run_reads_afresh_and_repairs(
    drifted: Shop, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr("product_sync.orchestration.sharded_assets._RETRY", None)
    job = ReconstructableRepository.for_module(__name__, sharded_project.__name__).get_reconstructable_job(
        "product_sync"
    )

    def execute(**options: Any) -> Outcome:
        config = {"resources": {"sync": {"config": {**QUICK, "shards": SHARDS, "quarantine_budget": 1.0}}}}
        with dg.execute_job(job, drifted.instance, config, raise_on_error=False, **options) as result:
            return Outcome(drifted.instance, result.run_id, result.success)

    def breaks(_: Any, number: int) -> None:
        raise RuntimeError(number)

    with monkeypatch.context() as patch:
        patch.setattr(sharded_run, broken, breaks)
        failed = execute()
    assert not failed.success
    drifted.put(product("late"))
    again = execute(reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, drifted.instance))
    assert again.success, again.failures
    assert sorted(drifted.rows) == sorted(["late", *ids(60), "x"])
    assert PRODUCT.proof in again.materialized
