"""Says what became of every difference that a run found, in lines that add up to the counts of the comparison.

The readers of the drift report have no access to the databases. So each difference is in exactly one line, and a
difference that no line explains has a line that says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from product_sync.compare.diff import DiffCounts
from product_sync.load.result import LoadResult
from product_sync.verify.checks import CheckResult


@dataclass(frozen=True, slots=True)
class Line:
    """``name`` says what became of ``count`` products, ``explained`` why."""

    name: str
    count: int
    explained: str


def found(counts: DiffCounts) -> list[Line]:
    """The differences that the comparison counted, each product in one line."""
    lines = (
        Line("missing", counts.missing, "in the source, not in the target"),
        Line("changed", counts.changed, "in both, with other values"),
        Line("extra", counts.extra, "only in the target"),
        Line("cannot be copied", counts.quarantined - counts.refused, "documents that do not fit the table"),
        Line("refused before", counts.refused, "documents that the database refused in an earlier run"),
    )
    return [line for line in lines if line.count]


def accounted(counts: DiffCounts, result: LoadResult | None, *, deletes: bool, has_plan: bool) -> list[Line]:
    """What became of the differences. The counts add up to those of `found`. ``result`` is the result of the load,
    ``None`` if no load began. ``deletes`` says that extra rows were to be deleted, ``has_plan`` that only an approved
    plan was executed."""
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
            yield Line("not attempted", not_planned, "the load ended before it reached them: they still differ")
    if not deleting:
        because = result.no_deletion_because if result else None
        yield Line("left alone", counts.extra, because or "rows that only the target has are reported, not deleted")
    yield Line("cannot be copied", counts.quarantined - counts.refused, "in quarantine until the source is corrected")


def _of_load(result: LoadResult) -> Iterator[Line]:
    kept = result.kept - result.not_taken_back
    tried = (
        Line("inserted", result.inserted - result.taken_back, "missing rows, now in the target"),
        Line("inserted and taken back", result.taken_back, "their documents were deleted during the load"),
        Line("updated", result.updated, "changed rows, now as in the source"),
        Line("deleted", result.deleted, "extra rows, each confirmed absent from the source"),
        Line("conflicts", result.conflicts, "changed by others before they were written; those values stay"),
        Line("quarantined", result.quarantined, "refused by the database, or no longer possible to copy"),
        Line("excluded", result.excluded, "a constraint and another row are in the way: they still differ"),
        Line("kept", kept, "extra rows that other rows reference, or that the role may not delete"),
    )
    yield from tried
    left = result.planned - result.skipped_since_plan - sum(line.count for line in tried)
    if result.failed_batches or result.not_attempted_batches or result.stop:
        batches = f"{result.failed_batches:,} batches failed, {result.not_attempted_batches:,} were not attempted"
        yield Line("not written", left, f"{batches}: they still differ")
    else:
        yield Line("not accounted for", left, "this is a bug: please report it, with the run's log")


def conclusion_before_proof(counts: DiffCounts, result: LoadResult | None) -> str:
    """Whether the copy agrees with the source, as far as it is known before the checks after the load."""
    if result is not None:
        return (
            "The load has ended. It is not verified yet whether the copy agrees with the source now. If this sentence"
            " is still here after the end of the run, it could not be verified: the log of the run says why."
        )
    drift = counts.missing + counts.changed
    if drift:
        said = (
            f"The copy does not agree with the source: {counts.missing:,} missing, {counts.changed:,} changed."
            " Nothing was written."
        )
    else:
        said = f"The copy agrees with the source: {counts.source_count:,} documents were compared."
    return _with_exceptions(said, counts.quarantined, counts.extra, 0)


def conclusion(check_results: Sequence[CheckResult]) -> str:
    """Whether the copy agrees with the source, by the checks after the load. One of them is `target_matches_source`."""
    numbers = next(result.numbers for result in check_results if result.check == "target_matches_source")
    quarantined, extra, in_flight = (int(str(numbers[name])) for name in ("quarantined", "extra", "in_flight"))
    if red := [result.description for result in check_results if result.is_red]:
        said = f"The copy is not proven to agree with the source. {' '.join(red)}"
    else:
        said = (
            f"The copy agrees with the source: {numbers['source_count']:,} documents and"
            f" {numbers['target_count']:,} rows were compared after the load."
        )
    return _with_exceptions(said, quarantined, extra, in_flight)


def _with_exceptions(said: str, quarantined: int, extra: int, in_flight: int) -> str:
    exceptions = [
        f"{quarantined:,} cannot be copied" if quarantined else "",
        f"{extra:,} only in the target" if extra else "",
        f"{in_flight:,} changed while they were read" if in_flight else "",
    ]
    named = ", ".join(filter(None, exceptions))
    return f"{said} Exceptions: {named}." if named else said
