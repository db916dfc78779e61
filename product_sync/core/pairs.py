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
from numpy.typing import NDArray

from product_sync.core import diff_rows
from product_sync.core.layout import Layout
from product_sync.core.tables import ParquetSink, opened, parquet_writer, row_count


@dataclass(frozen=True, slots=True)
class Window:
    """How far apart partners may lie: the rows that wait on a side, and that the other one has read since one came; and
    the bytes of those that wait. After ``trial_pages`` of both sides, of ``page_rows`` each, a quarter of the rows must
    have met a partner."""

    rows: int = 65_536
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
        met, is_tried = 0, False
        while not (source.is_at_end and target.is_at_end):
            for side, other in _to_read(source, target, layout, window):
                side.read(other)
            met += _leave_out_pairs(source, target, layout)
            if not is_tried and source.pages_read + target.pages_read >= 2 * window.trial_pages:
                is_tried = True
                if 4 * met < min(source.rows_read, target.rows_read):
                    return source_rows, target_rows
            source.let_go(window, target)
            target.let_go(window, source)
        source.end()
        target.end()
    return left_source, left_target


class _Side:
    """One file. ``waiting`` are rows that may still meet their partner, ``tail`` is how many of them came after the
    last one that has; those that go to the join are written down."""

    def __init__(self, pages: Iterator[pa.RecordBatch], schema: pa.Schema, left: ParquetSink) -> None:
        self._pages = pages
        self._next = next(pages, None)
        self._left = left
        self.waiting = schema.empty_table()
        self.tail = 0
        #: Of each waiting row, how many rows the other side had read when it came: they rise.
        self._since = np.zeros(0, np.int64)
        self.rows_read = self.pages_read = 0

    @property
    def is_at_end(self) -> bool:
        return self._next is None

    def read(self, other: _Side) -> None:
        page = self._next
        if page is not None:
            self.waiting = pa.concat_tables([self.waiting, pa.Table.from_batches([page])])
            self._since = np.concatenate([self._since, np.full(page.num_rows, other.rows_read)])
            self.tail += page.num_rows
            self.rows_read += page.num_rows
            self.pages_read += 1
            self._next = next(self._pages, None)

    def leave(self, rows: pa.Table) -> None:
        """``rows`` go to the join. They must not be slices: a few rows would hold the memory of a page."""
        for batch in rows.to_batches():
            self._left.write(batch)

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
def _side(path: Path, left: Path, window: Window) -> Iterator[_Side]:
    with opened(path) as file:
        schema = file.schema_arrow.remove_metadata()
        with parquet_writer(left, schema, metadata={}) as sink:
            yield _Side(file.iter_batches(batch_size=window.page_rows), schema, sink)


def _to_read(source: _Side, target: _Side, layout: Layout, window: Window) -> list[tuple[_Side, _Side]]:
    """The sides to read on, each with the other one: the one behind, and the one ahead while that is by less than a
    page. The one behind is that of which fewer rows wait for rows to come; or, as long as none has met its partner,
    that with the smaller id, because both are mostly in some order of ids."""
    if source.is_at_end or target.is_at_end:
        return [(target, source)] if source.is_at_end else [(source, target)]
    place = [side.tail for side in (source, target)]
    if all(side.tail == side.waiting.num_rows > 0 for side in (source, target)):
        place = [side.waiting[layout.key.name][-1].as_py() for side in (source, target)]
    behind, ahead = (source, target) if place[0] <= place[1] else (target, source)
    return [(behind, ahead), (ahead, behind)] if ahead.tail < window.page_rows else [(behind, ahead)]


def _leave_out_pairs(source: _Side, target: _Side, layout: Layout) -> int:
    """Match what waits on both sides: equal rows are gone, rows with other values leave. Returns how many matched."""
    new, old = source.waiting, target.waiting
    places = _partners(new[layout.key.name], old[layout.key.name])
    is_matched = places >= 0
    met_places = places[is_matched]
    if not len(met_places):
        return 0
    met_new, met_old = new.filter(pa.array(is_matched)), old.take(pa.array(met_places))
    differ = pc.invert(diff_rows.same_values(met_new, met_old, layout.compared))
    if pc.any(differ).as_py():
        source.leave(met_new.filter(differ))
        target.leave(met_old.filter(differ))
    is_met = np.zeros(old.num_rows, dtype=bool)
    is_met[met_places] = True
    source.met(is_matched)
    target.met(is_met)
    return len(met_places)


def _partners(new: pa.ChunkedArray, old: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each id of ``new`` its place in ``old``, -1 where it has none."""
    places = np.full(len(new), -1)
    both = min(len(new), len(old))
    is_same = pc.equal(new[:both], old[:both]).to_numpy()
    # In files of the same order all rows up to the first that one side lacks lie at the same places.
    same = both if is_same.all() else int(np.argmin(is_same))
    places[:same] = np.arange(same)
    if same < both:
        found = pc.index_in(new[same:], value_set=old[same:].combine_chunks())
        places[same:] = same + pc.fill_null(found, -1 - same).to_numpy()
    return places
