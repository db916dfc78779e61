"""Runs the batches of a load one after the other, and decides after each failure whether the next one is tried.

If the target does not rest between batches, a batch is prepared while the one before it is written, and the check after
its commit runs while the next one is written.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa

from product_sync.compare import diff_rows
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
from product_sync.load.batch import PostCommitCheck
from product_sync.load.batching import MAX_BATCH_BYTES, read_batches
from product_sync.load.pacing import Pacing
from product_sync.load.result import BatchFailure, LoadResult
from product_sync.load.transactions import RetriesExhausted, Transactions
from product_sync.results import ErrorInfo
from product_sync.runtime import prefetch
from product_sync.runtime.clock import Timing
from product_sync.runtime.progress import Meter
from product_sync.schema.records import Op
from product_sync.state.files import MemoryRelease

_LOGGER = logging.getLogger(__name__)
#: Keys per logged failure, and failures in the result.
_LOGGED_KEYS: Final = 200
_KEPT_FAILURES: Final = 20
#: Errors that fail one batch, and errors that stop the load.
_OF_ONE_BATCH: Final = (RetriesExhausted, SourceReadError, Unreachable)
_OF_EVERY_BATCH: Final = (EveryBatchWouldFail, SyncAlreadyRunning, AccessDenied, SourceMissing, LoadStopped)
_T = TypeVar("_T")

#: Writes a batch. Returns the check that is left to do after the commit, if any.
Write = Callable[[], PostCommitCheck | None]
#: Reads what a batch of rows needs; returns how to write it.
Prepare = Callable[[pa.Table], Write]


@dataclass
class BatchLoop:
    """Runs batches with the pauses of ``pacing``, and counts them in ``result``. ``max_failures_in_row`` failed
    batches in a row stop the load."""

    transactions: Transactions
    pacing: Pacing
    timing: Timing
    meter: Meter
    max_failures_in_row: int
    result: LoadResult
    _failures_in_row: int = 0
    #: The number and the rows of the last batch, and its check.
    _unchecked: tuple[int, pa.Table, PostCommitCheck] | None = None

    def run(self, plan: Path, ops: Collection[Op], prepare: Prepare) -> None:
        """Prepares and writes each batch of ``ops`` in the diff file."""
        release = MemoryRelease()
        for rows, prepared in self._batches(plan, ops, prepare):
            release.passed(int(rows.nbytes))
            if not self._is_stopped(rows):
                self._run_paced(rows, prepared)
                self.meter.advance(rows.num_rows)
        self._check_last()

    def run_one(self, rows: pa.Table, write: Write) -> bool:
        """Writes postponed rows as a batch. Returns false if it failed, or was not tried because the load stopped."""
        if self._is_stopped(rows):
            return False
        failed_before = self.result.failed_batches
        self._run_paced(rows, lambda: write)
        self.meter.advance(0)
        return self.result.failed_batches == failed_before

    def read(self, rows: pa.Table, read: Callable[[], None]) -> bool:
        """Reads for batches of postponed rows. If it fails or is not tried, counts a batch and returns false."""
        if self._is_stopped(rows):
            return False
        self.transactions.begin_batch()
        _, error = _tried(read)
        if error is not None:
            self.result.batches += 1
            self._count_failure(self.result.batches, rows, error)
        self.meter.advance(0)
        return error is None

    def _is_stopped(self, rows: pa.Table) -> bool:
        if self.result.stop is None:
            return False
        self.result.not_attempted_batches += 1
        self._note_untried(rows)
        return True

    def _batches(
        self, plan: Path, ops: Collection[Op], prepare: Prepare
    ) -> Iterator[tuple[pa.Table, Callable[[], Write]]]:
        batches = read_batches(plan, ops, self.pacing.batch_size)
        if self.pacing.pausing:
            return ((rows, partial(prepare, rows)) for rows in batches)
        return prefetch.prefetched((rows, self._prepared(rows, prepare)) for rows in batches)

    def _prepared(self, rows: pa.Table, prepare: Prepare) -> Callable[[], Write]:
        """Prepares a batch now. Not after a stop, when nothing is written any more, and not a batch of one huge row,
        which is in memory several times while it is written."""
        if self.result.stop is not None or rows.nbytes > MAX_BATCH_BYTES:
            return partial(prepare, rows)
        return prefetch.completed(partial(prepare, rows)).result

    def _run_paced(self, rows: pa.Table, prepared: Callable[[], Write]) -> None:
        if self.result.batches:
            self.meter.pause(self.pacing.pause_s(), "pause between batches")
        started_at, before_s = self.timing.monotonic(), self.transactions.busy_s
        self._attempt(rows, prepared)
        busy_s = self.transactions.busy_s - before_s
        self.pacing.batch_done(rows.num_rows, busy_s, self.timing.monotonic() - started_at - busy_s)

    def _attempt(self, rows: pa.Table, prepared: Callable[[], Write]) -> None:
        self.result.batches += 1
        number = self.result.batches
        self.transactions.begin_batch()

        def write() -> PostCommitCheck | None:
            return prepared()()

        check, error = _tried(write)
        # First the batch before this one: failures count in the order of the batches.
        self._check_last()
        if error is not None:
            self._count_failure(number, rows, error)
        elif check is None:
            self._failures_in_row = 0
        else:
            self._unchecked = number, rows, check
            if self.pacing.pausing:
                self._check_last()

    def _check_last(self) -> None:
        """Runs the check after the commit that is left of the last batch."""
        if self._unchecked is None:
            return
        number, rows, check = self._unchecked
        self._unchecked = None
        _, error = _tried(check)
        if error is not None:
            self._count_failure(number, rows, error)
        else:
            self._failures_in_row = 0

    def _count_failure(self, number: int, rows: pa.Table, error: Exception) -> None:
        self._failures_in_row += 1
        self.result.failed_batches += 1
        self._note_untried(rows)
        keys = tuple(cut(row_id) for row_id in diff_rows.ids(rows.slice(0, _LOGGED_KEYS)))
        if len(self.result.failures) < _KEPT_FAILURES:
            self.result.failures.append(BatchFailure(number, rows.num_rows, keys, str(error)))
        shown = ", ".join(keys) + (" …" if rows.num_rows > len(keys) else "")
        _LOGGER.error("Batch %d of %d rows failed: %s Keys: %s", number, rows.num_rows, error, shown)
        if isinstance(error, _OF_EVERY_BATCH):
            self._stop(error)
        elif self._failures_in_row >= self.max_failures_in_row:
            self._stop(
                LoadStopped(
                    f"{self._failures_in_row} batches in a row failed, the last one with: {error}",
                    hint="See that both databases answer, then start the sync again: it goes on where it stopped.",
                )
            )

    def _stop(self, error: ProductSyncError) -> None:
        if self.result.stop is None:
            self.result.stop = ErrorInfo.of(error)
            _LOGGER.error("The load stops after batch %d: %s", self.result.batches, error)

    def _note_untried(self, rows: pa.Table) -> None:
        self.result.untried += diff_rows.source_ids(rows.filter(rows["refused_before"]))


def _tried(call: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    """The result of ``call``, or the error that fails the batch."""
    try:
        return call(), None
    except (*_OF_ONE_BATCH, *_OF_EVERY_BATCH) as error:
        return None, error
