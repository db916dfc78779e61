"""Runs one transaction against a server that may fail: retries it, finds out whether it was committed, bisects it.

Without this module one bad row would cost the hundred good rows of its batch, and a batch whose COMMIT was not answered
would be written twice (design section 5, steps 2 and 3).
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import pyarrow as pa

from product_sync.errors import CommitOutcomeUnknown, RowsExcluded, RowsRefused, TransientError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import TargetWriter, WriteBatch, Written

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")


class RetriesExhausted(Exception):
    """The server did not recover in the time that a batch has. The last failure is the ``__cause__``."""


@dataclass
class Transactions:
    """The writer with retries. ``on_retry`` is called before each wait, to show that the load is alive. ``busy_s`` are
    the seconds that the server has worked, ``retries`` the number of retries."""

    writer: TargetWriter
    policy: RetryPolicy
    timing: Timing
    on_retry: Callable[[], None]
    retries: int = 0
    busy_s: float = 0.0
    _connection_lost: bool = False

    def __post_init__(self) -> None:
        self.begin_batch()

    def begin_batch(self) -> None:
        """Gives the next transactions the time that a new batch has for its retries."""
        self._backoff = Backoff(self.policy, self.timing)

    def write_or_bisect(self, batch: WriteBatch) -> Iterator[tuple[WriteBatch, Written | RowsRefused]]:
        """Writes ``batch``, in parts if the server refuses rows (`bisected`). Each part is a transaction, because
        deferred constraints fail only at COMMIT."""
        return bisected(batch, self.write, self.obstacles)

    def write(self, batch: WriteBatch) -> Written:
        """One transaction, retried until it is committed or the time is up (`RetriesExhausted`). If the answer to
        COMMIT was lost, the server is asked whether it was committed before anything is sent again. The same until the
        writer has settled, because a server that crashes may lose what it has confirmed."""
        return self._committed(partial(self.writer.write, batch))

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        return self._committed(partial(self.writer.write_in_order, steps))

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        return self._with_retries(lambda: self._timed(lambda: self.writer.obstacles(batch)))

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        return self._with_retries(lambda: self._timed(lambda: self.writer.fetch(ids)))

    def _committed(self, write: Callable[[], Written]) -> Written:
        unknown: CommitOutcomeUnknown | None = None

        def attempt() -> Written:
            nonlocal unknown
            try:
                if unknown is not None and self._timed(partial(self.writer.was_committed, unknown.transaction)):
                    written = cast("Written", unknown.written)
                else:
                    unknown = None
                    written = self._timed(write)
                # Not timed: the server does nothing for us meanwhile.
                self.writer.settle()
            except CommitOutcomeUnknown as error:
                unknown = error
                raise
            return written

        return self._with_retries(attempt)

    def _with_retries(self, action: Callable[[], _T]) -> _T:
        while True:
            self._backoff.attempt()
            try:
                if self._connection_lost:
                    self.writer.reconnect()
                    self._connection_lost = False
                result = action()
            except TransientError as error:
                self._connection_lost = self._connection_lost or error.connection_lost
                self.on_retry()
                if not self._backoff.wait():
                    raise RetriesExhausted(
                        f"Gave up after {self.policy.total_s:g} s of retries: {error.message}"
                    ) from error
                self.retries += 1
                _LOGGER.warning("Trying again after: %s", error.message)
            else:
                self._backoff.succeeded()
                return result

    def _timed(self, action: Callable[[], _T]) -> _T:
        started = self.timing.monotonic()
        try:
            return action()
        finally:
            self.busy_s += self.timing.monotonic() - started


def bisected(
    batch: WriteBatch, write: Callable[[WriteBatch], Written], obstacles: Callable[[WriteBatch], list[Obstacle]]
) -> Iterator[tuple[WriteBatch, Written | RowsRefused]]:
    """Calls ``write`` with ``batch``. If it raises `RowsRefused`, halves the batch until each refused row stands alone.

    Yields each part that was accepted with what was written, and each refused row with the refusal: together exactly
    the rows of ``batch``. If other rows keep rows out, ``obstacles`` is asked once which ones: these rows come as one
    part, with a `RowsExcluded` that holds the obstacles.
    """
    parts = [(batch, False)] if batch.num_rows else []
    while parts:
        part, asked = parts.pop()
        try:
            written = write(part)
        except RowsRefused as refusal:
            if isinstance(refusal, RowsExcluded) and not asked:
                asked = True
                if found := tuple(obstacles(part)):
                    free, excluded = _split(part, {obstacle.row for obstacle in found})
                    yield excluded, RowsExcluded(refusal.message, sqlstate=refusal.sqlstate, obstacles=found)
                    parts += [(free, True)] if free.num_rows else []
                    continue
            middle = part.num_rows // 2
            if middle:
                first, second = part.slice(0, middle), part.slice(middle, part.num_rows - middle)
                parts += [(second, asked), (first, asked)]
            else:
                yield part, refusal
        else:
            yield part, written


def _split(batch: WriteBatch, excluded: Collection[str]) -> tuple[WriteBatch, WriteBatch]:
    """The rows whose ids are not in ``excluded``, and those whose ids are."""
    ids = batch.ids(batch.inserts.schema.names[0])
    return (
        batch.take([place for place, row_id in enumerate(ids) if row_id not in excluded]),
        batch.take([place for place, row_id in enumerate(ids) if row_id in excluded]),
    )
