"""The interfaces of the two databases, as Protocols.

`sources.mongodb` and `targets.postgres` implement them. `product_sync_tests.fakes` implements them in memory; the same
contract tests run on both, so a fake cannot drift from its server.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from product_sync.schema.changes import ChangePosition, Changes
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.records import SourceBatch, SourceId


class Source(Protocol):
    """A collection."""

    def snapshot(self) -> Generator[SourceBatch, None, None]:
        """Every document once, converted or rejected, in pages of bounded rows and bytes. Closing the generator stops
        the read. Raises `SourceMissing` if the collection does not exist, `Unreachable` or `AccessDenied` if it cannot
        be read, `SourceReadError` if the read fails for longer than the retries last."""

    def estimated_count(self) -> int:
        """The approximate number of documents, from the collection's metadata; for progress only."""

    def whole_count(self) -> tuple[int, bool]:
        """How many documents there are, with those that the filter leaves out, and whether this is exact: they were
        counted, because that was quick."""

    def sample(self) -> list[bytes]:
        """Some whole documents as BSON, with the values of the expressions as further fields, to show which fields
        there are; none if the source is limited to named ids."""

    def sample_ids(self, count: int) -> list[str]:
        """The texts of about ``count`` ids of the whole source at random; fewer if some have no text, or a filter
        leaves them out."""

    def fetch(self, ids: Sequence[SourceId]) -> SourceBatch:
        """The current documents of these ids, read from the primary. Deleted ones are absent."""

    def existing(self, ids: Sequence[SourceId]) -> set[SourceId]:
        """Which of these ids exist now on the primary (a covered query)."""

    def all_exist(self, ids: pa.Table) -> bool:
        """Whether all of these ids (columns ``id`` and `ID_TYPE`, no id twice) exist now on the primary. False also if
        counting cannot show it; then `existing` can."""

    def change_feed(self) -> ChangeFeed:
        """What changes in this collection, on the same connection."""

    def read_after(self, position: ChangePosition) -> None:
        """From now on every read sees at least all changes up to ``position``, also on a member that lags behind."""


class ChangeFeed(Protocol):
    """The changes of a collection: which ids were inserted, replaced, updated or deleted. Both methods raise
    `ChangesUnavailable` if this source cannot be followed, `SourceMissing`, `Unreachable` or `AccessDenied` as
    `Source.snapshot` does, and `SourceReadError` if the reading fails for longer than the retries last."""

    def position(self) -> ChangePosition:
        """The place in the stream now. A full read that begins after this call, and after `Source.read_after` of it,
        has seen every change before the place; `changes` returns all others."""

    def changes(self, since: ChangePosition, *, max_events: int, within_s: float) -> Changes:
        """The ids that changed after ``since``: at most ``max_events`` events, read for about ``within_s`` seconds. If
        the source needs longer to find the first one, there are none, and the position stays.

        Raises `ChangesLost` if events between ``since`` and now cannot be read any more.
        """


class TargetReader(Protocol):
    """The target table, read-only. Rows have ``RowSchema.target_schema``."""

    def snapshot(self) -> Generator[pa.RecordBatch, None, None]:
        """Every row once, from one consistent snapshot, in canonical values. Closing the generator stops the read."""

    def estimated_count(self) -> int:
        """The approximate number of rows, from the server's statistics; for progress only."""

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        """The current rows of these ids, in no defined order. An absent id has no row."""


@dataclass(frozen=True)
class WriteBatch:
    """The rows that one transaction inserts, updates and deletes. Any of the three may be empty. All tables have
    ``RowSchema.target_schema``. An update is a row of ``new`` and the same row of ``old``. ``old`` and ``deletes`` are
    the values that the target must still hold; of ``old``, the compared columns count."""

    inserts: pa.Table
    new: pa.Table
    old: pa.Table
    deletes: pa.Table

    @property
    def num_rows(self) -> int:
        return int(self.inserts.num_rows + self.new.num_rows + self.deletes.num_rows)

    def slice(self, offset: int, length: int) -> WriteBatch:
        """The rows ``offset`` to ``offset + length``, counted through inserts, updates and deletes. Copies nothing: a
        value may have 16 MB."""
        updates_at = self.inserts.num_rows
        starts = (self.inserts, 0), (self.new, updates_at), (self.old, updates_at)
        parts = (*starts, (self.deletes, updates_at + self.new.num_rows))
        return WriteBatch(*(_between(table, offset - at, offset - at + length) for table, at in parts))

    def take(self, places: Sequence[int]) -> WriteBatch:
        """The rows at ``places``, counted as in `slice`."""
        updates_at = self.inserts.num_rows
        deletes_at = updates_at + self.new.num_rows
        updates = [place - updates_at for place in places if updates_at <= place < deletes_at]
        return WriteBatch(
            inserts=_taken(self.inserts, [place for place in places if place < updates_at]),
            new=_taken(self.new, updates),
            old=_taken(self.old, updates),
            deletes=_taken(self.deletes, [place - deletes_at for place in places if place >= deletes_at]),
        )

    def ids(self, key: str) -> list[str]:
        """The ids of all rows, in the same order."""
        return [row_id for table in (self.inserts, self.new, self.deletes) for row_id in table[key].to_pylist()]


