"""What the core needs from the two databases, as Protocols.

The adapters implement them for MongoDB and PostgreSQL; `product_sync_tests.fakes` implements them in memory,
and the same contract tests run on both, so that a fake cannot drift from the server it stands for.

Tables of rows have the schemas of `RowSchema`: ``target_schema`` for what is in, or goes into, the target.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from product_sync.schema.obstacle import Obstacle
from product_sync.schema.records import SourceBatch, SourceId


class Source(Protocol):
    """The collection of the product service."""

    def snapshot(self) -> Generator[SourceBatch, None, None]:
        """Every document once, in pages of bounded rows and bytes, converted or rejected. Whoever closes it ends the
        reading.

        Raises `SourceMissing` if the collection does not exist, `Unreachable` or `AccessDenied` if it cannot
        be read, `SourceReadError` if it fails in mid-read for longer than retries last.
        """

    def estimated_count(self) -> int:
        """About how many documents there are, from the collection's metadata; for progress only."""

    def fetch(self, ids: Sequence[SourceId]) -> SourceBatch:
        """The documents of these ids as they are now, read from the primary; those that are gone are absent."""

    def existing(self, ids: Sequence[SourceId]) -> set[SourceId]:
        """Which of these ids exist now on the primary (a covered query: ids only)."""

    def all_exist(self, ids: pa.Table) -> bool:
        """Whether every document of ``ids`` (columns ``id`` and `ID_TYPE`, no id twice) exists now on the primary,
        where that can be told without an answer for each; else false, and `existing` has to be asked."""


class TargetReader(Protocol):
    """The cart service's table, read-only. Rows have ``RowSchema.target_schema``."""

    def snapshot(self) -> Generator[pa.RecordBatch, None, None]:
        """Every row once, from one consistent snapshot, in canonical values. Whoever closes it ends the reading."""

    def estimated_count(self) -> int:
        """About how many rows there are, from the server's statistics; for progress only."""

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        """The rows of these ids as they are now; absent ids have no row. Order is not defined."""


@dataclass(frozen=True)
class WriteBatch:
    """What one transaction does: rows to insert, to update, to delete. Any of the three may be empty.

    ``inserts``, ``new``, ``old`` and ``deletes`` have ``RowSchema.target_schema``; ``new`` and ``old`` have the same
    rows in the same order, ``old`` and ``deletes`` are the values that the target must still hold
    (of ``old``, the compared columns count).
    """

    inserts: pa.Table
    new: pa.Table
    old: pa.Table
    deletes: pa.Table

    @property
    def num_rows(self) -> int:
        return int(self.inserts.num_rows + self.new.num_rows + self.deletes.num_rows)

    def slice(self, offset: int, length: int) -> WriteBatch:
        """The rows ``offset`` to ``offset + length`` of inserts, updates and deletes taken in that order."""
        updates_at = self.inserts.num_rows
        deletes_at = updates_at + self.new.num_rows
        return WriteBatch(
            inserts=_cut(self.inserts, offset, length),
            new=_cut(self.new, offset - updates_at, length),
            old=_cut(self.old, offset - updates_at, length),
            deletes=_cut(self.deletes, offset - deletes_at, length),
        )

    def take(self, places: Sequence[int]) -> WriteBatch:
        """The rows at ``places``, counted through inserts, updates and deletes as in `slice`."""
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


def _cut(table: pa.Table, offset: int, length: int) -> pa.Table:
    """The part of rows ``offset`` to ``offset + length`` that lies within the table; both may reach beyond it."""
    start = min(max(offset, 0), table.num_rows)
    stop = min(max(offset + length, start), table.num_rows)
    return table.slice(start, stop - start)


def _taken(table: pa.Table, places: Sequence[int]) -> pa.Table:
    return table.take(pa.array(places, pa.int64())) if places else table.slice(0, 0)


@dataclass(frozen=True)
class Written:
    """Which ids a committed transaction wrote. An id that was asked for and is in none of them was not
    written: the target had changed (a conflict), or a trigger swallowed the row."""

    inserted: frozenset[str] = field(default_factory=frozenset)
    updated: frozenset[str] = field(default_factory=frozenset)
    deleted: frozenset[str] = field(default_factory=frozenset)

    @property
    def num_rows(self) -> int:
        return len(self.inserted) + len(self.updated) + len(self.deleted)

    def joined(self, other: Written) -> Written:
        """What both have written."""
        return Written(self.inserted | other.inserted, self.updated | other.updated, self.deleted | other.deleted)


class TargetWriter(Protocol):
    """The one connection that writes. It holds the sync's advisory lock as long as it lives.

    Errors of ``write``, ``write_in_order``, ``settle`` and ``probe`` are `TransientError`, `CommitOutcomeUnknown`,
    `RowsRefused` (`RowsExcluded` where another row is in the way) or `EveryBatchWouldFail`; nothing of a failed
    transaction remains.
    """

    def write(self, batch: WriteBatch) -> Written:
        """One transaction: insert unless the id exists, update and delete by compare-and-swap, commit."""

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        """One transaction of several steps, each as in `write`, with deferrable constraints checked at its end.

        All or nothing: where a step writes fewer rows than it was asked to, the transaction is rolled back and
        nothing is written.
        """

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        """Which rows are in the way of which rows of ``batch``, as far as the table's constraints and the role's
        rights show it. Rows of the batch that want the same value as an earlier one of it are among them. Errors as of
        ``write``."""

    def probe(self, batch: WriteBatch) -> Written:
        """`write` with deferred constraints checked at once, rolled back instead of committed."""

    def settle(self) -> None:
        """Wait until what `write` committed last would outlive a crash of the server, where its COMMIT did not wait for
        that. Raises `CommitOutcomeUnknown` where it cannot be told; until then nothing that was written counts."""

    def was_committed(self, transaction: str) -> bool:
        """Whether the transaction of a `CommitOutcomeUnknown` was committed. Waits while it is in progress."""

    def reconnect(self) -> None:
        """Open a new connection and take the lock again. Raises `TransientError` while the server is away,
        `SyncAlreadyRunning` if another sync took the lock meanwhile."""

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        """As `TargetReader.fetch`, on this connection."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What the target showed at one look. ``None`` is what could not be seen; ``unseen`` says what and why.

    ``latency_s`` is one round trip in seconds; ``lock_waits`` are sessions that wait for a lock, ``active_sessions``
    those of others that execute a statement; ``replica_lag_s`` seconds that the slowest replica lags behind, 0 without.
    """

    latency_s: float | None = None
    lock_waits: int | None = None
    active_sessions: int | None = None
    replica_lag_s: float | None = None
    unseen: tuple[str, ...] = ()


class PressureProbe(Protocol):
    """Looks at what the target has to bear, beside the connection that writes."""

    def measure(self) -> Signals:
        """Cheap, waits for nobody's lock and never fails: what cannot be seen is `Signals.unseen`."""
