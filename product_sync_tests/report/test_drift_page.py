"""The chart of the last runs on the drift report."""

from __future__ import annotations

from product_sync.report.drift_page import charts
from product_sync.state.drift_history import PastDrift


def run(number: int, missing: int) -> PastDrift:
    return PastDrift(f"{number:08}-run", "2026-01-01T00:00:00+00:00", missing, 0, 0, 0, 0)


def test_each_count_has_a_scale_of_its_own_and_one_lost_product_is_seen_beside_a_million() -> None:
    [missing, changed, *_] = charts([run(1, 1_000_000), run(2, 1), run(3, 0)])
    heights = [bar.height for bar in missing.bars]
    assert heights[0] == 56
    assert heights[1] >= 1
    assert heights[2] == 0
    assert (missing.highest, missing.last) == (1_000_000, 0)
    assert [bar.height for bar in changed.bars] == [0, 0, 0]


def test_bars_stand_on_the_ground_from_the_oldest_run_to_the_newest_and_say_what_they_are() -> None:
    [missing, *_] = charts([run(1, 3), run(2, 6)])
    assert [bar.y + bar.height for bar in missing.bars] == [56, 56]
    assert missing.bars[0].x < missing.bars[1].x
    assert missing.bars[1].title == "2026-01-01T00:00:00+00:00, run 00000002: 6"
