"""What a run says of a variable that is not set and of a setting that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from product_sync_tests.shop import Shop, product


def test_a_run_that_lacks_a_variable_fails_and_names_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("a"))
    monkeypatch.delenv("CART_DB_URL")
    outcome = shop.run()
    assert not outcome.success
    assert "CART_DB_URL is not set" in outcome.failures


@pytest.mark.parametrize(
    ("switches", "named"),
    [({"batch_size": 0}, "batch_size"), ({"batch_delay_ms": -1}, "batch_delay_ms"), ({"extra": "drop"}, "extra")],
)
def test_a_setting_out_of_bounds_fails_the_run_and_is_named(shop: Shop, switches: dict[str, Any], named: str) -> None:
    outcome = shop.run(**switches)
    assert not outcome.success
    assert named in outcome.failures
    assert outcome.materialized == {}
