"""One transaction against a server that may stumble: retried, resolved, and cut down to its bad rows.

The load would otherwise lose a hundred good rows with one bad one, or write a batch twice because the answer of
its commit was lost (design section 5, steps 2 and 3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa

from product_sync.errors import CommitOutcomeUnknown, RowsExcluded, RowsRefused, TransientError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import TargetWriter, WriteBatch, Written

_T = TypeVar("_T")


class RetriesExhausted(Exception):
    """The server did not recover in the time that a batch has. The last failure is the ``__cause__``."""


class Transactions:
    """The writer with patience. ``on_retry`` is called before each wait, as a sign of life.

    ``busy_s`` are the seconds that the server has worked so far, ``retries`` how often it was asked again.
    """

    def __init__(
        self,
        writer: TargetWriter,
        policy: RetryPolicy,
        timing: Timing,
        *,
        on_retry: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._writer = writer
        self._policy = policy
        self._timing = timing
        self._on_retry = on_retry
        self._logger = logger
        self._backoff = Backoff(policy, timing)
        self._connection_lost = False
        self.retries = 0
        self.busy_s = 0.0

    def begin_batch(self) -> None:
        """Give the next transactions the time that a new batch has for its retries."""
        self._backoff = Backoff(self._policy, self._timing)

    def write_or_bisect(self, batch: WriteBatch) -> Iterator[tuple[WriteBatch, Written | RowsRefused]]:
        """Write ``batch``; when rows are refused, halve it until they stand alone.

        Yields each part that was committed with what was written, and each refused single row with the
        server's answer: together exactly the rows of ``batch``. Each part is a transaction of its own, because
        deferred constraints fail only at its COMMIT.

        Where other rows are in the way, the server is asked once which rows of the part they keep out: these come as
        one part, with a `RowsExcluded` that holds the obstacles.
        """
        parts = [(batch, False)] if batch.num_rows else []
        while parts:
            part, asked = parts.pop()
            try:
                written = self.write(part)
            except RowsRefused as refusal:
                if isinstance(refusal, RowsExcluded) and not asked:
                    asked = True
                    free, excluded, found = self._without_excluded(part)
                    if found:
                        yield excluded, RowsExcluded(refusal.message, sqlstate=refusal.sqlstate, obstacles=found)
                        parts += [(free, True)] if free.num_rows else []
                        continue
                if part.num_rows == 1:
                    yield part, refusal
                    continue
                middle = part.num_rows // 2
                parts += [(part.slice(middle, part.num_rows - middle), asked), (part.slice(0, middle), asked)]
            else:
                yield part, written

    def _without_excluded(self, part: WriteBatch) -> tuple[WriteBatch, WriteBatch, tuple[Obstacle, ...]]:
        found = tuple(self.obstacles(part))
        excluded = {obstacle.row for obstacle in found}
        ids = part.ids(part.inserts.schema.names[0])
        return (
            part.take([place for place, row_id in enumerate(ids) if row_id not in excluded]),
            part.take([place for place, row_id in enumerate(ids) if row_id in excluded]),
            found,
        )

    def write(self, batch: WriteBatch) -> Written:
        """One transaction, tried until it stands or the time is up (`RetriesExhausted`).

        When the answer of a COMMIT was lost, the server is asked whether it happened before anything is sent again.
        A server that has crashed may have forgotten even what it answered: so too until the writer has settled.
        """
        return self._committed(partial(self._writer.write, batch))

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        """`TargetWriter.write_in_order`, with the same patience."""
        return self._committed(partial(self._writer.write_in_order, steps))

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        """`TargetWriter.obstacles`, with the same patience."""
        return self._with_retries(lambda: self._timed(partial(self._writer.obstacles, batch)))

    def _committed(self, write: Callable[[], Written]) -> Written:
        unknown: CommitOutcomeUnknown | None = None

        def attempt() -> Written:
            nonlocal unknown
            try:
                if unknown is not None and self._timed(partial(self._writer.was_committed, unknown.transaction)):
                    written = _written(unknown)
                else:
                    unknown = None
                    written = self._timed(write)
                # The server does nothing for us while we wait, so this does not count as its work.
                self._writer.settle()
            except CommitOutcomeUnknown as error:
                unknown = error
                raise
            return written

        return self._with_retries(attempt)

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        """`TargetWriter.fetch`, with the same patience."""
        return self._with_retries(lambda: self._timed(lambda: self._writer.fetch(ids)))

    def _with_retries(self, action: Callable[[], _T]) -> _T:
        while True:
            self._backoff.attempt()
            try:
                if self._connection_lost:
                    self._writer.reconnect()
                    self._connection_lost = False
                result = action()
            except TransientError as error:
                self._connection_lost = self._connection_lost or error.connection_lost
                self._on_retry()
                if not self._backoff.wait():
                    raise RetriesExhausted(
                        f"Gave up after {self._policy.total_s:g} s of retries: {error.message}"
                    ) from error
                self.retries += 1
                self._logger.warning("Trying again after: %s", error.message)
            else:
                self._backoff.succeeded()
                return result

    def _timed(self, action: Callable[[], _T]) -> _T:
        started = self._timing.monotonic()
        try:
            return action()
        finally:
            self.busy_s += self._timing.monotonic() - started


def _written(error: CommitOutcomeUnknown) -> Written:
    if not isinstance(error.written, Written):
        raise TypeError(f"CommitOutcomeUnknown carries {type(error.written).__name__} instead of Written")
    return error.written
