"""When a run is green, when it is red, and what it says to do."""

from __future__ import annotations

import pytest

from product_sync.load.result import BatchFailure, LoadResult
from product_sync.results import ErrorInfo, ExclusionReport
from product_sync.runtime.hints import ONLY_SYNC, SyncCommands
from product_sync.verify.checks import (
    Severity,
    change_is_plausible,
    every_batch_loaded,
    no_extra_products,
    quarantine_within_budget,
    source_looks_complete,
    target_matches_source,
)
from product_sync.verify.verification import Verification


@pytest.mark.parametrize(
    ("documents", "baseline", "accepted", "passed"),
    [
        (1, None, None, True),
        (0, None, None, False),
        (0, None, 0, True),
        (0, 100, 0, True),
        (0, 100, 50, False),
        (100, 100, None, True),
        (80, 100, None, True),
        (79, 100, None, False),
        (79, 100, 79, True),
        (79, 100, 80, False),
        (1_000, 10, None, True),
    ],
)
def test_a_source_is_complete_unless_it_is_empty_or_has_shrunk_and_nobody_said_so(
    documents: int, baseline: int | None, accepted: int | None, passed: bool
) -> None:
    check_result = source_looks_complete(documents, baseline, accepted)
    assert (check_result.passed, check_result.severity) == (passed, Severity.ERROR)
    assert check_result.numbers == {"source_count": documents, "baseline": baseline, "accepted": accepted}
    if not passed:
        assert f"--accept-source-count {documents}" in check_result.description


@pytest.mark.parametrize(
    ("changed", "target_count", "accepted", "passed"),
    [
        (0, 0, False, True),
        (100, 100, False, True),
        (101, 201, False, False),
        (101, 202, False, True),
        (101, 101, True, True),
    ],
)
def test_a_mass_change_needs_a_person_who_accepts_it(
    changed: int, target_count: int, accepted: bool, passed: bool
) -> None:
    check_result = change_is_plausible(changed, target_count, accepted)
    assert (check_result.passed, check_result.severity) == (passed, Severity.ERROR)
    assert ("accept_changes" in check_result.description.replace("-", "_")) == (not passed or accepted)


def verification(missing: int = 0, changed: int = 0, extra: int = 0, in_flight: int = 0) -> Verification:
    return Verification(10, 9, missing, changed, extra, 2, in_flight, ("m",) * missing, ("c",) * changed, ())


@pytest.mark.parametrize(("missing", "changed", "passed"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_the_target_matches_when_nothing_is_missing_or_changed(missing: int, changed: int, passed: bool) -> None:
    check_result = target_matches_source(verification(missing, changed, extra=3, in_flight=1))
    assert (check_result.passed, check_result.severity) == (passed, Severity.ERROR)
    assert check_result.numbers == {
        "source_count": 10,
        "target_count": 9,
        "missing": missing,
        "changed": changed,
        "extra": 3,
        "quarantined": 2,
        "in_flight": 1,
        "excluded": 0,
        "missing_ids": ["m"] * missing,
        "changed_ids": ["c"] * changed,
        "extra_ids": [],
    }
    assert "1 were on their way" in check_result.description


def test_rows_that_others_keep_out_are_told_with_the_reason() -> None:
    found = ExclusionReport("a", "b", "unique_title", "a is to have the same title as the row b has.")
    check_result = target_matches_source(verification(changed=1), LoadResult(excluded=1, exclusions=[found]))
    assert not check_result.passed
    assert check_result.description == (
        "0 missing, 1 changed (first: c). 1 row could not be written, because another row is in the way:"
        " a is to have the same title as the row b has."
    )
    several = target_matches_source(verification(changed=9), LoadResult(excluded=8, exclusions=[found] * 8))
    assert "8 rows could not be written, because another row is in the way, the first: a is" in several.description
    assert "Run `product-sync sync`" in several.description, "one of the nine has another reason"


def test_every_batch_loaded_passes_only_without_failed_or_unattempted_batches() -> None:
    assert every_batch_loaded(LoadResult(batches=3)).passed
    failed = every_batch_loaded(
        LoadResult(batches=3, failed_batches=1, failures=[BatchFailure(2, 1, ("a",), "deadlock detected")])
    )
    assert (failed.passed, failed.severity) == (False, Severity.ERROR)
    assert "1 of 3 batches failed" in failed.description
    assert "deadlock detected" in failed.description
    stopped = every_batch_loaded(
        LoadResult(
            batches=1,
            failed_batches=1,
            not_attempted_batches=7,
            stop=ErrorInfo("stopped", "No space left.", "Free some."),
        )
    )
    assert not stopped.passed
    assert "7 were not attempted" in stopped.description
    assert "No space left. Free some." in stopped.description


@pytest.mark.parametrize(
    ("quarantined", "passed", "severity"),
    [(0, True, Severity.WARN), (1, False, Severity.WARN), (10, False, Severity.WARN), (11, False, Severity.ERROR)],
)
def test_quarantine_warns_and_over_one_per_cent_it_is_an_error(
    quarantined: int, passed: bool, severity: Severity
) -> None:
    check_result = quarantine_within_budget(quarantined, 1_000, {"not_exact": quarantined}, 0.01)
    assert (check_result.passed, check_result.severity) == (passed, severity)
    assert check_result.numbers == {"quarantined": quarantined, "source_count": 1_000, "not_exact": quarantined}
    assert ("not_exact" in check_result.description) == (quarantined > 0)
    assert ("more than 1 % of the source" in check_result.description) == (severity is Severity.ERROR)


def test_a_larger_quarantine_budget_turns_the_error_into_a_warning() -> None:
    assert quarantine_within_budget(25, 1_000, {}, 0.025).severity is Severity.WARN
    assert "more than 2.5 % of the source" in quarantine_within_budget(26, 1_000, {}, 0.025).description
    assert quarantine_within_budget(1, 1_000, {}, 0).severity is Severity.ERROR


def test_extra_rows_are_a_warning_only() -> None:
    assert no_extra_products(verification(), ()).passed
    check_result = no_extra_products(verification(extra=2), ("x", "y"), kept_referenced=1)
    assert (check_result.passed, check_result.severity) == (False, Severity.WARN)
    assert check_result.numbers == {"extra": 2, "kept_referenced": 1}
    assert "(first: x, y)" in check_result.description
    assert "1 could not be deleted" in check_result.description


def test_the_next_step_names_the_sync_unless_it_is_the_only_one() -> None:
    for sync, command in ((ONLY_SYNC, "`product-sync sync "), (SyncCommands("seller"), "`product-sync sync seller ")):
        assert f"{command}--accept-source-count 0`" in source_looks_complete(0, 5, None, sync).description
        assert f"{command}--accept-changes`" in change_is_plausible(500, 500, False, sync).description
        assert f"{command}--extra delete`" in no_extra_products(verification(extra=1), (), commands=sync).description
        for result in (
            every_batch_loaded(LoadResult(batches=1, failed_batches=1), sync),
            target_matches_source(verification(missing=1), commands=sync),
        ):
            assert f"{command.rstrip()}`" in result.description
