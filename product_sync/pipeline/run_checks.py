"""What a run says about itself: reads what has to be read and asks the verdicts.

A run that has a source snapshot of its own is judged by it, with the target read afresh; a run that has none, such as
the job of checks only, reads both sides. Either way the same functions decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts, diff
from product_sync.pipeline.pending_diff import counts_of
from product_sync.pipeline.sync_run import Session
from product_sync.state import store
from product_sync.state.files import row_count
from product_sync.state.storage_errors import names_storage
from product_sync.verify import checks
from product_sync.verify.checks import Severity, Verdict
from product_sync.verify.verification import Verification, compare_afresh, confirm


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts on what a run came to. ``proven`` is what the copy was proven by: ``None`` where this run has not
    loaded, or where something is red."""

    verdicts: list[Verdict]
    proven: Verification | None


@names_storage
def judge_source(session: Session) -> Verdict:
    """The run's own source snapshot, taken now if it has none."""
    _snapshot_source_once(session)
    return session.judge_source(session.files)


@names_storage
def judge_change(session: Session) -> Verdict:
    """The newest diff, this run's first."""
    return session.judge_change()


@names_storage
def judge_load(session: Session) -> Verdict:
    """The newest load, this run's first."""
    return checks.every_batch_loaded(session.loaded())


@names_storage
def judge_own_load(session: Session) -> list[Verdict]:
    """The load of this run, if it has one."""
    return [judge_load(session)] if session.files.has(store.LOAD_RESULT) else []


@names_storage
def judge_result(session: Session) -> Judgement:
    """Whether the target matches the source, what it has too much, and what is quarantined: one reading for all.

    Where a load of this run has passed, the size of the source becomes the baseline of the next runs.
    """
    verification = _verification(session)
    loaded = session.loaded() if session.files.has(store.LOAD_RESULT) else None
    kept = loaded.kept_referenced if loaded else 0
    judged = [
        checks.target_matches_source(verification, loaded),
        checks.no_extra_products(verification, verification.extra_ids, kept),
        checks.quarantine_within_budget(
            verification.quarantined,
            verification.source_count,
            _by_reason(session, verification),
            session.settings.quarantine_budget,
        ),
    ]
    if not loaded or not all(_passes(verdict) for verdict in [*judged, judge_load(session)]):
        return Judgement(judged, proven=None)
    session.folder.write_baseline(verification.source_count, session.files.run_id)
    return Judgement(judged, proven=verification)


def _passes(verdict: Verdict) -> bool:
    return verdict.passed or verdict.severity is Severity.WARN


def _by_reason(session: Session, verification: Verification) -> dict[str, int]:
    """Documents by reason, as they are now. Of those that the database would not take, only the number is known
    that still have the values which it refused."""
    rejects = session.files.path(store.REJECTS)
    rejected = row_count(rejects)
    by_reason = {str(reason): count for reason, count in quarantine.summary(rejects).items()} if rejected else {}
    return by_reason | {"kept_out_by_database": verification.quarantined - rejected}


def _snapshot_source_once(session: Session) -> None:
    with session.files.alone():
        if not session.files.has(store.SOURCE_COUNT):
            session.snapshot_source()


def _verification(session: Session) -> Verification:
    proven = _diff_is_the_proof(session)
    _snapshot_source_once(session)
    differences = session.files.path(store.DIFF if proven else store.VERIFIED_DIFF)
    counts = counts_of(session.files) if proven else _compare_afresh(session, differences)
    reader = session.reader
    with session.source() as source:
        return confirm(
            session.layout,
            differences,
            counts,
            source=source,
            reader=reader,
            timing=session.timing,
            on_progress=session.on_progress,
            settle_s=session.settings.settle_seconds,
        )


def _compare_afresh(session: Session, out: Path) -> DiffCounts:
    path = session.files.path
    target_rows = path(store.VERIFIED_TARGET_ROWS)
    files = (path(store.SOURCE_ROWS), path(store.REJECTS), target_rows, session.previous_quarantine, out)
    if session.read_ahead(store.VERIFIED_TARGET_ROWS):
        unpaired = session.unpaired(session.files, target_rows)
        return diff(session.layout, *files, metadata=session.metadata, unpaired=unpaired)
    return compare_afresh(
        session.layout,
        *files,
        reader=session.reader,
        timing=session.timing,
        on_progress=session.on_progress,
        metadata=session.metadata,
    )


def _diff_is_the_proof(session: Session) -> bool:
    """Whether this run has read both sides, compared them and found nothing to write: there is no fresher reading."""
    made_here = (store.SOURCE_COUNT, store.TARGET_ROWS, store.DIFF_COUNTS, store.LOAD_RESULT)
    return all(session.files.has(name) for name in made_here) and session.loaded().planned == 0