def _between(table: pa.Table, start: int, end: int) -> pa.Table:
    start = min(max(start, 0), table.num_rows)
    return table.slice(start, max(end - start, 0))


def _taken(table: pa.Table, places: Sequence[int]) -> pa.Table:
    return table.take(pa.array(places, pa.int64())) if places else table.slice(0, 0)


@dataclass(frozen=True)
class Written:
    """The ids that a committed transaction wrote. A requested id that is in none of them was not written: the target
    had changed (a conflict), or a trigger suppressed the row."""

    inserted: frozenset[str] = field(default_factory=frozenset)
    updated: frozenset[str] = field(default_factory=frozenset)
    deleted: frozenset[str] = field(default_factory=frozenset)

    @property
    def num_rows(self) -> int:
        return len(self.inserted) + len(self.updated) + len(self.deleted)

    def joined(self, other: Written) -> Written:
        """The ids of both."""
        return Written(self.inserted | other.inserted, self.updated | other.updated, self.deleted | other.deleted)


class TargetWriter(Protocol):
    """The one connection that writes. It holds the sync's advisory lock while it is open.

    ``write``, ``write_in_order``, ``settle`` and ``probe`` raise `TransientError`, `CommitOutcomeUnknown`,
    `RowsRefused` (`RowsExcluded` if another row is in the way) or `EveryBatchWouldFail`. A failed transaction leaves
    nothing behind.
    """

    def write(self, batch: WriteBatch) -> Written:
        """One transaction: insert unless the id exists, update and delete by compare-and-swap, commit."""

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        """One transaction of several steps, each as in `write`, with deferrable constraints checked at its end. If a
        step writes fewer rows than requested, the transaction is rolled back."""

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        """Which rows are in the way of rows of ``batch``, as far as the constraints and the role's rights show. An
        earlier row of the batch with the same value counts. Raises the errors of ``write``."""

    def probe(self, batch: WriteBatch) -> Written:
        """`write` with deferred constraints checked at once, rolled back instead of committed."""

    def settle(self) -> None:
        """If COMMIT did not wait for the disk, wait until the last commit would survive a crash of the server. Until
        then nothing written counts. Raises `CommitOutcomeUnknown` if that cannot be known."""

    def was_committed(self, transaction: str) -> bool:
        """Whether the transaction of a `CommitOutcomeUnknown` was committed. Waits while it is in progress."""

    def reconnect(self) -> None:
        """Open a new connection and take the lock again. Raises `TransientError` while the server is unreachable,
        `SyncAlreadyRunning` if another sync has taken the lock."""

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        """As `TargetReader.fetch`, on this connection."""


@dataclass(frozen=True, slots=True)
class Signals:
    """The load of the target at one moment. ``None`` is an unknown value; ``unseen`` says which and why. ``latency_s``
    is one round trip in seconds. ``lock_waits`` counts sessions that wait for a lock, ``active_sessions`` other
    sessions that execute a statement. ``replica_lag_s`` is the lag of the slowest replica, 0 without a replica."""

    latency_s: float | None = None
    lock_waits: int | None = None
    active_sessions: int | None = None
    replica_lag_s: float | None = None
    unseen: tuple[str, ...] = ()


class PressureProbe(Protocol):
    """Measures the load of the target on a connection of its own."""

    def measure(self) -> Signals:
        """Cheap, waits for no lock and never fails: `Signals.unseen` names the unknown values."""
