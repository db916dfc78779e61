"""The result of a load, in counts that are always there, also if they are zero.

The load counts while it works, so that a cancelled or stopped run can say what it has done.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from product_sync.results import ErrorInfo, ExclusionReport
from product_sync.schema.records import SourceId

#: With more rows, a full run is cheaper than looking at each of them again.
MAX_OVERTAKEN: Final = 10_000


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """A batch with at least one row that was neither written nor settled. ``keys`` are its first ids."""

    batch: int
    rows: int
    keys: tuple[str, ...]
    cause: str


@dataclass
class LoadResult:
    """What a load has done so far.

    Rows: ``planned`` to be written; ``conflicts`` settled by somebody else meanwhile; ``taken_back``, inserted and
    deleted again because their product was gone; ``kept_referenced``, not deleted because another row references them;
    ``kept_undeletable``, not deleted because the role may not or the database refuses; ``not_taken_back``, the number
    of these two that this load inserted; ``quarantined``, refused or swallowed by the database, or no longer possible
    to copy; ``excluded``, kept out by another row; ``skipped_since_plan``, rows of the executed plan that changed
    since, on either side. ``batches`` were attempted, and ``failed_batches`` of them failed. ``untried`` are documents
    that the database refused in an earlier run and that this run did not try. ``overtaken`` are the ids of the first
    `MAX_OVERTAKEN` rows that somebody else had written before this load could. ``quarantine_s`` are the seconds for
    updating the quarantine. ``stop`` says why the load stopped, and what to do about it.

    If all batches were attempted and none failed, ``planned`` is the sum of inserted, updated, deleted, conflicts,
    quarantined, excluded, skipped and kept rows (`accounting`).
    """

    planned: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    conflicts: int = 0
    skipped_since_plan: int = 0
    taken_back: int = 0
    kept_referenced: int = 0
    kept_undeletable: int = 0
    not_taken_back: int = 0
    quarantined: int = 0
    excluded: int = 0
    batches: int = 0
    failed_batches: int = 0
    not_attempted_batches: int = 0
    retries: int = 0
    duration_s: float = 0.0
    rows_per_second: float = 0.0
    quarantine_s: float = 0.0
    failures: list[BatchFailure] = field(default_factory=list)
    exclusions: list[ExclusionReport] = field(default_factory=list)
    stop: ErrorInfo | None = None
    no_deletion_because: str | None = None
    untried: list[SourceId] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)

    def count_overtaken(self, ids: Collection[str]) -> None:
        self.conflicts += len(ids)
        self.overtaken += sorted(ids)[: MAX_OVERTAKEN - len(self.overtaken)]

    @property
    def kept(self) -> int:
        """Rows that should have been deleted and are still there."""
        return self.kept_referenced + self.kept_undeletable
