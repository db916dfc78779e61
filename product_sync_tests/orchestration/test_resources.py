"""A run names a variable that is not set and a setting that is not valid."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from product_sync.orchestration.names import PRODUCT
from product_sync_tests.shop import Shop, product

OUT_OF_BOUNDS: list[dict[str, Any]] = [{"batch_size": 0}, {"batch_delay_ms": -1}, {"max_duty": 0.0}]
OF_ANOTHER_TYPE: list[dict[str, Any]] = [{"batch_size": "lots"}, {"extra": "drop"}, {"retry_s": "long"}, {"probe": 1}]


@pytest.mark.parametrize("options", [*OUT_OF_BOUNDS, *OF_ANOTHER_TYPE])
def test_a_job_refuses_a_value_that_cannot_be_before_there_is_a_run(shop: Shop, options: dict[str, Any]) -> None:
    [(name, _)] = options.items()
    for config in (options, {"resources": {"sync": {"config": options}}}):
        with pytest.raises(dg.DagsterInvalidConfigError, match=name):
            shop.run(config=config)
    assert shop.instance.get_runs() == []
    assert not shop.state.exists()


@pytest.mark.parametrize("options", OUT_OF_BOUNDS)
def test_a_run_without_a_job_fails_with_our_own_sentence(shop: Shop, options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    outcome = shop.materialize(PRODUCT.source_snapshot, **options)
    assert not outcome.success
    assert f"{name} is {value}. Expected: " in outcome.failures
    assert outcome.materialized == {}


def test_the_environment_holds_what_the_run_config_leaves_out(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_BATCH_SIZE", "7")
    monkeypatch.setenv("ROWS", "9")
    shop.put(product("a"))
    assert "Sync in batches of 7 rows" in shop.run().log
    assert "Sync in batches of 8 rows" in shop.run(batch_size=8).log
    assert "Sync in batches of 9 rows" in shop.run(config={"batch_size": {"env": "ROWS"}}).log
