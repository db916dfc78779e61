"""A dry run says which checks a sync would fail, in the sentences of the checks."""

from __future__ import annotations

from product_sync.compare.diff import DiffCounts
from product_sync.verify.checks import change_is_plausible, mapping_fits_source, source_looks_complete
from product_sync.verify.prediction import Prediction, predict


def predicted(
    *,
    extra: int = 0,
    quarantined: int = 0,
    changed: int = 1,
    lacking: str = "",
    deletes: bool = False,
    obstacle: str | None = None,
    baseline: int | None = None,
) -> Prediction:
    counts = DiffCounts(1_000, 1_000, 1, changed, extra, quarantined, 0)
    return predict(
        counts,
        source=source_looks_complete(1_000, baseline, None),
        mapping=mapping_fits_source(1_000, [], {}, {}),
        change=change_is_plausible(changed, 1_000, False),
        lacking=lacking,
        quarantined_by_reason={"wrong_type": quarantined},
        quarantine_budget=0.01,
        deletes=deletes,
        deletion_obstacle=obstacle,
    )


def test_where_nothing_stands_in_the_way_a_sync_would_pass() -> None:
    assert predicted().would_pass
    assert predicted().sentence == "A sync would pass the checks that can be predicted."


def test_a_quarantine_over_its_budget_would_turn_a_sync_red_and_one_within_it_would_warn() -> None:
    assert not predicted(quarantined=11).would_pass
    assert predicted(quarantined=11).sentence.startswith("A sync would fail: quarantine_within_budget: 11 of 1,000")
    assert predicted(quarantined=10).would_pass
    assert "with a warning: quarantine_within_budget: 10 of 1,000" in predicted(quarantined=10).sentence


def test_a_source_that_shrank_a_mass_change_and_a_lacking_privilege_would_each_stop_a_sync() -> None:
    assert "source_looks_complete: 1,000 documents read, 2,000 at" in predicted(baseline=2_000).sentence
    assert "change_is_plausible: 900 of 1,000 rows" in predicted(changed=900).sentence
    assert "privileges: GRANT INSERT" in predicted(lacking="GRANT INSERT").sentence
    for found in (predicted(baseline=2_000), predicted(changed=900), predicted(lacking="GRANT INSERT")):
        assert sum(check_result.is_red for check_result in found.check_results) == 1


def test_extra_rows_are_left_alone_deleted_or_kept_for_a_reason_that_is_said() -> None:
    assert "2 rows of the target have no document" in predicted(extra=2).sentence
    assert predicted(extra=2, deletes=True).sentence == "A sync would pass the checks that can be predicted."
    kept = predicted(extra=2, deletes=True, obstacle="Deleting would change other tables: fk.")
    assert kept.would_pass
    assert "2 rows would not be deleted: Deleting would change other tables: fk." in kept.sentence
