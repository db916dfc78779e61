"""The step that writes: loads the pending diff, and brings the quarantine up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts
from product_sync.errors import AccessDenied
from product_sync.load import loader
from product_sync.load.deletion import DeletionFacts
from product_sync.load.loader import LoadPolicy
from product_sync.load.pacing import Pacing
from product_sync.load.result import BatchFailure, LoadResult
from product_sync.pipeline import read_back, saved_plan
from product_sync.pipeline.pacing import pacing_of_load
from product_sync.pipeline.pending_diff import PendingDiff
from product_sync.pipeline.preconditions import denied
from product_sync.pipeline.sync_run import SyncRun
from product_sync.results import ErrorInfo, ExclusionReport
from product_sync.schema.ports import Source, TargetWriter
from product_sync.schema.records import SourceId
from product_sync.state import store
from product_sync.state.store import RunFiles
from product_sync.targets.postgres.health import Privileges, TargetHealth


@dataclass(frozen=True, slots=True)
class Sides:
    source: Source
    writer: TargetWriter
    pacing: Pacing


def load(run: SyncRun) -> LoadResult:
    """Write the differences, and bring the quarantine up to date, also when the load is stopped on its way. When it is
    cancelled the quarantine stays as it was, and the next run meets the refused rows again. Raises `ChecksFailed` for a
    change that is not plausible and `NotAttempted` where nothing can be written."""
    todo = saved_plan.only_planned(run, run.pending())
    began = run.timing.now()
    result = LoadResult(skipped_since_plan=todo.skipped)
    target = run.target_health()
    if problem := denied_by(run, todo.counts, target):
        raise problem
    with (
        run.source() as source,
        run.writer() as writer,
        pacing_of_load(run.settings, run.databases.target, run.timing) as pacing,
    ):
        policy = replace(run.load_policy, repeats=run.files.has(store.LOAD_BEGAN))
        run.files.write_json(store.LOAD_BEGAN, {})
        run.files.publish(store.LOAD_BEGAN)
        run.on_load(result)
        sides, facts = Sides(source, writer, pacing), deletion_facts(run, todo, target)
        write_diff(run, run.files, todo.path, todo.source_taken_at, sides, facts, result, policy)
        update_quarantine(run, todo.source, [run.files.path(store.LOAD_REJECTS)], result, began)
    run.files.write_json(store.LOAD_RESULT, asdict(result))
    return result


def write_diff(
    run: SyncRun,
    files: RunFiles,
    path: Path,
    source_taken_at: datetime,
    sides: Sides,
    facts: DeletionFacts | None,
    result: LoadResult,
    policy: LoadPolicy,
    leave: Path | None = None,
) -> None:
    """Write the differences in ``path``. What was done is in ``files`` in any case."""
    try:
        loader.load(
            path,
            run.row_schema,
            sides.source,
            sides.writer,
            files.path(store.LOAD_REJECTS),
            source_taken_at=source_taken_at,
            pacing=sides.pacing,
            timing=run.timing,
            on_progress=run.on_progress,
            metadata=run.metadata,
            deletion_facts=facts,
            policy=policy,
            result=result,
            leave=leave,
        )
    finally:
        files.write_json(store.LOAD_RESULT, asdict(result))


def loaded(run: SyncRun) -> LoadResult:
    return load_result_of(run.newest(store.LOAD_RESULT).read_json(store.LOAD_RESULT) or {})


def lacking_privileges(run: SyncRun, counts: DiffCounts, privileges: Privileges) -> list[str]:
    """The privileges that this load needs and the role has not."""
    delete = run.settings.extra == "delete" and counts.extra > 0
    needed = {
        "INSERT": bool(counts.missing) and not privileges.insert,
        "UPDATE": bool(counts.changed) and not privileges.update,
        "DELETE": delete and not privileges.delete,
    }
    return [name for name, is_lacking in needed.items() if is_lacking]


def denied_by(run: SyncRun, counts: DiffCounts, target: TargetHealth) -> AccessDenied | None:
    """The missing privileges, known before the first batch, as an error."""
    return denied(target, run.row_schema.table, lacking_privileges(run, counts, target.privileges))


def deletion_facts(run: SyncRun, todo: PendingDiff, target: TargetHealth) -> DeletionFacts | None:
    """What decides whether extra rows may be deleted; ``None`` if nobody asks for it."""
    if run.settings.extra != "delete":
        return None
    return DeletionFacts(
        extra=todo.counts.extra,
        target_count=read_back.target_size(todo.source, todo.counts),
        source_complete=read_back.check_source(run, todo.source).passed,
        cascading_foreign_keys=[key.name for key in target.foreign_keys if key.cascading],
        max_delete_share=run.settings.max_delete_share,
    )


def update_quarantine(
    run: SyncRun, source: RunFiles, rejects: Sequence[Path], result: LoadResult, since: datetime
) -> None:
    """Merge the rejects of the source snapshot and those of the load into the quarantine."""
    started = run.timing.monotonic()
    documents = [source.path(store.REJECTS), *rejects]

    def merge(path: Path) -> None:
        quarantine.merge(
            run.previous_quarantine,
            documents,
            path,
            now=run.timing.now(),
            run_id=run.files.run_id,
            untried=result.untried,
            since=since,
            scope=run.scope,
        )

    # Alone: the sync's lock may be lost with its connection, and then another sync may have begun.
    run.folder.replaced(store.QUARANTINE).replace(merge)
    result.quarantine_s = run.timing.monotonic() - started


def load_result_of(content: dict[str, Any]) -> LoadResult:
    """`LoadResult` as `dataclasses.asdict` wrote it to JSON."""
    failures = [BatchFailure(**{**failure, "keys": tuple(failure["keys"])}) for failure in content["failures"]]
    untried = [SourceId(*source_id) for source_id in content["untried"]]
    stop = ErrorInfo(**content["stop"]) if content["stop"] else None
    exclusions = [ExclusionReport(**exclusion) for exclusion in content.get("exclusions", [])]
    found = {"failures": failures, "untried": untried, "exclusions": exclusions, "stop": stop}
    return LoadResult(**{**content, **found})
