"""Leaves equal pairs out of the join: on most nights that is every row, and a join of them all is what costs most.

A table that was filled by id, or by events as products were created, holds its rows in nearly the order in which the
source is read. So both files are read side by side through a window, and rows that meet their partner there, with the
same values, are done with. Whatever met none, or another value, goes on to the join, which decides as ever: nothing
here says that two rows differ. Where the orders have nothing in common this gives up early (docs/decisions/0070).

The target's rows may come while they are still being read from the table (docs/decisions/0075).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.compare.rule import same_values
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import MemoryRelease, ParquetSink, opened, pages, parquet_writer


@dataclass(frozen=True, slots=True)
class Window:
    """How far apart partners may lie: the rows that wait on a side, and that the other one has read since one came; and
    the bytes of those that wait. Both sides are read in pages of ``page_rows``, or of ``page_bytes`` if that is less.
    After ``trial_pages`` of both sides a quarter of the rows must have met a partner."""

    rows: int = 65_536
    bytes: int = 8 * 1024 * 1024
    page_rows: int = 16_384
    page_bytes: int = 4 * 1024 * 1024
    trial_pages: int = 16


WINDOW = Window()
#: More than elsewhere: on a quiet night all rows pass here, and each release costs some milliseconds.
_RELEASE_AFTER_BYTES: Final = 256 * 1024 * 1024
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def drop_identical_rows(
    row_schema: RowSchema,
    source_rows: Path,
    target_rows: Path,
    folder: Path,
    window: Window = WINDOW,
    *,
    target_batches: Iterator[pa.RecordBatch] | None = None,
) -> tuple[Path, Path]:
    """The two files without the rows that are the same in both: new files in ``folder``, or the given ones where most
    rows find no partner in the window, or one side has none.

    ``source_rows`` has ``RowSchema.source_schema``, ``target_rows`` ``RowSchema.target_schema``. ``target_batches``, if
    given, are the rows of a ``target_rows`` that is there only when they end; they have ended when this returns. Of
    documents that share a text id some may be left out and others not.
    """
    left = folder / "source.parquet", folder / "target.parquet"
    with closing(_batches(source_rows, window)) as new, closing(_batches(target_rows, window)) as old:
        is_worth_it = unmatched(row_schema, new, old if target_batches is None else target_batches, left, window)
    for _ in target_batches or ():
        pass
    return left if is_worth_it else (source_rows, target_rows)


def unmatched(
    row_schema: RowSchema,
    source_batches: Iterator[pa.RecordBatch],
    target_batches: Iterator[pa.RecordBatch],
    left: tuple[Path, Path],
    window: Window = WINDOW,
    *,
    metadata: Mapping[str, str] = _NONE,
) -> bool:
    """Read both sides to their ends, and write down in ``left`` what of them goes to the join; false as soon as it is
    not worth it: then these files mean nothing."""
    with (
        _side(source_batches, row_schema.source_schema, left[0], window, metadata) as source,
        _side(target_batches, row_schema.target_schema, left[1], window, metadata) as target,
    ):
        if any(side.is_at_end for side in (source, target)):
            return False
        met, is_tried, release = 0, False, MemoryRelease(_RELEASE_AFTER_BYTES)
        while not (source.is_at_end and target.is_at_end):
            for side, other in _to_read(source, target, row_schema, window):
                release.passed(side.read(other))
            met += _leave_out_pairs(source, target, row_schema)
            if not is_tried and source.pages_read + target.pages_read >= 2 * window.trial_pages:
                is_tried = True
                if 4 * met < min(source.rows_read, target.rows_read):
                    return False
            source.let_go(window, target)
            target.let_go(window, source)
        source.end()
        target.end()
    return True


class _Side:
    """One file's rows. ``waiting`` are those that may still meet their partner, ``tail`` is how many of them came after
    the last one that has; those that go to the join are written down."""

    def __init__(self, pages: Iterator[pa.Table], schema: pa.Schema, left: ParquetSink) -> None:
        self._pages = pages
        self._next = next(pages, None)
        self._left = left
        self.waiting = schema.empty_table()
        self.tail = 0
        #: Of each waiting row, how many rows the other side had read when it came: they rise.
        self._since = np.zeros(0, np.int64)
        self.rows_read = 0
        self.pages_read = 0

    @property
    def is_at_end(self) -> bool:
        return self._next is None

    def read(self, other: _Side) -> int:
        """Let the next page wait; its bytes."""
        page = self._next
        if page is not None:
            self.waiting = pa.concat_tables([self.waiting, page])
            self._since = np.concatenate([self._since, np.full(page.num_rows, other.rows_read)])
            self.tail += page.num_rows
            self.rows_read += page.num_rows
            self.pages_read += 1
            self._next = next(self._pages, None)
        return 0 if page is None else int(page.nbytes)

    def leave(self, rows: pa.Table) -> None:
        """``rows`` go to the join. They must not be slices: a few rows would hold the memory of a page."""
        for batch in rows.to_batches():
            self._left.write(batch)

    def first_met(self, rows: int) -> None:
        """The oldest ``rows`` have met their partner. The others are not copied, and so hold the rest of their page."""
        self.waiting = self.waiting.slice(rows)
        self._since = self._since[rows:]
        self.tail = self.waiting.num_rows

    def met(self, marks: NDArray[np.bool_]) -> None:
        """The marked rows have met their partner, the others wait on."""
        self.tail = int(np.argmax(marks[::-1]))
        self._keep(~marks)

    def let_go(self, window: Window, other: _Side) -> None:
        """The oldest rows leave: those that have waited for too long, those that are too many, or too many bytes; all,
        where the other side has no more. What came after the last row that met its partner waits for rows that may
        still be far off."""
        if other.is_at_end and not other.waiting.num_rows:
            self._oldest_leave(self.waiting.num_rows)
        too_old = int(np.searchsorted(self._since, other.rows_read - window.rows))
        passed = self.waiting.num_rows - self.tail
        self._oldest_leave(max(min(too_old, passed), self.waiting.num_rows - window.rows))
        while self.waiting.num_rows and self.waiting.nbytes > window.bytes:
            self._oldest_leave(max(1, self.waiting.num_rows // 2))

    def _oldest_leave(self, rows: int) -> None:
        if rows > 0:
            is_old = np.arange(self.waiting.num_rows) < rows
            self.leave(self.waiting.filter(pa.array(is_old)))
            self._keep(~is_old)

    def _keep(self, marks: NDArray[np.bool_]) -> None:
        self.waiting = self.waiting.filter(pa.array(marks)).combine_chunks()
        self._since = self._since[marks]
        self.tail = min(self.tail, self.waiting.num_rows)

    def end(self) -> None:
        self.leave(self.waiting)


@contextmanager
def _side(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    left: Path,
    window: Window,
    metadata: Mapping[str, str] = _NONE,
) -> Iterator[_Side]:
    with parquet_writer(left, schema, metadata=metadata, group_bytes=window.page_bytes) as sink:
        yield _Side(_pages(batches, window), schema, sink)


def _batches(path: Path, window: Window) -> Generator[pa.RecordBatch, None, None]:
    with opened(path) as file:
        yield from pages(file, rows=window.page_rows, most_bytes=window.page_bytes)


def _pages(batches: Iterator[pa.RecordBatch], window: Window) -> Iterator[pa.Table]:
    """Batches cut and joined, so that the pages of both sides end at the same row: what one has more would wait."""
    page, rows, size = list[pa.RecordBatch](), 0, 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            part = rest.slice(0, window.page_rows - rows)
            rest = rest.slice(part.num_rows)
            page.append(part)
            rows += part.num_rows
            size += part.nbytes
            if rows == window.page_rows or size >= window.page_bytes:
                yield pa.Table.from_batches(page)
                page, rows, size = [], 0, 0
    if page:
        yield pa.Table.from_batches(page)


def _to_read(source: _Side, target: _Side, row_schema: RowSchema, window: Window) -> list[tuple[_Side, _Side]]:
    """The sides to read on, each with the other one: the one behind, and the one ahead while that is by less than a
    page. The one behind is that of which fewer rows wait for rows to come; or, as long as none has met its partner,
    that with the smaller id, because both are mostly in some order of ids."""
    if source.is_at_end or target.is_at_end:
        return [(target, source)] if source.is_at_end else [(source, target)]
    place = [side.tail for side in (source, target)]
    if all(side.tail == side.waiting.num_rows > 0 for side in (source, target)):
        place = [side.waiting[row_schema.key.name][-1].as_py() for side in (source, target)]
    behind, ahead = (source, target) if place[0] <= place[1] else (target, source)
    return [(behind, ahead), (ahead, behind)] if ahead.tail < window.page_rows else [(behind, ahead)]


def _leave_out_pairs(source: _Side, target: _Side, row_schema: RowSchema) -> int:
    """Match what waits on both sides: equal rows are gone, rows with other values leave. Returns how many matched."""
    new, old = source.waiting, target.waiting
    both = min(new.num_rows, old.num_rows)
    same = _same_places(new[row_schema.key.name], old[row_schema.key.name])
    if same == both:
        if both:
            _those_that_differ_leave(source, target, new[:both], old[:both], row_schema)
            source.first_met(both)
            target.first_met(both)
        return int(both)
    places = _partners(new[row_schema.key.name], old[row_schema.key.name], same)
    is_matched = places >= 0
    met_places = places[is_matched]
    if not len(met_places):
        return 0
    met_new, met_old = new.filter(pa.array(is_matched)), old.take(pa.array(met_places))
    _those_that_differ_leave(source, target, met_new, met_old, row_schema)
    is_met = np.zeros(old.num_rows, dtype=bool)
    is_met[met_places] = True
    source.met(is_matched)
    target.met(is_met)
    return len(met_places)


def _those_that_differ_leave(source: _Side, target: _Side, new: pa.Table, old: pa.Table, row_schema: RowSchema) -> None:
    """``new`` and ``old`` are partners, row by row."""
    same = same_values(new, old, row_schema.compared)
    if not pc.all(same).as_py():
        differ = pc.invert(same)
        source.leave(new.filter(differ))
        target.leave(old.filter(differ))


def _same_places(new: pa.ChunkedArray, old: pa.ChunkedArray) -> int:
    """How many ids are the same from the first on: in files of one order all up to the first that one side lacks."""
    both = min(len(new), len(old))
    is_same = pc.equal(new[:both], old[:both])
    return int(both if pc.all(is_same, min_count=0).as_py() else np.argmin(is_same.to_numpy()))


def _partners(new: pa.ChunkedArray, old: pa.ChunkedArray, same: int) -> NDArray[np.int64]:
    """For each id of ``new`` its place in ``old``, -1 where it has none. The first ``same`` are at the same places."""
    found = pc.index_in(new[same:], value_set=old[same:].combine_chunks())
    return np.concatenate([np.arange(same), same + pc.fill_null(found, -1 - same).to_numpy()])
