"""Batch sizes and pauses are checked in one place, and the default keeps to what was configured."""

from __future__ import annotations

import pytest

from product_sync.errors import ConfigurationError
from product_sync.load.pacing import FixedPacing, checked_batch_size, checked_pause_ms


def test_by_default_a_batch_has_a_hundred_rows_and_a_pause_of_a_hundred_milliseconds() -> None:
    pacing = FixedPacing()
    assert (pacing.batch_size(), pacing.pause_s()) == (100, 0.1)


def test_fixed_pacing_does_not_mind_what_a_batch_cost() -> None:
    pacing = FixedPacing(rows=7, pause_ms=0)
    pacing.batch_done(7, 3_600)
    assert (pacing.batch_size(), pacing.pause_s()) == (7, 0)


@pytest.mark.parametrize("size", [0, -1, 100_001, 10**6])
def test_a_batch_size_out_of_bounds_is_refused_by_name_value_and_bounds(size: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"batch_size is {size}, but a batch has 1 to 100000 rows"):
        checked_batch_size(size, name="batch_size")
    with pytest.raises(ConfigurationError, match="SYNC_BATCH_SIZE"):
        FixedPacing(rows=size)


@pytest.mark.parametrize("size", [1, 100_000])
def test_the_bounds_of_a_batch_size_are_within(size: int) -> None:
    assert checked_batch_size(size) == size


def test_a_negative_pause_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SYNC_BATCH_DELAY_MS is -1"):
        checked_pause_ms(-1)
    assert checked_pause_ms(0) == 0
