"""What a load did, told in counts that are always there, also when they are zero.

The load fills the result in as it goes, so that a cancelled or stopped run can still say what it had done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from product_sync.schema.records import SourceId


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """A batch of which at least one row was neither written nor settled. ``keys`` are its first ids."""

    batch: int
    rows: int
    keys: tuple[str, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A row that another row keeps out of the target. ``message`` begins with the row's id and says which constraint
    and which other row; ``other`` is that row's id where it is known."""

    id: str
    other: str | None
    constraint: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the rest was not attempted, and what to do about it."""

    code: str
    message: str
    hint: str


@dataclass
class LoadResult:
    """What was done so far.

    Rows: ``planned`` to be tried; ``conflicts`` were settled by somebody else meanwhile; ``taken_back`` were
    inserted and deleted again, because their product had gone; ``kept_referenced`` should have gone, but another
    table references them; ``kept_undeletable`` likewise, but the role may not delete or the table would not let
    go; ``not_taken_back`` of these two were inserted by this load; ``quarantined`` were refused or swallowed by the
    database, or have become impossible to copy. ``batches`` were attempted, ``failed_batches`` of them failed.
    ``untried`` are documents that the database refused before and that this run did not get to. ``quarantine_s`` are
    the seconds that bringing the quarantine up to date took.

    ``skipped_since_plan`` are rows of the executed plan that had changed since, on either side.

    Without failed or unattempted batches ``planned`` is the sum of inserted, updated, deleted, conflicts,
    quarantined, excluded and skipped, and of the extra rows that were kept (`accounting`).
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
    exclusions: list[Exclusion] = field(default_factory=list)
    stop: Stop | None = None
    no_deletion_because: str | None = None
    untried: list[SourceId] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Rows that should have gone and are still there."""
        return self.kept_referenced + self.kept_undeletable
