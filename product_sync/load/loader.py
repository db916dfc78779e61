"""The load: repairs the differences, one small transaction after the other, and accounts for every row.

A batch that fails is logged with its keys and does not stop the next one. A bad row costs one row. An error that every
batch would meet stops the run, and the rest is reported as not attempted (design section 5).
"""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa

from product_sync.compare import quarantine
from product_sync.load.batch import BatchWork
from product_sync.load.batch_loop import BatchLoop, Write
from product_sync.load.batching import count_rows
from product_sync.load.deletion import DeletionFacts, reason_to_keep
from product_sync.load.excluded_rows import write_excluded
from product_sync.load.pacing import Pacing
from product_sync.load.postponed_rows import PostponedRows
from product_sync.load.result import LoadResult
from product_sync.load.transactions import Transactions
from product_sync.runtime.backoff import RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter, OnProgress
from product_sync.schema.ports import Source, TargetWriter
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import release_memory, table_writer

WRITES = (Op.INSERT, Op.UPDATE)
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """When rows are read again, and when the load stops.

    Rows to insert are read again if the snapshot is older than ``source_recheck_after_s``. The load stops after
    ``failures_in_row`` failed batches in a row, and after more isolated rows than ``isolated_rows`` or
    ``isolated_share`` of the planned ones, whichever is more. With ``only_as_planned`` a row is skipped if its document
    has other values than the plan when it is read again. With ``repeats`` an earlier attempt may have written some of
    the rows: those that are as this load would leave them count as written, not as conflicts.
    """

    source_recheck_after_s: float = 60.0
    failures_in_row: int = 5
    isolated_rows: int = 1_000
    isolated_share: float = 0.01
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    only_as_planned: bool = False
    repeats: bool = False

    def max_isolated_rows(self, planned: int) -> int:
        return max(self.isolated_rows, int(self.isolated_share * planned))

    def is_old(self, taken_at: datetime, now: datetime) -> bool:
        """Whether rows to insert are read again. The age is negative if the clock was set back."""
        return not 0 <= (now - taken_at).total_seconds() <= self.source_recheck_after_s


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
    deletion_facts: DeletionFacts | None = None,
    policy: LoadPolicy = DEFAULT_POLICY,
    result: LoadResult | None = None,
    leave: Path | None = None,
) -> LoadResult:
    """Writes the differences in ``plan`` (a diff file) to the target, and the refused rows to ``rejects_out``.

    ``source_taken_at`` is when the read of the source snapshot began (aware, UTC). Extra rows are deleted only with
    ``deletion_facts``, and after all other rows. Failures of the databases end in the result. Other errors, for example
    a cancellation, propagate; then ``result``, if it was passed in, holds what was done. The rows that it counts as
    ``skipped_since_plan`` beforehand belong to the planned rows. With ``leave``, rows that wait for rows outside of
    ``plan`` are not counted as excluded, but written to that file.
    """
    result = LoadResult() if result is None else result
    result.planned = result.skipped_since_plan + count_rows(plan, WRITES)
    if deletion_facts is not None:
        result.no_deletion_because = reason_to_keep(deletion_facts)
        if result.no_deletion_because is not None:
            _LOGGER.warning("No extra row is deleted. %s", result.no_deletion_because)
    deleting = deletion_facts is not None and result.no_deletion_because is None
    if deleting:
        result.planned += count_rows(plan, (Op.EXTRA,))
    meter = Meter("load", result.planned - result.skipped_since_plan, on_progress, timing)
    transactions = Transactions(writer, policy.retry, timing, on_retry=lambda: meter.advance(0))
    with (
        table_writer(rejects_out, quarantine.rejects_schema(row_schema), metadata=metadata) as rejects,
        table_writer(leave, row_schema.diff_schema, metadata=metadata) if leave else nullcontext() as left,
    ):
        work = BatchWork(
            row_schema,
            source,
            transactions,
            rejects,
            result,
            PostponedRows(rejects_out.parent, row_schema.diff_schema),
            max_isolated=policy.max_isolated_rows(result.planned),
            only_as_planned=policy.only_as_planned,
            repeats=policy.repeats,
        )
        loop = BatchLoop(transactions, pacing, timing, meter, policy.failures_in_row, result)

        def write(rows: pa.Table) -> Write:
            is_old = policy.is_old(source_taken_at, timing.now())
            return partial(work.write, rows, work.recheck(rows, inserts_are_old=is_old))

        try:
            loop.run(plan, WRITES, write)
            if deleting:
                loop.run(plan, (Op.EXTRA,), lambda rows: partial(work.delete, rows))
            write_excluded(row_schema, work, transactions, loop, rejects_out.parent, pacing.batch_size, left)
        finally:
            work.postponed.close()
            result.retries = transactions.retries
            result.duration_s = meter.elapsed_s
            result.rows_per_second = meter.rate
    release_memory()
    return result
