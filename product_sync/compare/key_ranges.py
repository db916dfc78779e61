"""Joins several files by key, one range of keys after the other, so that each range fits into memory.

The size of a range is known before it is read. If the inputs do not fit into memory together, an input whose keys rise
is cut into ranges while it is read; any other is first sorted by range into a temporary file (docs/decisions/0080).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.state.files import MemoryRelease, opened, pages, row_count
from product_sync.state.spill import WAITING_BYTES, Spill, row_bytes

#: Keys that are sampled to place the borders between ranges.
_SAMPLES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """``range_bytes`` is the most that one range of all inputs has in memory, unless a single key has more.
    ``waiting_bytes`` of each input wait in memory before they are written to its file."""

    range_bytes: int = 32 * 1024 * 1024
    waiting_bytes: int = WAITING_BYTES


LIMITS: Final = Limits()


@dataclass(frozen=True)
class FileInput:
    """Rows with a text key that is never null: columns of a file. ``select`` turns a batch of them into one of
    ``schema``, and may drop rows. ``key_in_file`` is the name of the key in the file, if it is not ``key``."""

    path: Path
    schema: pa.Schema
    key: str
    columns: Sequence[str] | None = None
    select: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
    key_in_file: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes in memory, or more."""
        with opened(self.path) as file:
            return sum(group.bytes_of(self.columns) for group in file.groups)

    @property
    def num_rows(self) -> int:
        """The number of rows, or more."""
        return row_count(self.path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in batches that fit into memory."""
        with opened(self.path) as file:
            for page in pages(file, columns=self.columns):
                yield self.select(page) if self.select else page

    def weighed_keys(self) -> Iterator[tuple[pa.Array, NDArray[np.float64]]]:
        """The keys of all rows, in parts, with the approximate bytes of each row."""
        with opened(self.path) as file:
            for at, group in enumerate(file.groups):
                keys = file.read(at, [self.key_in_file or self.key]).column(0).drop_null()
                if len(keys):
                    yield keys, np.full(len(keys), group.bytes_of(self.columns) / len(keys))


@dataclass(frozen=True)
class _Part:
    """One range of one input."""

    schema: pa.Schema
    key: str
    nbytes: int
    num_rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def weighed_keys(self) -> Iterator[tuple[pa.Array, NDArray[np.float64]]]:
        for batch in self.batches():
            yield batch.column(self.key), row_bytes(batch)


def by_key(
    inputs: Sequence[FileInput | _Part], folder: Path, limits: Limits = LIMITS
) -> Iterator[tuple[pa.Table, ...]]:
    """For each range of keys, the rows of every input, unordered. All rows of a key are in one range, and the ranges
    rise. Temporary files are in ``folder``."""
    borders, rising = list[str](), list[bool]()
    if sum(one.nbytes for one in inputs) > limits.range_bytes:
        borders, rising = _borders(inputs, limits.range_bytes // 2)
    if not borders:
        yield tuple(pa.Table.from_batches(one.batches(), one.schema) for one in inputs)
        return
    with ExitStack() as stack:
        cut = [
            _cut(one, borders)
            if is_rising
            else _sorted(
                one,
                borders,
                stack.enter_context(closing(Spill(folder, one.schema, len(borders) + 1, limits.waiting_bytes))),
            )
            for one, is_rising in zip(inputs, rising, strict=True)
        ]
        release = MemoryRelease()
        for of_range in zip(*cut, strict=True):
            yield from by_key(of_range, folder, limits)
            release.passed(sum(one.nbytes for one in of_range))


def _cut(one: FileInput | _Part, borders: list[str]) -> Iterator[_Part]:
    """The ranges of an input whose keys rise. Each is in memory."""
    batches, rest = iter(one.batches()), None
    for border in [*borders, None]:
        found: list[pa.RecordBatch] = []
        while (batch := rest or next(batches, None)) is not None:
            end = batch.num_rows if border is None else _place(batch.column(one.key), border)
            if end:
                found.append(batch.slice(0, end))
            if end < batch.num_rows:
                rest = batch.slice(end)
                break
            rest = None
        size, rows = sum(int(row_bytes(batch).sum()) for batch in found), sum(batch.num_rows for batch in found)
        yield _Part(one.schema, one.key, size, rows, partial(iter, found))


def _sorted(one: FileInput | _Part, borders: list[str], spill: Spill) -> Iterator[_Part]:
    """The ranges of any input. They are in the file of ``spill``."""
    for batch in one.batches():
        spill.add(batch, _ranges(batch.column(one.key), borders))
    spill.finish()
    for part in range(len(borders) + 1):
        size, rows = int(spill.nbytes[part]), int(spill.num_rows[part])
        yield _Part(one.schema, one.key, size, rows, partial(spill.batches, part))


def _borders(inputs: Sequence[FileInput | _Part], range_bytes: int) -> tuple[list[str], list[bool]]:
    """The first key of every range but the lowest; none if there is only one key. And which inputs have rising keys."""
    step = max(1, sum(one.num_rows for one in inputs) // _SAMPLES)
    keys, weights, rising = [], [], []
    for one in inputs:
        first, last, is_rising = 0, None, True
        for part, sizes in one.weighed_keys():
            is_rising = is_rising and rises(part) and (last is None or last < part[0].as_py())
            last = part[-1].as_py()
            places = np.arange(first, len(part), step)
            first = int(first - len(part)) % step
            if len(places):
                keys.append(part.take(pa.array(places)))
                # The bytes of a row that is not sampled count for the sampled row before it.
                weights.append(np.add.reduceat(sizes, places))
        rising.append(is_rising)
    sampled = pa.concat_arrays(keys)
    order = pc.sort_indices(sampled)
    sampled = sampled.take(order)
    filled = np.cumsum(np.concatenate(weights)[order.to_numpy()]) // range_bytes
    starts = np.flatnonzero(np.diff(filled, prepend=0))
    borders = pc.unique(sampled.take(pa.array(starts))).to_pylist()
    return [key for key in borders if key != sampled[0].as_py()], rising


def _ranges(keys: pa.Array, borders: list[str]) -> NDArray[np.int64]:
    """The range of each key."""
    if not len(keys):
        return np.zeros(0, np.int64)
    ends = pc.min_max(keys)
    low, high = (bisect_right(borders, ends[name].as_py()) for name in ("min", "max"))
    if low == high:
        return np.full(len(keys), low)
    if high - low < len(keys) // 16 and rises(keys):
        edges = [_place(keys, border) for border in borders[low:high]]
        return low + np.searchsorted(edges, np.arange(len(keys)), side="right")
    place = partial(bisect_right, borders)
    return np.fromiter(map(place, keys.to_pylist()), np.int64, len(keys))


def _place(keys: pa.Array, border: str) -> int:
    """How many of the rising keys are below ``border``."""
    return bisect_left(range(len(keys)), border, key=lambda at: keys[at].as_py())


def rises(keys: pa.Array) -> bool:
    """Whether every key is greater than the one before it."""
    return bool(pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py())
