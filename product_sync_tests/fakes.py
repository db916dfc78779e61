"""The two databases in memory, with faults on demand, and a clock that does not wait.

They implement the ports of the core. The contract suites run on them and on the real servers alike; what only a
fault can show (a lost commit answer, a kill between two calls) is scripted here, call by call.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import bson
import pyarrow as pa

from product_sync.conversion.document import CODEC_OPTIONS, RowConverter
from product_sync.conversion.ids import source_id, source_key, to_bson
from product_sync.errors import (
    ChangesUnavailable,
    CommitOutcomeUnknown,
    ForeignKeyRefused,
    PrivilegeMissing,
    RowsExcluded,
    RowsRefused,
    SourceMissing,
    TransientError,
)
from product_sync.runtime.clock import Timing
from product_sync.schema.changes import ChangePosition
from product_sync.schema.obstacle import Obstacle, ObstacleKind
from product_sync.schema.ports import ChangeFeed, WriteBatch, Written
from product_sync.schema.records import SourceBatch, SourceId
from product_sync.schema.row_schema import RowSchema

Step = BaseException | Callable[[], object] | None
Row = dict[str, Any]


class FakeTime:
    """A clock that moves only when somebody sleeps, or with `pass_`. ``sleeps`` are the seconds asked for."""

    def __init__(self, start: dt.datetime = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self.sleeps: list[float] = []
        self.chance = 1.0

    def pass_(self, seconds: float) -> None:
        self._seconds += seconds

    def now(self) -> dt.datetime:
        return self._start + dt.timedelta(seconds=self._seconds)

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.pass_(seconds)

    @property
    def timing(self) -> Timing:
        return Timing(now=self.now, monotonic=lambda: self._seconds, sleep=self._sleep, random=lambda: self.chance)


class Script:
    """What happens at which call. A step is an error to raise, or something to do just before the call.

    ``kill_at`` raises `KeyboardInterrupt` at the n-th call of any kind, counted from 1.
    """

    def __init__(self) -> None:
        self._steps: defaultdict[str, deque[Step]] = defaultdict(deque)
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.kill_at: int | None = None

    def on(self, call: str, *steps: Step) -> None:
        """At the next calls of this name; ``None`` is a call without a fault."""
        self._steps[call].extend(steps)

    def play(self, call: str) -> None:
        self.calls[call] += 1
        self.log.append(call)
        if self.calls.total() == self.kill_at:
            raise KeyboardInterrupt
        step = self._steps[call].popleft() if self._steps[call] else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            step()


class FakeSource:
    """A collection: documents by ``_id``, in the order in which they came. ``None`` is one that does not exist."""

    def __init__(
        self, row_schema: RowSchema, documents: Iterable[Mapping[str, Any]] | None = (), *, page_rows: int = 1_000
    ) -> None:
        self._collection = row_schema.collection
        self._exists = documents is not None
        self._converter = RowConverter(row_schema)
        self._page_rows = page_rows
        self._documents: dict[Any, dict[str, Any]] = {}
        self.script = Script()
        for document in documents or ():
            self.put(document)

    def __len__(self) -> int:
        return len(self._documents)

    def put(self, document: Mapping[str, Any]) -> None:
        self._documents[_identity(document["_id"])] = dict(document)

    def remove(self, bson_id: Any) -> None:
        del self._documents[_identity(bson_id)]

    def snapshot(self) -> Generator[SourceBatch, None, None]:
        if not self._exists:
            raise SourceMissing(f"There is no collection {self._collection}.")
        documents = iter(list(self._documents.values()))
        while page := list(itertools.islice(documents, self._page_rows)):
            self.script.play("source.snapshot")
            yield self._converted(page)

    def estimated_count(self) -> int:
        return len(self._documents)

    def whole_count(self) -> tuple[int, bool]:
        return len(self._documents), True

    def sample(self) -> list[bytes]:
        self.script.play("source.sample")
        return [bson.encode(document) for document in itertools.islice(self._documents.values(), 100)]

    def sample_ids(self, count: int) -> list[str]:
        found = (
            source_id(bson_id)
            for bson_id in itertools.islice((each["_id"] for each in self._documents.values()), count)
        )
        return [each.text for each in found if each]

    def fetch(self, ids: Sequence[SourceId]) -> SourceBatch:
        self.script.play("source.fetch")
        keys = [_identity(to_bson(source_id)) for source_id in ids]
        return self._converted([self._documents[key] for key in keys if key in self._documents])

    def existing(self, ids: Sequence[SourceId]) -> set[SourceId]:
        self.script.play("source.existing")
        return {source_id for source_id in ids if _identity(to_bson(source_id)) in self._documents}

    def all_exist(self, ids: pa.Table) -> bool:
        """At a glance this source never knows."""
        self.script.play("source.all_exist")
        return not ids.num_rows

    def change_feed(self) -> ChangeFeed:
        raise ChangesUnavailable("This collection has no change stream.")

    def read_after(self, position: ChangePosition) -> None:
        """Whatever is read is the present."""

    def _converted(self, documents: Iterable[Mapping[str, Any]]) -> SourceBatch:
        return self._converter.batch(bson.encode(document, codec_options=CODEC_OPTIONS) for document in documents)


def _identity(bson_id: Any) -> Any:
    """MongoDB takes 5 of any number type for the same ``_id``."""
    return float(bson_id) if isinstance(bson_id, int | float) else source_key(bson_id)


class FakeTarget:
    """The table and the one connection that writes to it; a reader and a writer in one.

    ``refuses`` names the constraint that a row violates, if any; ids in ``swallows`` vanish in a trigger; ids in
    ``referenced`` cannot be deleted. No two rows may have the same value in a column of ``unique``, at any moment; a
    value of ``parent``, if that is set, has to be the id of a row at the end of each step.
    """

    def __init__(self, row_schema: RowSchema, rows: Iterable[Row] = ()) -> None:
        self._row_schema = row_schema
        self._key = row_schema.key.name
        self.rows: dict[str, Row] = {row[self._key]: dict(row) for row in rows}
        self.script = Script()
        self.refuses: Callable[[Row], str | None] = lambda _: None
        self.swallows: set[str] = set()
        self.referenced: set[str] = set()
        self.unique: tuple[str, ...] = ()
        self.parent: str | None = None
        self.may_delete = True
        self.committed: list[WriteBatch] = []
        self._connected = True
        self._lost_answers: deque[bool] = deque()
        self._outcomes: dict[str, bool] = {}
        self._crash_loses: bool | None = None
        self._unflushed: tuple[WriteBatch, dict[str, Row], Written] | None = None

    def lose_commit_answer(self, *, committed: bool) -> None:
        """The next COMMIT breaks the connection; ``committed`` says what became of it."""
        self._lost_answers.append(committed)

    def crash_before_flush(self, *, loses: bool) -> None:
        """The server crashes after the next COMMIT; ``loses`` says whether that was on its disk."""
        self._crash_loses = loses

    def snapshot(self) -> Generator[pa.RecordBatch, None, None]:
        self.script.play("target.snapshot")
        yield from self._table(self.rows.values()).to_batches(max_chunksize=1_000)

    def estimated_count(self) -> int:
        return len(self.rows)

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        self._play("target.fetch")
        return self._table(self.rows[row_id] for row_id in dict.fromkeys(ids) if row_id in self.rows)

    def write(self, batch: WriteBatch) -> Written:
        self._play("target.write")
        rows, written = self._executed(self.rows, batch)
        return self._commit(batch, rows, written)

    def write_in_order(self, steps: Sequence[WriteBatch]) -> Written:
        self._play("target.write_in_order")
        rows, total = self.rows, Written()
        for number, step in enumerate(steps):
            try:
                rows, written = self._executed(rows, step)
            except RowsRefused as error:
                error.step = number
                raise
            if written.num_rows < step.num_rows:
                return Written()
            total = total.joined(written)
        return self._commit(steps[-1], rows, total)

    def _commit(self, batch: WriteBatch, rows: dict[str, Row], written: Written) -> Written:
        if self._lost_answers:
            return self._commit_in_the_dark(batch, rows, written)
        self._unflushed = (batch, self.rows, written)
        self.rows = rows
        self.committed.append(batch)
        return written

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        self._play("target.obstacles")
        found: list[Obstacle] = []
        wanted = [*self._values(batch.inserts), *self._values(batch.new)]
        for number, row in enumerate(wanted):
            row_id = row[self._key]
            for column in self.unique:
                named = (f"unique_{column}", (column,))
                holders = [other for other in self._others(self.rows.values(), row) if _collide(other, row, column)]
                found += [Obstacle(row_id, other[self._key], ObstacleKind.HELD, *named) for other in holders]
                rivals = [other for other in wanted[:number] if _collide(other, row, column)]
                found += [Obstacle(row_id, other[self._key], ObstacleKind.RIVAL, *named) for other in rivals[:1]]
            if self.parent and row[self.parent] not in (None, row_id, *self.rows):
                found.append(Obstacle(row_id, row[self.parent], ObstacleKind.NEEDED, "parent", (self.parent,)))
        for row in self._values(batch.deletes):
            children = [other for other in self._others(self.rows.values(), row) if self._is_parent(row, other)]
            found += [
                Obstacle(row[self._key], child[self._key], ObstacleKind.REFERRING, "parent", (str(self.parent),))
                for child in children
            ]
        return found

    def _others(self, rows: Iterable[Row], row: Row) -> Iterator[Row]:
        return (other for other in rows if other[self._key] != row[self._key])

    def _is_parent(self, row: Row, other: Row) -> bool:
        return self.parent is not None and bool(other[self.parent] == row[self._key])

    def settle(self) -> None:
        if self._crash_loses is None or self._unflushed is None:
            return
        transaction = str(len(self._outcomes) + 700)
        self._outcomes[transaction] = not self._crash_loses
        batch, rows_before, written = self._unflushed
        if self._crash_loses:
            self.rows = rows_before
            self.committed.remove(batch)
        self._crash_loses = None
        self._connected = False
        raise CommitOutcomeUnknown("the server crashed", transaction=transaction, written=written)

    def probe(self, batch: WriteBatch) -> Written:
        self._play("target.probe")
        return self._executed(self.rows, batch)[1]

    def was_committed(self, transaction: str) -> bool:
        self._play("target.happened")
        return self._outcomes[transaction]

    def reconnect(self) -> None:
        self.script.play("target.reconnect")
        self._connected = True

    def _play(self, call: str) -> None:
        assert self._connected, f"{call} on a lost connection, without reconnect"
        try:
            self.script.play(call)
        except TransientError as error:
            self._connected = not error.connection_lost
            raise

    def _commit_in_the_dark(self, batch: WriteBatch, rows: dict[str, Row], written: Written) -> Written:
        transaction = str(len(self._outcomes) + 700)
        self._outcomes[transaction] = self._lost_answers.popleft()
        if self._outcomes[transaction]:
            self.rows = rows
            self.committed.append(batch)
        self._connected = False
        raise CommitOutcomeUnknown("server closed the connection", transaction=transaction, written=written)

    def _executed(self, before: dict[str, Row], batch: WriteBatch) -> tuple[dict[str, Row], Written]:
        """Three statements, after each of which every row has its parent."""
        rows = dict(before)
        ids = []
        for statement in (self._insert, self._update, self._delete):
            ids.append(frozenset(statement(rows, batch)))
            if self.parent and any(row[self.parent] not in (None, *rows) for row in rows.values()):
                raise ForeignKeyRefused("a row refers to one that is not there", sqlstate="23503")
        return rows, Written(*ids)

    def _insert(self, rows: dict[str, Row], batch: WriteBatch) -> Iterator[str]:
        for row in self._values(batch.inserts):
            if row[self._key] not in rows and row[self._key] not in self.swallows:
                self._check(rows, row)
                rows[row[self._key]] = row
                yield row[self._key]

    def _update(self, rows: dict[str, Row], batch: WriteBatch) -> Iterator[str]:
        compared = [column.name for column in self._row_schema.compared]
        for new, old in zip(self._values(batch.new), self._values(batch.old), strict=True):
            row = rows.get(new[self._key])
            if row is not None and _same(row, old, compared) and new[self._key] not in self.swallows:
                row = row | {name: new[name] for name in compared}
                self._check(rows, row)
                rows[row[self._key]] = row
                yield row[self._key]

    def _delete(self, rows: dict[str, Row], batch: WriteBatch) -> Iterator[str]:
        if batch.deletes.num_rows and not self.may_delete:
            raise PrivilegeMissing("permission denied for table product", sqlstate="42501")
        for old in self._values(batch.deletes):
            row = rows.get(old[self._key])
            if row is not None and _same(row, old, self._row_schema.target_schema.names):
                if row[self._key] in self.referenced:
                    raise ForeignKeyRefused("the row is still referenced from table cart_item", sqlstate="23503")
                del rows[row[self._key]]
                yield row[self._key]

    def _check(self, rows: dict[str, Row], row: Row) -> None:
        if violated := self.refuses(row):
            raise RowsRefused(f"new row violates {violated}", sqlstate="23514")
        for column in self.unique:
            if any(_collide(other, row, column) for other in self._others(rows.values(), row)):
                raise RowsExcluded(f"duplicate key value violates unique_{column}", sqlstate="23505")

    def _table(self, rows: Iterable[Row]) -> pa.Table:
        held = list(rows)
        columns = [pa.array([row[field.name] for row in held], field.type) for field in self._row_schema.target_schema]
        return pa.Table.from_arrays(columns, schema=self._row_schema.target_schema)

    @staticmethod
    def _values(table: pa.Table) -> list[Row]:
        """Canonical values; Python's dates end before PostgreSQL's, so dates and times stay integers."""
        columns = {
            field.name: table[field.name].cast(f"int{field.type.bit_width}")
            if pa.types.is_temporal(field.type)
            else table[field.name]
            for field in table.schema
        }
        rows: list[Row] = pa.table(columns).to_pylist()
        return rows


def _collide(left: Row, right: Row, column: str) -> bool:
    return left[column] is not None and bool(left[column] == right[column])


def _same(left: Row, right: Row, names: Iterable[str]) -> bool:
    return all(_same_value(left[name], right[name]) for name in names)


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return bool(left == right)
