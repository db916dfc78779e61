"""The checks: pure functions that take numbers and return a result with the next step.

They decide whether a run is green. The command line, the checks in the UI and the dry run all call them, so they cannot
come to different conclusions. ``commands`` makes the commands of the next step. ``scope`` is what
was compared; if that is not everything, the description names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from product_sync.compare.diff import DiffCounts
from product_sync.load.result import LoadResult
from product_sync.runtime.hints import ONLY_SYNC, SyncCommands
from product_sync.schema.row_schema import RowColumn
from product_sync.schema.scope import EVERYTHING, Everything, Scope
from product_sync.verify.verification import Verification

MAX_SHRINK = 0.20
MASS_CHANGE_ROWS = 100
MASS_CHANGE_SHARE = 0.5
#: How many excluded rows a result explains.
_SHOWN_EXCLUSIONS = 3


class Severity(StrEnum):
    """What a check that did not pass means: ERROR turns the run red, WARN does not."""

    ERROR = "ERROR"
    WARN = "WARN"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``severity`` matters only if ``passed`` is false. ``numbers`` holds every count that the check used, zeros too,
    and the first ids. ``description`` says what is wrong and what to do next."""

    check: str
    passed: bool
    severity: Severity
    numbers: Mapping[str, Any]
    description: str

    @property
    def is_red(self) -> bool:
        return not self.passed and self.severity is Severity.ERROR

    @property
    def warns(self) -> bool:
        return not self.passed and self.severity is Severity.WARN


def source_looks_complete(
    documents: int,
    baseline: int | None,
    accepted: int | None,
    commands: SyncCommands = ONLY_SYNC,
    scope: Scope = EVERYTHING,
) -> CheckResult:
    """The source is not empty, and not more than 20 % smaller than at the last run that passed (``baseline``, ``None``
    before the first). A person accepts every source of at least ``accepted`` documents; 0 accepts an empty one. Of a
    part of the source, ``documents`` are those that the collection has, by its metadata."""
    there = "read" if scope is EVERYTHING else "in the collection"
    is_accepted = accepted is not None and documents >= accepted
    shrunk = baseline is not None and documents < (1 - MAX_SHRINK) * baseline
    looks_complete = documents > 0 and not shrunk
    if looks_complete:
        description = f"{count(documents, 'document')} {there}."
        if baseline is None:
            description += " There is no count of an earlier successful run to compare it with."
    elif documents == 0:
        description = "The source is empty."
    else:
        description = f"{count(documents, 'document')} {there}, {baseline:,} at the last run that passed."
    if not looks_complete and not is_accepted:
        description += (
            " Nothing was compared or written. Check that the collection is complete. If it is, run"
            f" `{commands.product_sync('sync', '--accept-source-count', str(documents))}`."
        )
    elif not looks_complete:
        description += f" Accepted by accept_source_count = {accepted}."
    numbers = {"source_count": documents, "baseline": baseline, "accepted": accepted}
    return CheckResult("source_looks_complete", looks_complete or is_accepted, Severity.ERROR, numbers, description)


def mapping_fits_source(
    documents: int, columns: Sequence[RowColumn], found: Mapping[str, int], advice: Mapping[str, str]
) -> CheckResult:
    """Every mapped path has a value in some document. ``found`` counts the documents by column; ``advice`` is what to
    write in place of a path that none has."""
    wrong = [column for column in columns if documents and found.get(column.name) == 0]
    description = " ".join(f"{_found_in_none(documents, each)} {advice.get(each.name, '')}".rstrip() for each in wrong)
    numbers = {"source_count": documents, "columns": [column.name for column in wrong], "found_by_column": dict(found)}
    return CheckResult(
        "mapping_fits_source",
        not wrong,
        Severity.WARN,
        numbers,
        f"{description} Check the mapping." if wrong else "Documents have values for all mapped columns.",
    )


def change_is_plausible(
    changed: int, target_count: int, accepted: bool, commands: SyncCommands = ONLY_SYNC
) -> CheckResult:
    """No more than 100 rows, or no more than half of the target, would be overwritten."""
    massive = changed > MASS_CHANGE_ROWS and changed > MASS_CHANGE_SHARE * target_count
    description = f"{changed:,} of {count(target_count, 'row')} of the target would be overwritten."
    if massive and accepted:
        description += " Accepted by accept_changes."
    elif massive:
        description += (
            " Nothing was written. Check the first differences: they may come from a mistake in the mapping or in the"
            f" source. If they are right, run `{commands.product_sync('sync', '--accept-changes')}`."
        )
    numbers = {"changed": changed, "target_count": target_count}
    return CheckResult("change_is_plausible", accepted or not massive, Severity.ERROR, numbers, description)


