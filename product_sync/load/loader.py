"""The load: repairs what the diff names, one small transaction after the other, and accounts for every row.

It is written for bad days. A batch that fails is logged with its keys and does not stop the next; a bad row costs
one row; an error that every batch would meet stops the run, and the rest is reported as not attempted
(design section 5).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from product_sync.compare import diff_rows, quarantine
from product_sync.conversion.extended_json import cut
from product_sync.errors import (
    AccessDenied,
    EveryBatchWouldFail,
    LoadStopped,
    ProductSyncError,
    SourceMissing,
    SourceReadError,
    SyncAlreadyRunning,
    Unreachable,
)
from product_sync.load import deletion
from product_sync.load.batch import BatchWork, PostCommitCheck
from product_sync.load.batching import MAX_BATCH_BYTES, count_rows, read_batches
from product_sync.load.excluded_rows import ExcludedRows
from product_sync.load.pacing import Pacing
from product_sync.load.postponed_rows import PostponedRows
from product_sync.load.result import BatchFailure, LoadResult, Stop
from product_sync.load.transactions import RetriesExhausted, Transactions
from product_sync.runtime import prefetch
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter, OnProgress
from product_sync.schema.ports import Source, TargetWriter
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import MemoryRelease, parquet_writer, release_memory

WRITES = (Op.INSERT, Op.UPDATE)
_LOGGER = logging.getLogger(__name__)
_LOGGED_KEYS = 200
_KEPT_FAILURES = 20
_T = TypeVar("_T")
#: What a batch may fail with: the next one may succeed, or would meet it too.
_OF_ONE_BATCH = (RetriesExhausted, SourceReadError, Unreachable)
_OF_EVERY_BATCH = (EveryBatchWouldFail, SyncAlreadyRunning, AccessDenied, SourceMissing, LoadStopped)


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """``source_recheck_after_s``: insert rows of an older snapshot are read again before they are written.
    ``failures_in_row`` failing batches in a row stop the run, and so do more isolated rows than ``isolated_rows``
    or ``isolated_share`` of the planned ones, whichever is more. With ``only_as_planned`` a row is left out whose
    document, where it is read again, has other values than the plan."""

    source_recheck_after_s: float = 60.0
    failures_in_row: int = 5
    isolated_rows: int = 1_000
    isolated_share: float = 0.01
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    only_as_planned: bool = False

    def max_isolated_rows(self, planned: int) -> int:
        return max(self.isolated_rows, int(self.isolated_share * planned))


DEFAULT_POLICY = LoadPolicy()


def load(
    plan: Path,
    row_schema: RowSchema,
    source: Source,
    writer: TargetWriter,
    rejects_out: Path,
    *,
    source_taken_at: datetime,
    pacing: Pacing,
    timing: Timing,
    on_progress: OnProgress,
    metadata: Mapping[str, str],
    deletion_facts: deletion.DeletionFacts | None = None,
    policy: LoadPolicy = DEFAULT_POLICY,
    result: LoadResult | None = None,
    logger: logging.Logger = _LOGGER,
) -> LoadResult:
    """Write the differences in ``plan`` (a diff file) to the target, and what was refused to ``rejects_out``.

    ``source_taken_at`` is when reading the source snapshot began (aware, UTC). Extra rows are touched only with
    ``deletion_facts``, and after all others. Failures of the databases end in the result; anything else, a
    cancellation among it, propagates, and then ``result``, if it was handed in, holds what had been done. What it
    counts as ``skipped_since_plan`` beforehand belongs to the planned rows.
    """
    result = LoadResult() if result is None else result
    result.planned = result.skipped_since_plan + count_rows(plan, WRITES)
    if deletion_facts is not None:
        result.no_deletion_because = deletion.obstacle(deletion_facts)
        if result.no_deletion_because is not None:
            logger.warning("No extra row is deleted. %s", result.no_deletion_because)
    deleting = deletion_facts is not None and result.no_deletion_because is None
    if deleting:
        result.planned += count_rows(plan, (Op.EXTRA,))
    meter = Meter("load", result.planned - result.skipped_since_plan, on_progress, timing)
    transactions = Transactions(writer, policy.retry, timing, on_retry=lambda: meter.advance(0), logger=logger)
    with (
        parquet_writer(rejects_out, quarantine.rejects_schema(row_schema), metadata=metadata) as rejects,
        tempfile.TemporaryDirectory(dir=rejects_out.parent, prefix="postponed-") as folder,
        closing(PostponedRows(Path(folder, "first.parquet"), row_schema.diff_schema)) as postponed,
    ):
        work = BatchWork(
            row_schema,
            source,
            transactions,
            rejects,
            result,
            postponed,
            max_isolated=policy.max_isolated_rows(result.planned),
            only_as_planned=policy.only_as_planned,
            logger=logger,
        )

        def write(rows: pa.Table) -> _Write:
            age_s = (timing.now() - source_taken_at).total_seconds()
            # A negative age comes of a clock that was set back.
            is_old = not 0 <= age_s <= policy.source_recheck_after_s
            rechecked = work.recheck(rows, inserts_are_old=is_old)
            return partial(work.write, rows, rechecked)

        def delete(rows: pa.Table) -> _Write:
            return partial(work.delete, rows)

        loop = _BatchLoop(transactions, pacing, timing, meter, policy, result, logger)
        excluded_rows = ExcludedRows(
            row_schema,
            work,
            transactions,
            Path(folder),
            batch_size=pacing.batch_size,
            run_batch=loop.run_one,
            prepare=loop.prepare,
            logger=logger,
        )
        try:
            loop.run(plan, WRITES, write)
            if deleting:
                loop.run(plan, (Op.EXTRA,), delete)
            excluded_rows.write()
        finally:
            result.retries = transactions.retries
            result.duration_s = meter.elapsed_s
            result.rows_per_second = meter.rate
    release_memory()
    return result


#: The writing of a batch; what gives it, having read what it needs; and how that is made of the batch's rows.
_Write = Callable[[], PostCommitCheck | None]
_Prepared = Callable[[], _Write]
_Prepare = Callable[[pa.Table], _Write]


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    rows: pa.Table


class _BatchLoop:
    """Goes through the batches, whatever becomes of each.

    Where the target does not rest between them, a batch is prepared while the one before it is written, and followed up
    while the next one is.
    """

    def __init__(
        self,
        transactions: Transactions,
        pacing: Pacing,
        timing: Timing,
        meter: Meter,
        policy: LoadPolicy,
        result: LoadResult,
        logger: logging.Logger,
    ) -> None:
        self._transactions = transactions
        self._pacing = pacing
        self._timing = timing
        self._meter = meter
        self._policy = policy
        self._result = result
        self._logger = logger
        self._failures_in_row = 0
        self._unfinished: tuple[_Batch, PostCommitCheck] | None = None

    def run(self, plan: Path, ops: Collection[Op], prepare: _Prepare) -> None:
        """Prepare and write each batch of ``ops``, with a pause between any two batches of the load."""
        release = MemoryRelease()
        for rows, prepared in self._coming(plan, ops, prepare):
            release.passed(int(rows.nbytes))
            if self._result.stop is not None:
                self._result.not_attempted_batches += 1
                self._leave_untried(rows)
                continue
            self._run_paced(rows, prepared)
            self._meter.advance(rows.num_rows)
        self._finish()

    def run_one(self, rows: pa.Table, write: _Write) -> bool:
        """Write rows of which an earlier batch has postponed the writing, as a batch of its own."""
        if self._result.stop is not None:
            self._result.not_attempted_batches += 1
            self._leave_untried(rows)
            return False
        failed_before = self._result.failed_batches
        self._run_paced(rows, lambda: write)
        self._meter.advance(0)
        return self._result.failed_batches == failed_before

    def prepare(self, rows: pa.Table, read: _Write) -> bool:
        """Read what is needed for such batches. It counts as one of them only where it fails or is not tried."""
        if self._result.stop is not None:
            self._result.not_attempted_batches += 1
            self._leave_untried(rows)
            return False
        self._transactions.begin_batch()
        _, error = _tried(read)
        if error is not None:
            self._result.batches += 1
            self._failed(_Batch(self._result.batches, rows), error)
        self._meter.advance(0)
        return error is None

    def _run_paced(self, rows: pa.Table, prepared: _Prepared) -> None:
        if self._result.batches:
            self._meter.pause(self._pacing.pause_s(), "pause between batches")
        started_at, before_s = self._timing.monotonic(), self._transactions.busy_s
        self._attempt(rows, prepared)
        busy_s = self._transactions.busy_s - before_s
        self._pacing.batch_done(rows.num_rows, busy_s, self._timing.monotonic() - started_at - busy_s)

    def _coming(self, plan: Path, ops: Collection[Op], prepare: _Prepare) -> Iterator[tuple[pa.Table, _Prepared]]:
        batches = read_batches(plan, ops, self._pacing.batch_size)
        if self._pacing.pausing:
            return ((rows, partial(prepare, rows)) for rows in batches)
        return prefetch.prefetched((rows, self._prepared(rows, prepare)) for rows in batches)

    def _prepared(self, rows: pa.Table, prepare: _Prepare) -> _Prepared:
        prepared = partial(prepare, rows)
        # After a stop nothing is written, so nothing more is read for it. A row of many megabytes is in memory several
        # times while it is written: the next one waits for its turn.
        waits = self._result.stop is not None or rows.nbytes > MAX_BATCH_BYTES
        return prepared if waits else prefetch.completed(prepared).result

    def _attempt(self, rows: pa.Table, prepared: _Prepared) -> None:
        self._result.batches += 1
        batch = _Batch(self._result.batches, rows)
        self._transactions.begin_batch()

        def write() -> PostCommitCheck | None:
            return prepared()()

        follow_up, error = _tried(write)
        # Failures count in the order of the batches.
        self._finish()
        if error is not None:
            self._failed(batch, error)
        elif follow_up is None:
            self._failures_in_row = 0
        else:
            self._unfinished = batch, follow_up
            if self._pacing.pausing:
                self._finish()

    def _finish(self) -> None:
        """Follow up the last batch that waits for it."""
        if self._unfinished is None:
            return
        batch, follow_up = self._unfinished
        self._unfinished = None
        _, error = _tried(follow_up)
        if error is not None:
            self._failed(batch, error)
        else:
            self._failures_in_row = 0

    def _failed(self, batch: _Batch, error: Exception) -> None:
        self._failures_in_row += 1
        self._result.failed_batches += 1
        self._leave_untried(batch.rows)
        keys = tuple(cut(row_id) for row_id in diff_rows.ids(batch.rows.slice(0, _LOGGED_KEYS)))
        failure = BatchFailure(batch.number, batch.rows.num_rows, keys, str(error))
        if len(self._result.failures) < _KEPT_FAILURES:
            self._result.failures.append(failure)
        more = " …" if batch.rows.num_rows > len(keys) else ""
        self._logger.error(
            "Batch %d of %d rows failed: %s Keys: %s%s",
            failure.batch,
            failure.rows,
            failure.cause,
            ", ".join(keys),
            more,
        )
        if isinstance(error, _OF_EVERY_BATCH):
            self._stop(error)
        elif self._failures_in_row >= self._policy.failures_in_row:
            self._stop(
                LoadStopped(
                    f"{self._failures_in_row} batches in a row failed, the last one with: {error}",
                    hint="See that both databases answer, then start the sync again: it goes on where it stopped.",
                )
            )

    def _stop(self, error: ProductSyncError) -> None:
        if self._result.stop is not None:
            return
        self._result.stop = Stop(error.code, error.message, error.hint)
        self._logger.error("The load stops after batch %d: %s", self._result.batches, error)

    def _leave_untried(self, rows: pa.Table) -> None:
        self._result.untried += diff_rows.source_ids(rows.filter(rows["refused_before"]))


def _tried(call: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    """What ``call`` returns, or with what the batch failed."""
    try:
        return call(), None
    except (*_OF_ONE_BATCH, *_OF_EVERY_BATCH) as error:
        return None, error
