"""Rows from the binary form of COPY, thousands at a time: a column is one operation of NumPy, not an object a value.

The form is that of the manual, "COPY", "Binary Format". Each message of the server holds one row (manual, 53.7 "Message
Formats", CopyData), so where rows begin is known without reading them; the first message has the header before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.adapters.postgres import arrays
from product_sync.core.errors import NotAttempted
from product_sync.core.layout import Layout, LayoutColumn
from product_sync.core.octets import Mask, Octets, Positions

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
#: Signature, flags, and the length of an extension that no version has.
_HEADER: Final = len(_SIGNATURE) + 8
_TRAILER: Final = struct.pack("!h", -1)


_Message = bytes | bytearray | memoryview


def record_batches(
    messages: Iterable[_Message], layout: Layout, *, max_rows: int, max_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a COPY of all columns of ``layout``, with ``Layout.target_schema`` and canonical values.

    A batch ends at ``max_rows`` or as soon as it has ``max_bytes``. Raises `NotAttempted` for what is no such COPY.
    """
    rows: list[_Message] = []
    size = 0
    for row in _rows(iter(messages)):
        rows.append(row)
        size += len(row)
        if len(rows) >= max_rows or size >= max_bytes:
            yield _record_batch(rows, layout)
            rows, size = [], 0
    if rows:
        yield _record_batch(rows, layout)


def _rows(messages: Iterator[_Message]) -> Iterator[_Message]:
    first = bytes(next(messages, b""))
    if first[: len(_SIGNATURE)] != _SIGNATURE:
        raise _other_answer("does not begin like one")
    message: _Message = first[_HEADER:]
    while message != _TRAILER:
        if message:
            yield message
        try:
            message = next(messages)
        except StopIteration:
            raise _other_answer("ended without its trailer") from None


def _record_batch(rows: list[_Message], layout: Layout) -> pa.RecordBatch:
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    octets = Octets(b"".join(rows))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    is_whole = octets.integers(starts, ">i2") == len(layout.columns)
    at = np.minimum(starts + 2, ends)
    columns = []
    for column in layout.columns:
        lengths = octets.integers(at, ">i4")
        value_at = np.minimum(at + 4, ends)
        at = np.minimum(value_at + np.maximum(lengths, 0), ends)
        columns.append(_column(octets, column, value_at, at, lengths < 0))
    # A field that was cut to fit ends where the row ends, so the sum of all lengths tells.
    if not (is_whole & (at == ends)).all():
        raise _other_answer("has a row with other columns than were asked for")
    return pa.RecordBatch.from_arrays(columns, schema=layout.target_schema)


def _column(octets: Octets, column: LayoutColumn, at: Positions, end: Positions, is_null: Mask) -> pa.Array:
    dtype = arrays.wire(column.type).dtype
    values: Any
    if dtype is None:
        values = octets.texts(at, end).cast(pa.string())
    else:
        numbers = octets.integers(at, dtype)
        values = pa.array(numbers.astype(numbers.dtype.newbyteorder("=")))
    if is_null.any():
        values = pc.if_else(pa.array(is_null), pa.scalar(None, values.type), values)
    return arrays.canonical_array(values, column.type)


def _other_answer(how: str) -> NotAttempted:
    return NotAttempted(
        f"The server's answer to COPY {how}.", hint="Let CART_DB_URL name PostgreSQL itself: something between answers."
    )
