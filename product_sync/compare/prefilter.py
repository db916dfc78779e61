"""Drops identical rows before the comparison by ranges of ids, which then has little to do on most days.

A table that was filled in the order of ids, or as products were created, has its rows in nearly the order in which the
source is read. So both sides are read side by side through a window, and rows that meet their partner there with the
same values are dropped. All other rows go on to the comparison, which decides what differs: this module only decides
what is equal. Where the orders of the two sides have nothing in common it gives up early (docs/decisions/0070).
Without it a million equal rows take 0.6 s more (docs/decisions/0125).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.compare.rule import chosen, partners, same_values, taken
from product_sync.schema.row_schema import RowSchema
from product_sync.state.files import MemoryRelease, TableSink, opened, pages, table_writer


@dataclass(frozen=True, slots=True)
class Window:
    """How far apart partners may be. A row waits while the other side reads at most ``rows`` rows, and at most ``rows``
    rows or ``bytes`` wait on each side. Both sides are read in pages of ``page_rows``, or of ``page_bytes`` if that is
    less. After ``trial_pages`` of each side a quarter of the rows must have met their partner."""

    rows: int = 65_536
    bytes: int = 8 * 1024 * 1024
    page_rows: int = 16_384
    page_bytes: int = 4 * 1024 * 1024
    trial_pages: int = 16


WINDOW = Window()
#: More than elsewhere: all rows of a run pass here, and each release takes some milliseconds.
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
    """The two files without the rows that are identical in both, as new files in ``folder``. The given files are
    returned if most rows find no partner in the window, or if one side is empty.

    ``source_rows`` has ``RowSchema.source_schema``, ``target_rows`` ``RowSchema.target_schema``. ``target_batches``, if
    given, are the rows of ``target_rows`` while that file is still being written; they are read to their end. Of the
    documents that share a text id, some may be dropped and others not.
    """
    left = folder / "source.arrow", folder / "target.arrow"
    with closing(_batches(source_rows, window)) as new, closing(_batches(target_rows, window)) as old:
        pays = unmatched(row_schema, new, old if target_batches is None else target_batches, left, window)
    for _ in target_batches or ():
        pass
    return left if pays else (source_rows, target_rows)


def unmatched(
    row_schema: RowSchema,
    source_batches: Iterator[pa.RecordBatch],
    target_batches: Iterator[pa.RecordBatch],
    left: tuple[Path, Path],
    window: Window = WINDOW,
    *,
    metadata: Mapping[str, str] = _NONE,
) -> bool:
    """Read both sides to their ends and write to ``left`` the rows of each that have no identical partner. Returns
    false as soon as this does not pay; the files are then meaningless."""
    source_schema, target_schema = row_schema.source_schema, row_schema.target_schema
    with (
        table_writer(left[0], source_schema, metadata=metadata, group_bytes=window.page_bytes) as source_sink,
        table_writer(left[1], target_schema, metadata=metadata, group_bytes=window.page_bytes) as target_sink,
    ):
        source = _Side(_pages(source_batches, window), source_schema, source_sink)
        target = _Side(_pages(target_batches, window), target_schema, target_sink)
        if any(side.is_at_end for side in (source, target)):
            return False
        matched, is_tried, release = 0, False, MemoryRelease(_RELEASE_AFTER_BYTES)
        while not (source.is_at_end and target.is_at_end):
            for side, other in _to_read(source, target, row_schema, window):
                release.passed(side.read(other))
            matched += _match(source, target, row_schema)
            if not is_tried and source.pages_read + target.pages_read >= 2 * window.trial_pages:
                is_tried = True
                if 4 * matched < min(source.rows_read, target.rows_read):
                    return False
            source.pass_on_old(window, target)
            target.pass_on_old(window, source)
        source.pass_on(source.waiting)
        target.pass_on(target.waiting)
    return True


class _Side:
    """The rows of one side. ``waiting`` may still meet their partner; ``tail`` of them came after the last row that met
    its partner."""

    def __init__(self, pages: Iterator[pa.Table], schema: pa.Schema, left: TableSink) -> None:
        self._pages = pages
        self._next = next(pages, None)
        self._left = left
        self.waiting = schema.empty_table()
        self.tail = 0
        #: For each waiting row, how many rows the other side had read when it came. The numbers rise.
        self._since = np.zeros(0, np.int64)
        self.rows_read = 0
        self.pages_read = 0

    @property
    def is_at_end(self) -> bool:
        return self._next is None

    def read(self, other: _Side) -> int:
        """Read the next page; returns its bytes."""
        page = self._next
        if page is not None:
            self.waiting = pa.concat_tables([self.waiting, page])
            self._since = np.concatenate([self._since, np.full(page.num_rows, other.rows_read)])
            self.tail += page.num_rows
            self.rows_read += page.num_rows
            self.pages_read += 1
            self._next = next(self._pages, None)
        return 0 if page is None else int(page.nbytes)

    def pass_on(self, rows: pa.Table) -> None:
        """Pass ``rows`` on to the comparison. They must not be slices, which would hold the memory of a whole page."""
        for batch in rows.to_batches():
            self._left.write(batch)

    def drop(self, marks: NDArray[np.bool_]) -> None:
        """Drop the marked rows, which have met their partner."""
        self.tail = int(np.argmax(marks[::-1]))
        self._keep(~marks)

    def pass_on_old(self, window: Window, other: _Side) -> None:
        """Pass on the oldest rows: those that have waited for too long, and those beyond the limits of the window. All
        rows are passed on when the other side has ended. Rows of the tail may wait for longer, because the other side
        may still be far behind."""
        if other.is_at_end and not other.waiting.num_rows:
            self._pass_on_oldest(self.waiting.num_rows)
        too_old = int(np.searchsorted(self._since, other.rows_read - window.rows))
        passed = self.waiting.num_rows - self.tail
        self._pass_on_oldest(max(min(too_old, passed), self.waiting.num_rows - window.rows))
        while self.waiting.num_rows and self.waiting.nbytes > window.bytes:
            self._pass_on_oldest(max(1, self.waiting.num_rows // 2))

    def _pass_on_oldest(self, rows: int) -> None:
        if rows > 0:
            is_old = np.arange(self.waiting.num_rows) < rows
            self.pass_on(self.waiting.filter(pa.array(is_old)))
            self._keep(~is_old)

    def _keep(self, marks: NDArray[np.bool_]) -> None:
        self.waiting = self.waiting.filter(pa.array(marks)).combine_chunks()
        self._since = self._since[marks]
        self.tail = min(self.tail, self.waiting.num_rows)


def _batches(path: Path, window: Window) -> Generator[pa.RecordBatch, None, None]:
    with opened(path) as file:
        yield from pages(file, rows=window.page_rows, most_bytes=window.page_bytes)


def _pages(batches: Iterator[pa.RecordBatch], window: Window) -> Iterator[pa.Table]:
    """Cuts and joins batches into pages of the same number of rows on both sides."""
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
    """The sides to read next, each with the other side: the side that is behind, and also the other one while it is
    less than a page ahead. The side with the shorter tail is behind. While no row has met its partner, it is the side
    with the smaller id, because both sides are mostly ordered by id."""
    if source.is_at_end or target.is_at_end:
        return [(target, source)] if source.is_at_end else [(source, target)]
    place = [side.tail for side in (source, target)]
    if all(side.tail == side.waiting.num_rows > 0 for side in (source, target)):
        place = [side.waiting[row_schema.key.name][-1].as_py() for side in (source, target)]
    behind, ahead = (source, target) if place[0] <= place[1] else (target, source)
    return [(behind, ahead), (ahead, behind)] if ahead.tail < window.page_rows else [(behind, ahead)]


def _match(source: _Side, target: _Side, row_schema: RowSchema) -> int:
    """Match the waiting rows of both sides by id. Identical rows are dropped, rows that differ are passed on. Returns
    the number of matches."""
    key = row_schema.key.name
    places = partners(source.waiting[key], target.waiting[key])
    is_matched = places >= 0
    if not is_matched.any():
        return 0
    places = places[is_matched]
    new, old = chosen(source.waiting, is_matched), taken(target.waiting, places)
    same = same_values(new, old, row_schema.compared)
    if not pc.all(same).as_py():
        differ = pc.invert(same)
        source.pass_on(new.filter(differ))
        target.pass_on(old.filter(differ))
    is_met = np.zeros(target.waiting.num_rows, dtype=bool)
    is_met[places] = True
    source.drop(is_matched)
    target.drop(is_met)
    return len(places)
