"""Prints reports with the largest numbers, for `test_on_terminal.py`."""

from __future__ import annotations

from product_sync.results import StatsReport, SyncReport, ValidationReport
from product_sync.terminal.summaries import show_stats, show_sync, show_validation

LONG_ID = "ring-" + "x" * 90

if __name__ == "__main__":
    show_sync(
        SyncReport(
            run_id="0" * 36, dry_run=True, plan_id="1" * 36, source_count=10_000_000, target_count=10_000_000,
            missing=10_000_000, changed=10_000_000, extra=0, inserted=0, updated=0, deleted=0, quarantined=1,
            duration_s=123_456.7, estimated_s=1_234_567.8,
            first_differences=[{"op": "extra", "id": LONG_ID, "column": "", "old": "x" * 300, "new": ""}],
        )
    )  # fmt: skip
    show_sync(
        SyncReport(
            run_id="0" * 36, source_count=10_000_000, target_count=10_000_000, missing=10_000_000, changed=10_000_000,
            extra=10_000_000, inserted=10_000_000, updated=10_000_000, deleted=10_000_000, quarantined=0,
            conflicts=10_000_000, in_flight=10_000_000, taken_back=10_000_000, kept_referenced=10_000_000,
            batches=100_000, failed_batches=100_000, not_attempted_batches=100_000, duration_s=1.0, valid=True,
        )
    )  # fmt: skip
    show_validation(
        ValidationReport(
            source_count=10_000_000, target_count=10_000_000, missing_in_target=1, changed=0, extra_in_target=0,
            quarantined=0, missing_ids=[LONG_ID], changed_ids=[], extra_ids=["-5"], valid=False,
        )
    )  # fmt: skip
    last = "2026-01-02T03:04:05+01:00"
    show_stats(StatsReport(source_count=1, target_count=1, last_sync_at=last, last_sync_run_id="0" * 36))
