"""Every difference that is counted is explained (`bench.Bench.load` checks it for each load), and a sentence concludes
whether the copy agrees. That the page shows it: `orchestration/test_drift_report.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_sync.compare.diff import DiffCounts
from product_sync.load.result import LoadResult
from product_sync.verify.accounting import accounted, conclusion, conclusion_before_proof, found
from product_sync.verify.checks import no_extra_products, quarantine_within_budget, target_matches_source
from product_sync.verify.verification import Verification
from product_sync_tests.load.bench import add_up

COUNTS = DiffCounts(source_count=1000, target_count=990, missing=20, changed=10, extra=4, quarantined=5, refused=2)
VERIFIED = Verification(1000, 1008, 0, 0, 4, 5, 3, (), (), ())


def by_name(counts: DiffCounts, result: LoadResult | None, **how: bool) -> dict[str, int]:
    return {line.name: line.count for line in add_up(counts, result, **how)}


def test_what_no_load_has_touched_still_differs() -> None:
    assert by_name(COUNTS, None) == {"not written": 30, "refused before": 2, "left alone": 4, "cannot be copied": 3}


def test_every_end_of_a_row_has_its_line() -> None:
    result = LoadResult(
        planned=36, inserted=12, taken_back=2, updated=5, deleted=1, conflicts=4, quarantined=3, excluded=1,
        kept_referenced=2, kept_undeletable=2, not_taken_back=1, batches=5, failed_batches=1, not_attempted_batches=1,
    )  # fmt: skip
    assert by_name(COUNTS, result, deletes=True) == {
        "inserted": 10,
        "inserted and taken back": 2,
        "updated": 5,
        "deleted": 1,
        "conflicts": 4,
        "quarantined": 3,
        "excluded": 1,
        "kept": 3,
        "not written": 7,
        "cannot be copied": 3,
    }


def test_extra_rows_that_a_guard_has_kept_are_named_with_its_reason() -> None:
    result = LoadResult(planned=32, inserted=22, updated=10, no_deletion_because="4 rows are more than 5 %.")
    [kept] = [line for line in add_up(COUNTS, result, deletes=True) if line.name == "left alone"]
    assert (kept.count, kept.explained) == (4, "4 rows are more than 5 %.")


def test_what_an_approved_plan_does_not_hold_is_named() -> None:
    result = LoadResult(planned=28, skipped_since_plan=3, inserted=20, updated=5)
    lines = by_name(COUNTS, result, has_plan=True)
    assert lines["not in the plan"] == 32 - 25


def test_a_row_that_nothing_explains_is_not_hidden() -> None:
    result = LoadResult(planned=32, inserted=20, updated=10)
    lines = {line.name: line.count for line in accounted(COUNTS, result, deletes=False, has_plan=False)}
    assert lines["not accounted for"] == 2


@given(st.builds(DiffCounts, *[st.integers(0, 50)] * 7), st.booleans(), st.data())
def test_it_adds_up_whatever_was_done(counts: DiffCounts, deletes: bool, data: st.DataObject) -> None:
    counts = replace(counts, quarantined=counts.quarantined + counts.refused)
    result = LoadResult(planned=counts.to_write + (counts.extra if deletes else 0))
    for name in ("inserted", "updated", "conflicts", "quarantined", "excluded"):
        setattr(result, name, data.draw(st.integers(0, 20)))
    lines = accounted(counts, result, deletes=deletes, has_plan=False)
    assert sum(line.count for line in lines) == sum(line.count for line in found(counts))


class TestConclusion:
    def test_before_a_load_it_says_what_differs_and_that_nothing_was_written(self) -> None:
        assert conclusion_before_proof(COUNTS, None) == (
            "The copy does not agree with the source: 20 missing, 10 changed. Nothing was written."
            " Exceptions: 5 cannot be copied, 4 only in the target."
        )
        agreed = replace(COUNTS, missing=0, changed=0, extra=0, quarantined=0, refused=0)
        assert (
            conclusion_before_proof(agreed, None) == "The copy agrees with the source: 1,000 documents were compared."
        )

    def test_after_a_load_it_promises_nothing_before_the_result_is_verified(self) -> None:
        assert "not verified yet" in conclusion_before_proof(COUNTS, LoadResult())

    @pytest.mark.parametrize("in_flight", [0, 3])
    def test_a_copy_that_agrees_is_called_so_with_its_exceptions(self, in_flight: int) -> None:
        verified = replace(VERIFIED, in_flight=in_flight)
        judged = [
            target_matches_source(verified),
            no_extra_products(verified, ()),
            quarantine_within_budget(5, 1000, {"wrong_type": 5}, 0.01),
        ]
        said = conclusion(judged)
        assert said.startswith("The copy agrees with the source: 1,000 documents and 1,008 rows were compared after")
        assert "Exceptions: 5 cannot be copied, 4 only in the target" in said
        assert ("3 changed while they were read" in said) == bool(in_flight)

    def test_a_red_check_is_in_its_own_words(self) -> None:
        missing = replace(VERIFIED, missing=2, missing_ids=("p1", "p2"))
        said = conclusion([target_matches_source(missing)])
        assert said.startswith("The copy is not proven to agree with the source. 2 missing (first: p1, p2), 0 changed.")
