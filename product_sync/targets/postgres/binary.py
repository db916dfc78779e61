"""Columns of canonical values in PostgreSQL's binary form, and binary values as canonical columns.

Rows are sent as one bound array per column, or by COPY. If psycopg made the arrays, it would choose their type from the
Python values (``int2[]`` or ``float8[]`` for the same column, text for a column of nulls), and the server takes 1.5 for
an integer column without an error. Here the type of the column decides. Nothing makes a Python object per value.

An array is a header (dimensions, null flag, OID of the elements, length, lower bound), then each element with its
length in four bytes before it, -1 for NULL; see ``array_send`` in PostgreSQL's ``arrayfuncs.c``. COPY's form is in the
manual, "COPY", "Binary Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.types.string import BytesBinaryDumper

from product_sync.conversion import arrays, json_values
from product_sync.conversion.byte_block import fixed_width
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.types import ColumnType, TypeName, is_json
from product_sync.targets.postgres.column_types import WireFormat, wire_format

#: Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL starts to count.
_EPOCH: Final = 946_684_800_000_000
_EPOCH_DAYS: Final = pa.scalar(10_957, pa.int32())
#: infinity and -infinity: the same numbers in PostgreSQL's binary form and in `product_sync.schema.types`.
_INFINITY: Final = 2**63 - 1
_MINUS_INFINITY: Final = -(2**63)
_NULL: Final = -1
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!II", 0, 0)
_COPY_TRAILER: Final = struct.pack("!h", -1)
_NOTHING: Final = pa.scalar(b"", pa.binary())


class BinaryArray(bytes):
    """The binary form of an array. The statement casts its parameter, which tells the server the type."""

    __slots__ = ()


class _BinaryArrayDumper(BytesBinaryDumper):
    oid = 0


def register(connection: psycopg.Connection) -> None:
    """Lets a connection bind a `BinaryArray`."""
    connection.adapters.register_dumper(BinaryArray, _BinaryArrayDumper)


def bound(column: pa.ChunkedArray, column_type: ColumnType) -> BinaryArray:
    """A column of canonical values as an array parameter."""
    form = wire_format(column_type)
    values = _sent(column.combine_chunks(), column_type)
    if not len(values):
        return BinaryArray(struct.pack("!iII", 0, 0, form.sent_oid))
    header = struct.pack("!iIIii", 1, values.null_count > 0, form.sent_oid, len(values), 1)
    return BinaryArray(b"".join([header, *_contents(pc.binary_join_element_wise(*_fields(values, form), _NOTHING))]))


def ids(values: Sequence[str]) -> BinaryArray:
    """Ids as a ``text[]`` parameter."""
    return bound(pa.chunked_array([pa.array(values, pa.string())]), ColumnType(TypeName.TEXT))


def can_be_copied(row_schema: RowSchema) -> bool:
    """Whether COPY takes every column as it is sent. It cannot parse numeric and uuid, which are sent as text."""
    return all(wire_format(column.type).copies for column in row_schema.columns)


def copied(rows: pa.Table, row_schema: RowSchema, written_at: Sequence[bytes] = ()) -> bytes:
    """Rows (``RowSchema.target_schema``, canonical values, below 2 GiB) as COPY takes them: each row has the number of
    its columns before it. ``written_at`` are the same in each row."""
    pieces = [pa.scalar(struct.pack("!h", len(row_schema.columns) + len(written_at)), pa.binary())]
    for column in row_schema.columns:
        values = _sent(rows[column.name].combine_chunks(), column.type)
        pieces += _fields(values, wire_format(column.type))
    pieces += [pa.scalar(struct.pack("!i", len(value)) + value, pa.binary()) for value in written_at]
    joined = pc.binary_join_element_wise(*pieces, _NOTHING)
    return b"".join([_COPY_HEADER, *_contents(joined), _COPY_TRAILER])


def loaded(values: Sequence[Any], column_type: ColumnType) -> pa.Array:
    """The values of one column as psycopg loaded them (``None`` for NULL), in canonical form."""
    as_bytes = wire_format(column_type).read_type == "bytea"
    return canonical(pa.array(values, pa.binary() if as_bytes else column_type.arrow), column_type)


def canonical(column: pa.Array, column_type: ColumnType) -> pa.Array:
    """A column as the server sent it, in canonical form: numbers, text, or the bytes of each value."""
    if column_type.element is not None:
        return arrays.canonical(column, column_type.element)
    if pa.types.is_binary(column.type):
        column = _decoded(column, wire_format(column_type))
    if column_type.name in (TypeName.TIMESTAMPTZ, TypeName.TIMESTAMP):
        return _since_1970(column).cast(column_type.arrow)
    if column_type.name is TypeName.DATE:
        return _keep_infinities(column, pc.add(column, _EPOCH_DAYS)).cast(column_type.arrow)
    if is_json(column_type):
        return json_values.canonical(column, column_type)
    if column_type.name in (TypeName.REAL, TypeName.DOUBLE):
        # -0.0 + 0.0 is 0.0; every other value stays the same.
        return pc.add(column, pa.scalar(0.0, column_type.arrow))
    return column.cast(column_type.arrow)


def _sent(values: pa.Array, column_type: ColumnType) -> pa.Array:
    """Canonical values as the numbers or the text that the server is sent."""
    if column_type.as_text:
        return values.cast(pa.int64())
    if column_type.name in (TypeName.TIMESTAMPTZ, TypeName.TIMESTAMP):
        return _since_2000(values.cast(pa.int64()))
    if column_type.name is TypeName.DATE:
        days = values.cast(pa.int32())
        return _keep_infinities(days, pc.subtract(days, _EPOCH_DAYS))
    return values.cast(pa.int8()) if column_type.name is TypeName.BOOLEAN else values


def _fields(values: pa.Array, form: WireFormat) -> Iterator[pa.Array]:
    """The bytes of each value in two columns: its length, then the value, which is empty for NULL."""
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    if form.dtype is None:
        data = values.cast(pa.binary()).fill_null(b"")
        lengths = pc.binary_length(data).to_numpy(zero_copy_only=False)
    else:
        numbers = values.fill_null(0).to_numpy(zero_copy_only=False).astype(form.dtype)
        data = fixed_width(numbers, pa.binary())
        lengths = np.full(len(values), numbers.itemsize)
    yield fixed_width(np.where(is_null, _NULL, lengths).astype(">i4"), pa.binary())
    yield pc.if_else(pa.array(is_null), _NOTHING, data) if is_null.any() else data


def _contents(column: pa.Array) -> Iterator[pa.Buffer]:
    """All bytes of a binary column, one value after the other."""
    _, offset_buffer, data = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[column.offset : column.offset + len(column) + 1]
    yield data[int(offsets[0]) : int(offsets[-1])]


def _decoded(column: pa.Array, form: WireFormat) -> pa.Array:
    """Values of the bytes that the server sent for each."""
    if form.read_dtype is None:
        return column.cast(pa.string())
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    dtype = np.dtype(form.read_dtype)
    numbers = np.zeros(len(column), dtype.newbyteorder("="))
    numbers[~is_null] = np.frombuffer(b"".join(_contents(column.drop_null())), dtype)
    return pa.array(numbers, mask=is_null)


def _since_1970(values: pa.Array) -> pa.Array:
    """PostgreSQL's timestamps reach to the year 294276, microseconds since 1970 in 64 bits to 294247. A later moment
    becomes the last one that fits: it differs from every value of the source, as it should."""
    shifted = pc.add(pc.min_element_wise(values, _INFINITY - 1 - _EPOCH, skip_nulls=False), _EPOCH)
    return _keep_infinities(values, shifted)


def _since_2000(values: pa.Array) -> pa.Array:
    shifted = pc.subtract(pc.max_element_wise(values, _MINUS_INFINITY + 1 + _EPOCH, skip_nulls=False), _EPOCH)
    return _keep_infinities(values, shifted)


def _keep_infinities(values: pa.Array, shifted: pa.Array) -> pa.Array:
    half = 2 ** (values.type.bit_width - 1)
    infinite = pc.or_(pc.equal(values, half - 1), pc.equal(values, -half))
    return pc.if_else(infinite, values, shifted)
