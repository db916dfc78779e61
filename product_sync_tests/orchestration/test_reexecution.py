"""`Re-execute from failure` repairs, whichever step had failed: nothing rests on what the earlier run has read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.pipeline.sync_run import SyncRun
from product_sync_tests.shop import QUICK, Outcome, Shop, ids, product

REPOSITORY = ReconstructableRepository.for_module("product_sync.definitions", "defs")
#: Takes the cause of a failure away.
Mend = Callable[[], object]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as opened:
        yield opened


def execute(instance: dg.DagsterInstance, failed: str | None = None, job: str = PRODUCT.sync_job) -> Outcome:
    """Run the job, or only the steps of the run ``failed`` that did not succeed, as the button of the UI does."""
    result = dg.execute_job(
        REPOSITORY.get_reconstructable_job(job),
        instance=instance,
        run_config={"resources": {"sync": {"config": {**QUICK, "max_isolated_rows": 0}}}},
        reexecution_options=dg.ReexecutionOptions.from_failure(failed, instance) if failed else None,
        raise_on_error=False,
    )
    with result:
        return Outcome(instance, result.run_id, result.success)


def steps(outcome: Outcome) -> list[str | None]:
    return [event.step_key for event in outcome.events if event.is_step_start]


def broken(_: SyncRun) -> None:
    raise RuntimeError("broken")


def break_snapshot(_: Shop, patch: pytest.MonkeyPatch) -> Mend:
    patch.setattr(SyncRun, "snapshot_both", broken)
    return patch.undo


def break_source_check(shop: Shop, _: pytest.MonkeyPatch) -> Mend:
    shop.remove(*ids(5))
    return partial(shop.put, *map(product, ids(5)))


def break_diff(_: Shop, patch: pytest.MonkeyPatch) -> Mend:
    patch.setattr(SyncRun, "diff", broken)
    return patch.undo


def break_change_check(shop: Shop, _: pytest.MonkeyPatch) -> Mend:
    many = [f"m{number:04}" for number in range(150)]
    shop.put(*map(product, many))
    shop.sql(
        "INSERT INTO product SELECT 'm' || lpad(n::text, 4, '0'), 't', 1, 'i', 's', 1 FROM generate_series(0, 149) n"
    )

    def mend() -> None:
        shop.remove(*many)
        shop.sql("DELETE FROM product WHERE id LIKE 'm%'")

    return mend


def break_load(shop: Shop, _: pytest.MonkeyPatch) -> Mend:
    other = ExitStack()
    other.enter_context(shop.locked())
    return other.close


def break_match(shop: Shop, _: pytest.MonkeyPatch) -> Mend:
    shop.sql("CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.price := 1; RETURN NEW; END $$")
    shop.sql("CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON product FOR EACH ROW EXECUTE FUNCTION spoil()")
    return lambda: shop.sql("DROP TRIGGER spoil ON product")


@pytest.mark.parametrize(
    ("failing", "cause"),
    [
        ("product_snapshots", break_snapshot),
        ("mongo_product_snapshot_source_looks_complete", break_source_check),
        ("product_diff", break_diff),
        ("product_diff_change_is_plausible", break_change_check),
        ("product_load", break_load),
        ("product_load", break_match),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_re_executed_from_failure_a_sync_reads_afresh_and_repairs(
    shop: Shop, instance: dg.DagsterInstance, failing: str, cause: Callable[[Shop, pytest.MonkeyPatch], Mend]
) -> None:
    shop.put(*map(product, ids(5)))
    with pytest.MonkeyPatch.context() as patch:
        mend = cause(shop, patch)
        failed = execute(instance)
        assert not failed.success
        assert [event.step_key for event in failed.events if event.is_step_failure] == [failing]
        mend()
    shop.put(product("late"))
    shop.sql(
        "INSERT INTO product VALUES ('p0000', 'stale', 7, 'i.jpg', 's1', 1) ON CONFLICT (id) DO UPDATE SET price = 7"
    )

    again = execute(instance, failed.run_id)
    assert again.success, again.failures
    assert failing in steps(again)
    assert set(shop.rows) == {*ids(5), "late"}
    assert {price for price, _ in shop.rows.values()} == {500}
    assert all(check.passed for check in again.checks.values())
    assert PRODUCT.proof in again.materialized


def test_re_executing_a_validation_writes_nothing(shop: Shop, instance: dg.DagsterInstance) -> None:
    shop.put(*map(product, ids(5)))
    failed = execute(instance, job=PRODUCT.validate_job)
    assert not failed.success
    again = execute(instance, failed.run_id, job=PRODUCT.validate_job)
    assert not again.success
    assert again.checks[names.TARGET_MATCHES_SOURCE].metadata["missing"].value == 5
    assert shop.rows == {}
