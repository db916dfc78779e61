"""Runs the checks of `verify.checks` on a run: reads what they need and calls them.

A run with its own source snapshot reads only the target again. A run without one, such as a validation, reads both
sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts, diff
from product_sync.pipeline import change_pass, read_back, shards
from product_sync.pipeline.change_pass import Differing, Followed
from product_sync.pipeline.load_diff import loaded
from product_sync.pipeline.pending_diff import counts_of
from product_sync.pipeline.sync_run import SyncRun
from product_sync.state import store
from product_sync.state.files import row_count
from product_sync.verify import checks
from product_sync.verify.checks import CheckResult
from product_sync.verify.verification import Verification, compare_afresh, confirm


@dataclass(frozen=True, slots=True)
class RunChecks:
    """The check results of a run. ``proven`` is the verification that proves the copy; ``None`` if the run did not
    load, or if a check is red. ``followed`` says up to when changes are compared, after a pass and after a proof."""

    check_results: list[CheckResult]
    proven: Verification | None
    followed: Followed | None = None


def check_snapshot(sync_run: SyncRun) -> list[CheckResult]:
    """Check the run's own source snapshot. Reads both sides first if there is none."""
    _read_once(sync_run)
    return [read_back.check_source(sync_run, sync_run.files), read_back.check_mapping(sync_run, sync_run.files)]


def check_load(sync_run: SyncRun) -> CheckResult:
    return checks.every_batch_loaded(loaded(sync_run), sync_run.commands)


def check_own_load(sync_run: SyncRun) -> list[CheckResult]:
    return [check_load(sync_run)] if sync_run.files.has(store.LOAD_RESULT) else []


def check_result(sync_run: SyncRun) -> RunChecks:
    """Check on one reading of the target whether it matches the source, has extra rows, and how much is quarantined.
    After a load of everything without a red check, the size of the source becomes the baseline of the next runs. A
    partial run proves nothing about the copy."""
    load_result = loaded(sync_run) if sync_run.files.has(store.LOAD_RESULT) else None
    differing = Differing(
        keeps_extra=not sync_run.is_partial or sync_run.settings.extra == "report",
        overtaken=frozenset(load_result.overtaken if load_result else ()),
    )
    verification = _verification(sync_run, differing)
    kept = load_result.kept_referenced if load_result else 0
    judged = [
        checks.target_matches_source(verification, load_result, sync_run.commands, sync_run.scope),
        checks.no_extra_products(verification, verification.extra_ids, kept, sync_run.commands, sync_run.scope),
        checks.quarantine_within_budget(
            verification.quarantined,
            read_back.source_size(sync_run.files) if sync_run.is_partial else verification.source_count,
            _by_reason(sync_run, verification),
            sync_run.settings.quarantine_budget,
        ),
    ]
    if not load_result:
        return RunChecks(judged, proven=None)
    if sync_run.settings.changes:
        settled = replace(
            change_pass.settle(sync_run, differing.reasons),
            change_to_repair_s=change_pass.longest_repair_s(sync_run, differing.reasons),
        )
        return RunChecks(_with_position(judged, settled), proven=None, followed=settled)
    if sync_run.is_partial or any(each.is_red for each in [*judged, check_load(sync_run)]):
        return RunChecks(judged, proven=None)
    sync_run.folder.write_baseline(verification.source_count, sync_run.files.run_id)
    followed = change_pass.record_proof(sync_run, differing.reasons)
    return RunChecks(_with_position(judged, followed), proven=verification, followed=followed)


def _with_position(judged: list[CheckResult], followed: Followed | None) -> list[CheckResult]:
    """Record with the first check, target_matches_source, up to when changes are compared, and what is unsettled."""
    if followed is None:
        return judged
    return [replace(judged[0], numbers={**judged[0].numbers, **followed.numbers}), *judged[1:]]


def _by_reason(sync_run: SyncRun, verification: Verification) -> dict[str, int]:
    """The number of documents by reason, as they are now. Of the documents that the database refused, only the
    number of those is known that still have the refused values."""
    rejects = sync_run.files.path(store.REJECTS)
    rejected = row_count(rejects)
    by_reason = {str(reason): count for reason, count in quarantine.summary(rejects).items()} if rejected else {}
    return by_reason | {"kept_out_by_database": verification.quarantined - rejected}


def _read_once(sync_run: SyncRun) -> None:
    """Read both sides, unless an earlier step of this run has read the source. After a load, `_compare_afresh` reads
    the target."""
    with sync_run.files.alone():
        if not sync_run.files.has(store.SOURCE_COUNT):
            if sync_run.files.has(store.LOAD_BEGAN):
                sync_run.snapshot_source()
            else:
                sync_run.snapshot_both()


def _verification(sync_run: SyncRun, differing: Differing) -> Verification:
    proven = _diff_is_the_proof(sync_run)
    _read_once(sync_run)
    differences = sync_run.files.path(store.DIFF if proven else store.VERIFIED_DIFF)
    if proven:
        counts = counts_of(sync_run.files)
    elif sync_run.files.has(store.CUT):
        counts = shards.verified(sync_run, _compare_afresh)
    else:
        counts = _compare_afresh(sync_run)
    reader = sync_run.reader
    if sync_run.settings.changes and counts.refused:
        differing.add_refused(differences)
    with sync_run.source() as source:
        return confirm(
            sync_run.row_schema,
            differences,
            counts,
            source=source,
            reader=reader,
            timing=sync_run.timing,
            on_progress=sync_run.on_progress,
            settle_s=sync_run.settings.settle_seconds,
            on_confirmed=differing.add,
        )


def verify_shard(sync_run: SyncRun, number: int) -> None:
    """Compare a shard with the target as it is after the load, if `check_result` will need it."""
    if not _diff_is_the_proof(sync_run):
        shards.verify(shards.shard(sync_run, number), _compare_afresh)


def _compare_afresh(sync_run: SyncRun) -> DiffCounts:
    """Compare the source snapshot with the target as it is after the load of this run."""
    path, files = sync_run.files.path, sync_run.files
    out = path(store.VERIFIED_DIFF)
    source, quarantined = (path(store.SOURCE_ROWS), path(store.REJECTS)), sync_run.previous_quarantine
    if files.has(store.TARGET_ROWS) and not files.whole.has(store.LOAD_BEGAN):
        read, unmatched = path(store.TARGET_ROWS), sync_run.unmatched(files, path(store.TARGET_ROWS))
        return diff(
            sync_run.row_schema, *source, read, quarantined, out, metadata=sync_run.metadata, unmatched=unmatched
        )
    return compare_afresh(
        sync_run.row_schema,
        *source,
        path(store.VERIFIED_TARGET_ROWS),
        quarantined,
        out,
        reader=sync_run.reader,
        **sync_run.reading,
    )


def _diff_is_the_proof(sync_run: SyncRun) -> bool:
    """Whether this run read both sides, compared them and found nothing to write: then the diff is the verification."""
    made_here = (store.SOURCE_COUNT, store.TARGET_ROWS, store.DIFF_COUNTS, store.LOAD_RESULT)
    return all(sync_run.files.has(name) for name in made_here) and loaded(sync_run).planned == 0
