"""Cuts the diff into batches: each row in exactly one of them, in the order of the file.

Only rows, bytes and the mark of rows that were refused before decide where a batch ends, not the row groups of the file
(design section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare.diff_rows import where
from product_sync.schema.records import Op
from product_sync.state.files import opened, pages

MAX_BATCH_BYTES = 8 * 1024 * 1024
_PAGE_ROWS = 16_384


def read_batches(
    path: Path, ops: Collection[Op], next_size: Callable[[], int], *, max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[pa.Table]:
    """The rows of ``ops`` in the diff file, in batches of the diff's schema. A batch has at most ``next_size()`` rows,
    which is called before each batch, and ``max_bytes``, if it has more than one row. Rows that were refused before
    share no batch with others."""
    with opened(path) as file:
        read = _pages(file, ops)
        pending = file.schema.empty_table()
        while True:
            size = next_size()
            # A table without rows has bytes too.
            while not pending.num_rows or (pending.num_rows < size and pending.nbytes <= max_bytes):
                if (page := next(read, None)) is None:
                    break
                pending = pa.concat_tables([pending, page])
            if pending.num_rows == 0:
                return
            batch = _head(pending, size, max_bytes)
            pending = pending.slice(batch.num_rows)
            yield batch


def count_rows(path: Path, ops: Collection[Op]) -> int:
    """How many rows of ``ops`` the diff file holds."""
    wanted = pa.array([str(op) for op in ops], pa.string())
    with opened(path) as file:
        return sum(
            int(pc.sum(pc.is_in(page.column("op"), value_set=wanted), min_count=0).as_py())
            for page in pages(file, columns=["op"])
        )


def _pages(file: Any, ops: Collection[Op]) -> Iterator[pa.Table]:
    wanted = pa.array([str(op) for op in ops], pa.string())
    for page in pages(file, rows=_PAGE_ROWS):
        rows = pa.Table.from_batches([page])
        rows = where(rows, pc.is_in(rows["op"], value_set=wanted))
        if rows.num_rows:
            yield rows


def _head(rows: pa.Table, size: int, max_bytes: int) -> pa.Table:
    head = rows.slice(0, size)
    other = pc.index(head["refused_before"], pa.scalar(not head["refused_before"][0].as_py())).as_py()
    head = head if other < 0 else head.slice(0, other)
    if head.nbytes <= max_bytes:
        return head
    fits, too_many = 1, head.num_rows
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if head.slice(0, middle).nbytes <= max_bytes:
            fits = middle
        else:
            too_many = middle
    return head.slice(0, fits)
