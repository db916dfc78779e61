"""Rows as the binary form of COPY, by which PostgreSQL takes many of them three times as fast as from arrays.

The form is that of the manual, "COPY", "Binary Format": a header, then for each row the number of its fields and each
field with its length before it (-1 for NULL), and a trailer. It is put together in Arrow, column by column, without a
Python object for a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import binary_arrays

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!II", 0, 0)
_TRAILER: Final = struct.pack("!h", -1)
_NULL: Final = -1


def is_possible(row_schema: RowSchema) -> bool:
    """Whether every column travels in its own binary form. numeric and uuid travel as text that a statement parses."""
    return all(binary_arrays.wire(column.type).is_own_form for column in row_schema.columns)


def encoded(rows: pa.Table, row_schema: RowSchema) -> bytes:
    """``rows`` (``RowSchema.target_schema``, canonical values, below 2 GiB) as COPY takes them, columns in the layout's
    order."""
    pieces: list[Any] = [pa.scalar(struct.pack("!h", len(row_schema.columns)), pa.binary())]
    for column in row_schema.columns:
        values = binary_arrays.on_the_wire(rows[column.name].combine_chunks(), column.type)
        pieces += _field(values, binary_arrays.wire(column.type).dtype)
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.binary()))
    return b"".join([_HEADER, *_contents(joined), _TRAILER])


def _field(values: pa.Array, dtype: str | None) -> Iterator[pa.Array]:
    """Each row's bytes of one column: lengths, and values where these have no bytes of a NULL."""
    is_null = binary_arrays.nulls(values)
    if dtype is None:
        octets = values.cast(pa.binary()).fill_null(b"")
        lengths = pc.binary_length(octets).to_numpy(zero_copy_only=False)
    else:
        numbers = values.fill_null(0).to_numpy(zero_copy_only=False).astype(dtype)
        octets = _fixed(numbers)
        lengths = np.full(len(values), numbers.itemsize)
    yield _fixed(np.where(is_null, _NULL, lengths).astype(">i4"))
    yield pc.if_else(pa.array(is_null), pa.scalar(b"", pa.binary()), octets) if is_null.any() else octets


def _fixed(values: NDArray[Any]) -> pa.Array:
    """The bytes of each number."""
    edges = np.arange(len(values) + 1, dtype=np.int32) * np.int32(values.itemsize)
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(edges), pa.py_buffer(values)])


def _contents(column: pa.Array) -> Iterator[pa.Buffer]:
    _, edges, octets = column.buffers()
    offsets = np.frombuffer(edges, np.int32)[column.offset : column.offset + len(column) + 1]
    yield octets[int(offsets[0]) : int(offsets[-1])]
