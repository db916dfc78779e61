"""Leaves equal pairs out of the join: on most nights that is every row, and a join of them all is what costs most.

A table that was filled by id, or by events as products were created, holds its rows in nearly the order in which the
source is read. So both files are read side by side through a window, and rows that meet their partner there, with the
same values, are done with. Whatever met none, or another value, goes on to the join, which decides as ever: nothing
here says that two rows differ. Where the orders have nothing in common this gives up early (docs/decisions/0070).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.core import diff_rows
from product_sync.core.layout import Layout
from product_sync.core.tables import ROW_GROUP_ROWS, ParquetSink, opened, parquet_writer, row_count


@dataclass(frozen=True, slots=True)
class Window:
    """How far apart partners may lie: rows of one side that wait for theirs, and their bytes. After ``trial_pages`` of
    both sides, of ``page_rows`` each, a quarter of the rows must have met a partner."""

    rows: int = ROW_GROUP_ROWS
    bytes: int = 32 * 1024 * 1024
    page_rows: int = 16_384
    trial_pages: int = 16


WINDOW = Window()


def without_equal_pairs(
    layout: Layout, source_rows: Path, target_rows: Path, folder: Path, window: Window = WINDOW
) -> tuple[Path, Path]:
    """The two files without the rows that are the same in both: new files in ``folder``, or the given ones where most
    rows find no partner in the window, or one side has none.

    ``source_rows`` has ``Layout.source_schema``, ``target_rows`` ``Layout.target_schema``. Of documents that share a
    text id some may be left out and others not.
    """
    if not row_count(source_rows) or not row_count(target_rows):
        return source_rows, target_rows
    left_source, left_target = folder / "source.parquet", folder / "target.parquet"
    with ExitStack() as stack:
        source = stack.enter_context(_side(source_rows, left_source, window))
        target = stack.enter_context(_side(target_rows, left_target, window))
        pages, met = 0, 0
        while (behind := _behind(source, target)) is not None:
            behind.read()
            pages += 1
            met += _leave_out_pairs(source, target, layout)
            if pages == 2 * window.trial_pages and 4 * met < min(source.rows_read, target.rows_read):
                return source_rows, target_rows
            source.let_go(window)
            target.let_go(window)
        source.end()
        target.end()
    return left_source, left_target


class _Side:
    """One file. ``waiting`` are rows that may still meet their partner; ``left`` takes those that go to the join."""

    def __init__(self, pages: Iterator[pa.RecordBatch], schema: pa.Schema, left: ParquetSink) -> None:
        self._pages = pages
        self._next = next(pages, None)
        self._left = left
        self.waiting = schema.empty_table()
        self.rows_read = 0

    @property
    def is_at_end(self) -> bool:
        return self._next is None

    def read(self) -> None:
        if self._next is not None:
            self.waiting = pa.concat_tables([self.waiting, pa.Table.from_batches([self._next])])
            self.rows_read += self._next.num_rows
            self._next = next(self._pages, None)

    def leave(self, rows: pa.Table) -> None:
        for batch in rows.to_batches():
            self._left.write(batch)

    def let_go(self, window: Window) -> None:
        """The rows that have waited longest leave, where too many wait."""
        while self.waiting.num_rows > window.rows or (self.waiting.nbytes > window.bytes and self.waiting.num_rows):
            oldest = max(1, self.waiting.num_rows // 2)
            self.leave(self.waiting.slice(0, oldest))
            self.waiting = self.waiting.slice(oldest).combine_chunks()

    def end(self) -> None:
        self.leave(self.waiting)


@contextmanager
def _side(path: Path, left: Path, window: Window) -> Iterator[_Side]:
    with opened(path) as file:
        schema = file.schema_arrow.remove_metadata()
        with parquet_writer(left, schema, metadata={}) as sink:
            yield _Side(file.iter_batches(batch_size=window.page_rows), schema, sink)


def _behind(source: _Side, target: _Side) -> _Side | None:
    """The side to read on: the one with fewer rows waiting, so that neither runs away from the other."""
    sides = [side for side in (source, target) if not side.is_at_end]
    return min(sides, key=lambda side: side.waiting.num_rows, default=None)


def _leave_out_pairs(source: _Side, target: _Side, layout: Layout) -> int:
    """Match what waits on both sides: equal rows are gone, rows with other values leave. Returns how many matched."""
    new, old = source.waiting, target.waiting
    if not new.num_rows or not old.num_rows:
        return 0
    places = pc.index_in(new[layout.key.name], value_set=old[layout.key.name])
    is_matched = pc.is_valid(places)
    met_places = places.drop_null()
    if not len(met_places):
        return 0
    met_new, met_old = new.filter(is_matched), old.take(met_places)
    differ = pc.invert(diff_rows.same_values(met_new, met_old, layout.compared))
    source.leave(met_new.filter(differ))
    target.leave(met_old.filter(differ))
    still_waits = np.ones(old.num_rows, dtype=bool)
    still_waits[met_places.to_numpy()] = False
    source.waiting = new.filter(pc.invert(is_matched))
    target.waiting = old.filter(pa.array(still_waits))
    return len(met_places)
