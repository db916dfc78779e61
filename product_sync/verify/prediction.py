"""Predicts in a dry run which checks a sync would fail, in the sentences of the checks.

Two checks cannot be predicted, because they are about the load: every_batch_loaded and target_matches_source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from product_sync.compare.diff import DiffCounts
from product_sync.runtime.hints import ONLY_SYNC, SyncCommands
from product_sync.schema.scope import EVERYTHING, Scope
from product_sync.verify import checks
from product_sync.verify.checks import CheckResult, Severity

#: Not a check of its own: a sync that lacks a privilege does not begin to load.
PRIVILEGES = "privileges"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The results that the checks of a sync would have if it started now."""

    check_results: tuple[CheckResult, ...]

    @property
    def would_pass(self) -> bool:
        return not any(result.is_red for result in self.check_results)

    @property
    def sentence(self) -> str:
        """The prediction as text: the first words say whether the sync would pass or fail."""
        if failed := _said(result for result in self.check_results if result.is_red):
            return f"A sync would fail: {failed}"
        if warnings := _said(result for result in self.check_results if result.warns):
            return f"A sync would pass, with a warning: {warnings}"
        return "A sync would pass the checks that can be predicted."


def predict(
    counts: DiffCounts,
    *,
    source: CheckResult,
    mapping: CheckResult,
    change: CheckResult,
    lacking: str,
    quarantined_by_reason: Mapping[str, int],
    quarantine_budget: float,
    deletes: bool,
    deletion_obstacle: str | None,
    commands: SyncCommands = ONLY_SYNC,
    scope: Scope = EVERYTHING,
    source_size: int | None = None,
) -> Prediction:
    """``source``, ``mapping`` and ``change`` are the results of the checks that the dry run has made. ``lacking`` names
    the privileges that the role lacks for the load, or is empty. ``deletes`` says that extra rows are to be deleted,
    ``deletion_obstacle`` why they would not be deleted. ``source_size`` is the size of a source of which only some
    documents were read."""
    documents = counts.source_count if source_size is None else source_size
    quarantine = checks.quarantine_within_budget(
        counts.quarantined, documents, quarantined_by_reason, quarantine_budget
    )
    privileges = CheckResult(PRIVILEGES, not lacking, Severity.ERROR, {}, lacking or "The privileges suffice.")
    extra = checks.no_extra_products(counts, (), commands=commands, scope=scope)
    if counts.extra and deletes:
        rows = checks.count(counts.extra, "row")
        why = f"not be deleted: {deletion_obstacle}" if deletion_obstacle else "be deleted."
        extra = CheckResult(extra.check, not deletion_obstacle, Severity.WARN, extra.numbers, f"{rows} would {why}")
    return Prediction((source, mapping, change, privileges, quarantine, extra))


def _said(found: Iterable[CheckResult]) -> str:
    return " ".join(f"{check_result.check}: {check_result.description}" for check_result in found)
