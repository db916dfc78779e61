"""What a run says about itself: reads what has to be read and asks the verdicts.

A run that has a source snapshot of its own is judged by it, with the target read afresh; a run that has none, such as
the job of checks only, reads both sides. Either way the same functions decide.
"""

from __future__ import annotations

from product_sync.adapters import state
from product_sync.core import quarantine, verdicts
from product_sync.core.diff import DiffCounts
from product_sync.core.verdicts import Verdict
from product_sync.core.verify import Verification, confirm, verify
from product_sync.session import Session


def judge_source(session: Session) -> Verdict:
    """The run's own source snapshot, taken now if it has none."""
    if not session.files.has(state.SOURCE_ROWS):
        session.snapshot_source()
    return session.judge_source(session.files)


def judge_change(session: Session) -> Verdict:
    """The newest diff, this run's first."""
    counts = session.plan().counts
    return verdicts.change_is_plausible(counts.changed, counts.target_count, session.settings.accept_changes)


def judge_load(session: Session) -> Verdict:
    """The newest load, this run's first."""
    return verdicts.every_batch_loaded(session.loaded())


def judge_result(session: Session) -> list[Verdict]:
    """Whether the target matches the source, what it has too much, and what is quarantined: one reading for all."""
    verification = _verification(session)
    verdict = verdicts.target_matches_source(verification)
    loaded = session.files.has(state.LOAD_RESULT)
    if loaded and verdict.passed:
        session.folder.write_baseline(verification.source_count, session.files.run_id)
    kept = session.loaded().kept_referenced if loaded else 0
    by_reason = {str(reason): count for reason, count in quarantine.summary(session.files.path(state.REJECTS)).items()}
    return [
        verdict,
        verdicts.no_extra_products(verification, verification.extra_ids, kept),
        verdicts.quarantine_within_budget(verification.quarantined, verification.source_count, by_reason),
    ]


def _verification(session: Session) -> Verification:
    if not session.files.has(state.SOURCE_ROWS):
        session.snapshot_source()
    reader = session.reader
    with session.source() as source:
        if _nothing_was_written(session):
            counts = DiffCounts(**session.files.read_json(state.DIFF_COUNTS) or {})
            return confirm(
                session.layout,
                session.files.path(state.DIFF),
                counts,
                source=source,
                reader=reader,
                timing=session.timing,
                on_progress=session.on_progress,
                settle_s=session.settle_s(state.TARGET_ROWS),
            )
        session.snapshot_target(state.VERIFIED_TARGET_ROWS)
        return verify(
            session.layout,
            session.files.path(state.SOURCE_ROWS),
            session.files.path(state.REJECTS),
            session.files.path(state.VERIFIED_TARGET_ROWS),
            session.previous_quarantine,
            session.files.path(state.VERIFIED_DIFF),
            source=source,
            reader=reader,
            timing=session.timing,
            on_progress=session.on_progress,
            metadata=session.metadata,
            settle_s=session.settings.settle_seconds,
        )


def _nothing_was_written(session: Session) -> bool:
    """Then the diff that was just made is the reading that proves the result."""
    if not (session.files.has(state.DIFF) and session.files.has(state.LOAD_RESULT)):
        return False
    return session.loaded().planned == 0
