"""The metrics of a sync: the numbers of the last run of each job, and sums over all runs.

A number that a run did not get to count is absent, because a monitor must not take it for zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from product_sync.notify.events import FinishedRun, Number

#: Counts of a run that are exported, by their names in reports.
COUNTS: Final = (
    "source_count", "target_count", "missing", "changed", "extra", "in_flight", "quarantined", "inserted", "updated",
    "deleted", "conflicts", "taken_back", "kept_referenced", "excluded", "batches", "failed_batches",
    "not_attempted_batches", "retries"
)  # fmt: skip
#: How far the source's changes are compared.
FOLLOWED: Final = ("position_at", "full_proof_at", "unsettled")
#: Counts of rows that are summed over all runs.
WRITTEN: Final = ("inserted", "updated", "deleted", "conflicts", "taken_back")
#: Bounds for the state; a sync has four jobs, and users may define some of their own.
_JOBS, _SYNCS = 20, 100


@dataclass(slots=True)
class JobMetrics:
    """The last run of a job, and the number of its runs by outcome. Times are in seconds since 1970."""

    ended_at: float = 0.0
    outcome: str = ""
    duration_s: float | None = None
    last_success_at: float | None = None
    counts: dict[str, Number] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=lambda: {"success": 0, "failure": 0, "cancelled": 0})


@dataclass(slots=True)
class SyncMetrics:
    """``rows`` are sums over all jobs; ``checks`` has the last result of each check. ``followed`` says how far the
    source's changes are compared: `FOLLOWED`, times in seconds since 1970."""

    jobs: dict[str, JobMetrics] = field(default_factory=dict)
    rows: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(WRITTEN, 0))
    checks: dict[str, bool] = field(default_factory=dict)
    followed: dict[str, Number] = field(default_factory=dict)


@dataclass(slots=True)
class RunMetrics:
    """The metrics of all syncs, by the name of the sync."""

    syncs: dict[str, SyncMetrics] = field(default_factory=dict)

    def follow(self, sync: str, followed: dict[str, Number]) -> bool:
        """Note how far the changes of a sync are compared. Returns whether that has changed."""
        if sync not in self.syncs and len(self.syncs) >= _SYNCS:
            return False
        metrics = self.syncs.setdefault(sync, SyncMetrics())
        has_changed, metrics.followed = metrics.followed != followed, followed
        return has_changed

    def add(self, run: FinishedRun) -> None:
        """Add a run that has ended; the oldest first."""
        if run.sync not in self.syncs and len(self.syncs) >= _SYNCS:
            return
        metrics = self.syncs.setdefault(run.sync, SyncMetrics())
        if run.job not in metrics.jobs and len(metrics.jobs) >= _JOBS:
            return
        for name in WRITTEN:
            metrics.rows[name] += run.counts.get(name, 0)
        if run.scope == "ids":  # the last counts and checks are those of runs that looked at everything
            return
        job = metrics.jobs.setdefault(f"{run.sync}_sync_changes" if run.is_partial else run.job, JobMetrics())
        job.outcome = {True: "success", False: "failure", None: "cancelled"}[run.succeeded]
        job.runs[job.outcome] += 1
        job.ended_at, job.duration_s = run.ended_at, run.duration_s
        job.counts = {name: run.counts[name] for name in COUNTS if name in run.counts}
        if run.succeeded:
            job.last_success_at = run.ended_at
        if run.is_partial:
            return
        metrics.checks |= {check.check: check.passed for check in run.checks}
