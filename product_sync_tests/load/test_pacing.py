"""The default pacing keeps to the size and the pause that were configured."""

from __future__ import annotations

from product_sync.load.pacing import FixedPacing


def test_by_default_a_batch_has_a_hundred_rows_and_a_pause_of_a_hundred_milliseconds() -> None:
    pacing = FixedPacing()
    assert (pacing.batch_size(), pacing.pause_s()) == (100, 0.1)


def test_fixed_pacing_does_not_mind_what_a_batch_cost() -> None:
    pacing = FixedPacing(rows=7, pause_ms=0)
    pacing.batch_done(7, 3_600)
    assert (pacing.batch_size(), pacing.pause_s()) == (7, 0)