def target_matches_source(
    verification: Verification,
    load: LoadResult | None = None,
    commands: SyncCommands = ONLY_SYNC,
    scope: Scope = EVERYTHING,
) -> CheckResult:
    """Nothing in the scope is missing or changed, apart from the quarantined. ``load`` is the load of this run: it
    knows the rows that could not be written because other rows are in the way."""
    excluded = load.excluded if load else 0
    if verification.valid:
        apart = f" apart from {verification.quarantined:,} in quarantine" if verification.quarantined else ""
        if isinstance(scope, Everything):
            all_documents = count(verification.source_count, "document")
            description = f"The target agrees with all {all_documents} of the source{apart}."
        else:
            description = f"Both sides agree on {scope}{apart}."
    else:
        description = (
            f"{verification.missing:,} missing{_first(verification.missing_ids)},"
            f" {verification.changed:,} changed{_first(verification.changed_ids)}."
        )
        if load and excluded:
            messages = " ".join(exclusion.message for exclusion in load.exclusions[:_SHOWN_EXCLUSIONS])
            rows = f"{count(excluded, 'row')} could not be written, because another row is in the way"
            description += f" {rows}{':' if excluded <= _SHOWN_EXCLUSIONS else ', the first:'} {messages}"
        if verification.missing + verification.changed > excluded:
            again = commands.product_sync("sync")
            description += f" Run `{again}`; if they come back, something else writes to the target."
    if not isinstance(scope, Everything):
        description += " Nothing else was compared."
    if verification.in_flight:
        description += f" {verification.in_flight:,} were on their way."
    numbers = {**_numbers(verification), "excluded": excluded, **_scope(scope)}
    return CheckResult("target_matches_source", verification.valid, Severity.ERROR, numbers, description)


def every_batch_loaded(result: LoadResult, commands: SyncCommands = ONLY_SYNC) -> CheckResult:
    """Every batch was attempted, and none failed."""
    passed = result.failed_batches == 0 and result.not_attempted_batches == 0 and result.stop is None
    if passed:
        description = f"{count(result.batches, 'batch', 'batches')} loaded."
    else:
        description = (
            f"{result.failed_batches:,} of {count(result.batches, 'batch', 'batches')} failed,"
            f" {result.not_attempted_batches:,} were not attempted."
        )
        if result.stop is not None:
            description += f" The load stopped: {result.stop.message} {result.stop.hint}".rstrip()
        elif result.failures:
            description += f" The first: {result.failures[0].cause}"
        description += f" What was written stays; run `{commands.product_sync('sync')}` again for the rest."
    numbers = {
        "batches": result.batches,
        "failed_batches": result.failed_batches,
        "not_attempted_batches": result.not_attempted_batches,
    }
    return CheckResult("every_batch_loaded", passed, Severity.ERROR, numbers, description)


def quarantine_within_budget(
    quarantined: int, source_count: int, by_reason: Mapping[str, int], budget: float
) -> CheckResult:
    """No document is in quarantine. More than the share ``budget`` of the source is an error. ``by_reason`` has the
    number of documents by reason code."""
    over = quarantined > budget * source_count
    if quarantined == 0:
        description = "No document is in quarantine."
    else:
        reasons = ", ".join(f"{reason}: {documents:,}" for reason, documents in sorted(by_reason.items()) if documents)
        description = (
            f"{quarantined:,} of {count(source_count, 'document')} cannot be copied ({reasons})."
            f"{f' That is more than {100 * budget:g} % of the source (quarantine_budget).' if over else ''}"
            " Correct them in the source, or the mapping if it is wrong. The quarantine lists them."
        )
    numbers = {"quarantined": quarantined, "source_count": source_count, **by_reason}
    return CheckResult(
        "quarantine_within_budget", quarantined == 0, Severity.ERROR if over else Severity.WARN, numbers, description
    )


def no_extra_products(
    counts: DiffCounts | Verification,
    ids: Sequence[str],
    kept_referenced: int = 0,
    commands: SyncCommands = ONLY_SYNC,
    scope: Scope = EVERYTHING,
) -> CheckResult:
    """Every row of the target has a document in the source. ``ids`` are the first ids that have none."""
    extra = counts.extra
    if extra == 0:
        rows = "Every row of the target" if isinstance(scope, Everything) else f"Every row of {scope}"
        description = f"{rows} has a document in the source."
    else:
        description = (
            f"{count(extra, 'row')} of the target {'has' if extra == 1 else 'have'} no document in the source"
            f"{_first(ids)}. {'It is' if extra == 1 else 'They are'} left alone;"
            f" `{commands.product_sync('sync', '--extra', 'delete')}` deletes {'it' if extra == 1 else 'them'}."
        )
    if kept_referenced:
        description += f" {kept_referenced:,} could not be deleted, because another table references them."
    numbers = {"extra": extra, "kept_referenced": kept_referenced}
    return CheckResult("no_extra_products", extra == 0, Severity.WARN, numbers, description)


def _scope(scope: Scope) -> dict[str, str]:
    """What was compared, where it is not everything."""
    return {} if isinstance(scope, Everything) else {"scope": str(scope)}


def _found_in_none(documents: int, column: RowColumn) -> str:
    if column.has_default:
        effect = f"every row gets the default {column.default_text}"
    else:
        effect = "every document is quarantined" if column.required else "it is NULL in every row"
    origin = f"at {column.origin}" if column.expression is None else f"of the expression {column.origin}"
    return f"None of {count(documents, 'document')} has a value {origin} for column {column.name}: {effect}."


def _numbers(verification: Verification) -> dict[str, int | list[str]]:
    """Every count and every list of ids of a verification."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(verification).items()}


def count(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _first(ids: Sequence[str]) -> str:
    return f" (first: {', '.join(ids)})" if ids else ""
