"""The sign of life that keeps a run from being taken for dead, and that does not flood the event log."""

from __future__ import annotations

from typing import Any

import pytest

from product_sync.core.progress import Progress
from product_sync.orchestration.reaping import SILENCE_S
from product_sync.orchestration.resources import SIGN_OF_LIFE_S, _signs_of_life
from product_sync_tests.shop import Shop, product


def test_the_event_log_hears_of_progress_at_most_once_a_minute_and_the_listener_always() -> None:
    seconds, logged, heard = 0.0, list[str](), list[Progress]()
    report = _signs_of_life(logged.append, heard.append, lambda: seconds)
    for number in range(1, 181):
        seconds += 1.0
        report(Progress("read source", number, 180, 1.0, 180.0 - number))
    assert len(heard) == 180
    assert [line.split(",")[0] for line in logged] == [
        "read source: 60/180 (33 %)",
        "read source: 120/180 (67 %)",
        "read source: 180/180 (100 %)",
    ]


def test_a_run_is_taken_for_dead_only_after_several_signs_of_life_have_failed_to_come() -> None:
    assert SILENCE_S >= 5 * SIGN_OF_LIFE_S


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
