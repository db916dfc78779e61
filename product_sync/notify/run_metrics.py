"""The numbers that monitors are given: of the last run of each job, and added up over all runs.

What a run did not come to count is not in here; a monitor must not take it for zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from product_sync.notify.events import FinishedRun, Number

#: Counts of a run that are exported, by their names in reports.
COUNTS: Final = (
    "source_count", "target_count", "missing", "changed", "extra", "in_flight", "quarantined", "inserted", "updated",
    "deleted", "conflicts", "taken_back", "kept_referenced", "excluded", "batches", "failed_batches",
    "not_attempted_batches", "retries",
)  # fmt: skip
#: Rows that a run has written, or that somebody else had.
WRITTEN: Final = ("inserted", "updated", "deleted", "conflicts", "taken_back")
#: More jobs than there are: users may define some of their own.
_JOBS = 20


@dataclass(slots=True)
class JobMetrics:
    """The last run of a job, and how many there were by outcome. Times are seconds since 1970."""

    ended_at: float = 0.0
    outcome: str = ""
    duration_s: float | None = None
    last_success_at: float | None = None
    counts: dict[str, Number] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=lambda: {"success": 0, "failure": 0, "cancelled": 0})


@dataclass(slots=True)
class RunMetrics:
    """By job; ``rows`` are added up over all jobs; ``checks`` holds the last answer of each check."""

    jobs: dict[str, JobMetrics] = field(default_factory=dict)
    rows: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(WRITTEN, 0))
    checks: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """From what `as_json` gave. Raises `TypeError` or `KeyError` for anything else."""
        jobs = {name: JobMetrics(**item) for name, item in content["jobs"].items()}
        return cls(jobs, content["rows"], content["checks"])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def take(self, run: FinishedRun) -> None:
        """Add a run that has ended; the oldest first."""
        if run.job not in self.jobs and len(self.jobs) >= _JOBS:
            return
        job = self.jobs.setdefault(run.job, JobMetrics())
        job.outcome = {True: "success", False: "failure", None: "cancelled"}[run.succeeded]
        job.runs[job.outcome] += 1
        job.ended_at, job.duration_s = run.ended_at, run.duration_s
        job.counts = {name: run.counts[name] for name in COUNTS if name in run.counts}
        if run.succeeded:
            job.last_success_at = run.ended_at
        for name in WRITTEN:
            self.rows[name] += run.counts.get(name, 0)
        self.checks |= {check.check: check.passed for check in run.checks}
