"""Gathers the content of a drift report: the differences, their causes, what was done, and the counts of past runs.

Its readers have no access to the databases. So everything is read from the files of this run and of earlier ones, and
`drift_page` writes it into one page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts
from product_sync.compare.diff_lines import first_rows
from product_sync.errors import LocalStorageError
from product_sync.load.result import LoadResult
from product_sync.pipeline import pending_diff
from product_sync.pipeline.sync_run import SyncRun
from product_sync.schema.definition import Labels
from product_sync.schema.records import IdType, Op
from product_sync.state import store
from product_sync.state.drift_history import PastDrift, add_to_history
from product_sync.state.files import read_metadata
from product_sync.state.store import StateFolder
from product_sync.verify import accounting
from product_sync.verify.accounting import Line
from product_sync.verify.drift_cause import Side
from product_sync.verify.snapshot_lookup import EarlierFile, Explained, explain_differences

#: How many products of each kind are looked up in earlier snapshots and shown.
EXAMINED = 100
#: How many earlier runs are examined.
_EARLIER_RUNS = 5
#: Bytes that are fetched from a store to examine earlier runs.
_FETCHED_BYTES = 1024 * 1024 * 1024
_SHOWN_QUARANTINED = 50


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Everything that the page shows.

    ``read_at`` is when reading the two sides began. ``outcome`` says in one sentence what the run did about the drift,
    ``conclusion`` whether the copy agrees with the source, as far as it is known. ``found`` and ``accounted`` add up to
    the same number. ``earlier`` has the times of the examined snapshots, ``history`` the last runs with this one last.
    """

    sync: str
    labels: Labels
    run_id: str
    written_at: datetime
    collection: str
    table: str
    read_at: datetime
    counts: DiffCounts
    outcome: str
    conclusion: str
    done: Mapping[str, int]
    found: list[Line]
    accounted: list[Line]
    changed_columns: Mapping[str, int]
    differences: list[Explained]
    earlier: list[datetime]
    quarantined_by_reason: Mapping[str, int]
    first_quarantined: list[dict[str, Any]]
    history: list[PastDrift]

    def of(self, op: Op) -> list[Explained]:
        return [line for line in self.differences if line.difference.op is op]

    @property
    def causes(self) -> dict[str, int]:
        """Lines by cause, the most frequent first."""
        return dict(Counter(str(line.explanation.cause) for line in self.differences).most_common())


def gather(sync_run: SyncRun, outcome: str, result: LoadResult | None) -> DriftReport:
    """The report on the diff of this run, or else on the newest one. ``result`` is the result of the load, if there was
    one. The counts are added to the history of this sync."""
    run = pending_diff.newest(sync_run.folder, sync_run.files, store.DIFF_COUNTS)
    diff, counts, now = run.path(store.DIFF), pending_diff.counts_of(run), sync_run.timing.now()
    source = sync_run.folder.run(read_metadata(diff)[pending_diff.SOURCE_RUN])
    read_at, source_read_at = pending_diff.taken_at(diff), pending_diff.taken_at(source.path(store.SOURCE_ROWS))
    differences, earlier = [], list[EarlierFile]()
    if counts.missing or counts.changed or counts.extra:
        earlier = list(earlier_files(sync_run.folder, {run.run_id, source.run_id, sync_run.files.run_id}, read_at))
        rows = [(op, first_rows(diff, op, EXAMINED)) for op in Op]
        differences = explain_differences(rows, sync_run.row_schema, earlier, source_read_at)
    done = _done(result)
    history = add_to_history(
        sync_run.folder,
        PastDrift(
            sync_run.files.run_id,
            now.isoformat(timespec="seconds"),
            counts.missing,
            counts.changed,
            counts.extra,
            counts.quarantined,
            done.get("conflicts"),
        ),
    )
    rejects = source.path(store.REJECTS)
    return DriftReport(
        sync=sync_run.name,
        labels=sync_run.databases.definition.labels,
        run_id=sync_run.files.run_id,
        written_at=now,
        collection=sync_run.row_schema.collection,
        table=sync_run.row_schema.table.qualified_name,
        read_at=read_at,
        counts=counts,
        outcome=outcome,
        conclusion=accounting.conclusion_before_proof(counts, result),
        done=done,
        found=accounting.found(counts),
        accounted=accounting.accounted(
            counts, result, deletes=sync_run.settings.extra == "delete", has_plan=bool(sync_run.settings.plan)
        ),
        changed_columns=pending_diff.changed_columns_of(run) if counts.changed else {},
        differences=differences,
        earlier=sorted({file.at for file in earlier}, reverse=True),
        quarantined_by_reason=_by_reason(rejects, counts),
        first_quarantined=_first_quarantined(rejects, counts),
        history=history,
    )


def created_at(line: Explained) -> datetime | None:
    """When the product was created, if its ``_id`` is an ObjectId: it begins with the seconds since 1970."""
    if line.id_type != IdType.OBJECT_ID:
        return None
    return datetime.fromtimestamp(int(line.difference.id[:8], 16), UTC)


def earlier_files(folder: StateFolder, own: set[str], before: datetime) -> Iterator[EarlierFile]:
    """The snapshots of the newest runs before this one; of those in a store at most `_FETCHED_BYTES`."""
    runs = [run for run in folder.runs() if run.run_id not in own]
    left = _FETCHED_BYTES
    for run in runs[:_EARLIER_RUNS]:
        files = [
            (Side.SOURCE, store.SOURCE_ROWS, store.REJECTS),
            (Side.TARGET, store.TARGET_ROWS, None),
            (Side.TARGET, store.VERIFIED_TARGET_ROWS, None),
        ]
        for side, name, rejects in files:
            left -= run.to_fetch(name)
            if left < 0:
                return
            try:
                at = pending_diff.taken_at(run.path(name))
            except (OSError, KeyError, LocalStorageError):  # that run did not read it, or it was removed or damaged
                continue
            if at < before:
                yield EarlierFile(side, at, run.path(name), run.path(rejects) if rejects else None)


def _done(result: LoadResult | None) -> dict[str, int]:
    if result is None:
        return {}
    names = ("inserted", "updated", "deleted", "conflicts", "skipped_since_plan", "taken_back", "kept_referenced",
             "excluded", "failed_batches", "not_attempted_batches")  # fmt: skip
    return {name: getattr(result, name) for name in names}


def _by_reason(rejects: Path, counts: DiffCounts) -> dict[str, int]:
    by_reason = {}
    if counts.quarantined > counts.refused:
        by_reason = {str(reason): count for reason, count in quarantine.summary(rejects).items()}
    return by_reason | ({"refused_by_database": counts.refused} if counts.refused else {})


def _first_quarantined(rejects: Path, counts: DiffCounts) -> list[dict[str, Any]]:
    if counts.quarantined == counts.refused:
        return []
    return quarantine.first_entries(rejects, _SHOWN_QUARANTINED)
