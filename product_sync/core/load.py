"""The load: repairs what the diff names, one small transaction after the other, and accounts for every row.

It is written for bad days. A batch that fails is logged with its keys and does not stop the next; a bad row costs
one row; an error that every batch would meet stops the run, and the rest is reported as not attempted
(design section 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from product_sync.core import deletion, diff_rows, quarantine
from product_sync.core.batch_work import BatchWork
from product_sync.core.batching import count_rows, read_batches
from product_sync.core.errors import (
    AccessDenied,
    EveryBatchWouldFail,
    LoadStopped,
    ProductSyncError,
    SourceMissing,
    SourceReadError,
    SyncAlreadyRunning,
    Unreachable,
)
from product_sync.core.extended_json import cut
from product_sync.core.layout import Layout
from product_sync.core.load_result import BatchFailure, LoadResult, Stop
from product_sync.core.model import Op
from product_sync.core.pacing import Pacing
from product_sync.core.ports import Source, TargetWriter
from product_sync.core.progress import Meter, OnProgress
from product_sync.core.retry import RetryPolicy
from product_sync.core.tables import parquet_writer, release_memory
from product_sync.core.timing import Timing
from product_sync.core.transactions import RetriesExhausted, Transactions

WRITES = (Op.INSERT, Op.UPDATE)
_LOGGER = logging.getLogger(__name__)
_LOGGED_KEYS = 200
_KEPT_FAILURES = 20


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
    layout: Layout,
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
    with parquet_writer(rejects_out, quarantine.rejects_schema(layout), metadata=metadata) as rejects:
        work = BatchWork(
            layout,
            source,
            transactions,
            rejects,
            result,
            max_isolated=policy.max_isolated_rows(result.planned),
            only_as_planned=policy.only_as_planned,
            logger=logger,
        )

        def write(rows: pa.Table) -> None:
            age_s = (timing.now() - source_taken_at).total_seconds()
            work.write(rows, inserts_are_old=age_s > policy.source_recheck_after_s)

        loop = _BatchLoop(transactions, pacing, timing, meter, policy, result, logger)
        try:
            loop.run(plan, WRITES, write)
            if deleting:
                loop.run(plan, (Op.EXTRA,), work.delete)
        finally:
            result.retries = transactions.retries
            result.duration_s = meter.elapsed_s
            result.rows_per_second = meter.rate
    release_memory()
    return result


class _BatchLoop:
    """Goes through the batches, whatever becomes of each."""

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

    def run(self, plan: Path, ops: Collection[Op], work: Callable[[pa.Table], None]) -> None:
        """Do ``work`` on each batch of ``ops``, with a pause between any two batches of the load."""
        for rows in read_batches(plan, ops, self._pacing.batch_size):
            if self._result.stop is not None:
                self._result.not_attempted_batches += 1
                self._leave_untried(rows)
                continue
            if self._result.batches:
                self._timing.sleep(self._pacing.pause_s())
            started_at, before_s = self._timing.monotonic(), self._transactions.busy_s
            self._attempt(rows, work)
            busy_s = self._transactions.busy_s - before_s
            self._pacing.batch_done(rows.num_rows, busy_s, self._timing.monotonic() - started_at - busy_s)
            self._meter.advance(rows.num_rows)

    def _attempt(self, rows: pa.Table, work: Callable[[pa.Table], None]) -> None:
        self._result.batches += 1
        self._transactions.begin_batch()
        try:
            work(rows)
        except (RetriesExhausted, SourceReadError, Unreachable) as error:
            self._failed(rows, error)
            if self._failures_in_row >= self._policy.failures_in_row:
                self._stop(
                    LoadStopped(
                        f"{self._failures_in_row} batches in a row failed, the last one with: {error}",
                        hint="See that both databases answer, then start the sync again: it goes on where it stopped.",
                    )
                )
        except (EveryBatchWouldFail, SyncAlreadyRunning, AccessDenied, SourceMissing, LoadStopped) as error:
            self._failed(rows, error)
            self._stop(error)
        else:
            self._failures_in_row = 0

    def _failed(self, rows: pa.Table, error: Exception) -> None:
        self._failures_in_row += 1
        self._result.failed_batches += 1
        self._leave_untried(rows)
        keys = tuple(cut(row_id) for row_id in diff_rows.ids(rows.slice(0, _LOGGED_KEYS)))
        failure = BatchFailure(self._result.batches, rows.num_rows, keys, str(error))
        if len(self._result.failures) < _KEPT_FAILURES:
            self._result.failures.append(failure)
        more = " …" if rows.num_rows > len(keys) else ""
        self._logger.error(
            "Batch %d of %d rows failed: %s Keys: %s%s",
            failure.batch,
            failure.rows,
            failure.cause,
            ", ".join(keys),
            more,
        )

    def _stop(self, error: ProductSyncError) -> None:
        self._result.stop = Stop(error.code, error.message, error.hint)
        self._logger.error("The load stops after batch %d: %s", self._result.batches, error)

    def _leave_untried(self, rows: pa.Table) -> None:
        self._result.untried += diff_rows.source_ids(rows.filter(rows["refused_before"]))
