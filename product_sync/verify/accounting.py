"""Accounts for every difference that a run has found: what became of it, in lines that add up to what was counted.

The drift report is read by people who cannot look into the databases. A difference that is counted and not explained
leaves them with a question, so each is in exactly one line, and one that no line explains has a line that says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from product_sync.compare.diff import DiffCounts
from product_sync.load.result import LoadResult
from product_sync.verify.checks import CheckResult, Severity


@dataclass(frozen=True, slots=True)
class Line:
    """``count`` products; ``name`` says what became of them, ``explained`` why."""

    name: str
    count: int
    explained: str


def found(counts: DiffCounts) -> list[Line]:
    """Every difference that the comparison has counted, each product in one line."""
    lines = (
        Line("missing", counts.missing, "in the source, not in the target"),
        Line("changed", counts.changed, "in both, with other values"),
        Line("extra", counts.extra, "only in the target"),
        Line("cannot be copied", counts.quarantined - counts.refused, "documents that do not fit the table"),
        Line("refused before", counts.refused, "documents that the database would not take in an earlier run"),
    )
    return [line for line in lines if line.count]


def accounted(counts: DiffCounts, result: LoadResult | None, *, deletes: bool, has_plan: bool) -> list[Line]:
    """What became of them: the counts add up to those of `found`.

    ``result`` is what the load did, ``None`` where none began; ``deletes`` whether extra rows were to be deleted;
    ``has_plan`` whether only an approved plan was executed.
    """
    return [line for line in _lines(counts, result, deletes=deletes, has_plan=has_plan) if line.count]


def _lines(counts: DiffCounts, result: LoadResult | None, *, deletes: bool, has_plan: bool) -> Iterator[Line]:
    deleting = result is not None and deletes and result.no_deletion_because is None
    if result is None:
        yield Line("not written", counts.missing + counts.changed, "no load began: they still differ")
        yield Line("refused before", counts.refused, "in quarantine; each sync tries them again")
    else:
        yield from _of_load(result)
        to_write = counts.to_write + (counts.extra if deleting else 0)
        not_planned = to_write - (result.planned - result.skipped_since_plan)
        if has_plan:
            yield Line("not in the plan", not_planned, "only the approved plan was executed: they still differ")
        else:
            yield Line("not attempted", not_planned, "the load ended before it came to them: they still differ")
    if not deleting:
        because = result.no_deletion_because if result else None
        yield Line("left alone", counts.extra, because or "products that only the target has are reported, not deleted")
    yield Line("cannot be copied", counts.quarantined - counts.refused, "in quarantine, until the source is mended")


def _of_load(result: LoadResult) -> Iterator[Line]:
    kept = result.kept - result.not_taken_back
    tried = (
        Line("inserted", result.inserted - result.taken_back, "missing products, now in the target"),
        Line("inserted and taken back", result.taken_back, "their documents were deleted meanwhile"),
        Line("updated", result.updated, "changed products, now as in the source"),
        Line("deleted", result.deleted, "extra products, each confirmed absent from the source"),
        Line("conflicts", result.conflicts, "settled by others before they were written; their value stays"),
        Line("quarantined", result.quarantined, "refused by the database, or not to be copied any more"),
        Line("excluded", result.excluded, "another row is in the way, by a constraint of the table: they still differ"),
        Line("kept", kept, "extra products that other rows reference, or that the role may not delete"),
    )
    yield from tried
    left = result.planned - result.skipped_since_plan - sum(line.count for line in tried)
    if result.failed_batches or result.not_attempted_batches or result.stop:
        batches = f"{result.failed_batches:,} batches failed, {result.not_attempted_batches:,} were not attempted"
        yield Line("not written", left, f"{batches}: they still differ")
    else:
        yield Line("not accounted for", left, "this is a bug: please report it, with the run's log")


def first_verdict(counts: DiffCounts, result: LoadResult | None) -> str:
    """What can be said before the result is verified."""
    if result is not None:
        return (
            "The load has ended; whether the copy agrees with the source now is not verified yet. If this sentence"
            " stands here after the run has ended, it could not be verified: the run's log says why."
        )
    drift = counts.missing + counts.changed
    if drift:
        said = (
            f"The copy does not agree with the source: {counts.missing:,} missing, {counts.changed:,} changed."
            " None of it was written."
        )
    else:
        said = f"The copy agrees with the source: {counts.source_count:,} documents were compared."
    return _with_exceptions(said, counts.quarantined, counts.extra, 0)


def final_verdict(check_results: Sequence[CheckResult]) -> str:
    """What the checks after the load say of the copy: `target_matches_source` is among ``verdicts``."""
    numbers = next(
        check_result for check_result in check_results if check_result.check == "target_matches_source"
    ).numbers
    quarantined, extra, in_flight = (int(str(numbers[name])) for name in ("quarantined", "extra", "in_flight"))
    red = [
        check_result
        for check_result in check_results
        if not check_result.passed and check_result.severity is Severity.ERROR
    ]
    if red:
        said = "The copy is not proven to agree with the source. " + " ".join(
            check_result.description for check_result in red
        )
    else:
        said = (
            f"The copy agrees with the source: {numbers['source_count']:,} documents and"
            f" {numbers['target_count']:,} rows were compared after the load."
        )
    return _with_exceptions(said, quarantined, extra, in_flight)


def _with_exceptions(said: str, quarantined: int, extra: int, in_flight: int) -> str:
    exceptions = [
        f"{quarantined:,} cannot be copied" if quarantined else "",
        f"{extra:,} only the target has" if extra else "",
        f"{in_flight:,} were on their way while it was read" if in_flight else "",
    ]
    named = ", ".join(filter(None, exceptions))
    return f"{said} Apart from that: {named}." if named else said
