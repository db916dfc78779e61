"""Canonical Arrow columns as PostgreSQL's binary arrays, and what is read as canonical Arrow columns.

Rows travel to the server as one bound array per column. Left alone, psycopg would choose an array's type from the
Python values in it (`int2[]` or `float8[]` for the same column, text for a column of nulls), and the server takes
1.5 for an integer column without a word. Here the column's type decides, never the values.

Binary forms: an array is the header of ``array_send`` (dimensions, null flag, element OID, length, lower bound), then
per element its length in four bytes (-1 for null) and the element as its type sends it; see ``arrayfuncs.c`` of
PostgreSQL. The OIDs are those of ``pg_type.dat``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import BytesBinaryDumper

from product_sync.schema.records import ColumnType, TypeName

#: Microseconds from 1970-01-01 to 2000-01-01, from where PostgreSQL counts.
_EPOCH: Final = 946_684_800_000_000
#: infinity and -infinity: the same numbers on the wire and in `product_sync.schema.records`.
_INFINITY: Final = 2**63 - 1
_MINUS_INFINITY: Final = -(2**63)
_TIMESTAMPTZ_OID: Final = 1184


class BinaryArray(bytes):
    """The binary form of an array. The statement casts its parameter, which tells the server the type."""

    __slots__ = ()


class _BinaryArrayDumper(BytesBinaryDumper):
    oid = 0


class _MicrosecondsLoader(Int8BinaryLoader):
    """A timestamptz as it is sent: microseconds since 2000. `datetime` ends at the year 9999 and has no infinity."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How a column type travels.

    ``element`` is the type of the bound array's elements, ``oid`` its OID, ``dtype`` its fixed-size binary form or
    ``None`` for text. ``parse`` makes the column's type of an element, ``parse_array`` of a whole array, ``show``
    what is read of the column, ``compare`` what a compare-and-swap compares with the value that was read: where reading
    a value loses something, the same must be lost here, or the row could never be written again.
    """

    element: str
    oid: int
    dtype: str | None = None
    parse: LiteralString = "{}"
    parse_array: LiteralString = "{}"
    show: LiteralString = "{}"
    compare: LiteralString = "{}"

    @property
    def is_own_form(self) -> bool:
        """Whether an element is of the column's type already, binary form and all."""
        return self.parse == "{}"

    def parsed(self, element: sql.Composable) -> sql.Composed:
        return sql.SQL(self.parse).format(element)

    def parsed_array(self, elements: sql.Composable) -> sql.Composed:
        return sql.SQL(self.parse_array).format(elements)

    def shown(self, column: sql.Composable) -> sql.Composed:
        return sql.SQL(self.show).format(column)

    def compared(self, column: sql.Composable) -> sql.Composed:
        return sql.SQL(self.compare).format(column)


_AS_TEXT: Final = "{}::pg_catalog.text"
#: What `_since_1970` makes of a moment that microseconds since 1970 do not reach.
_AS_READ: Final = "CASE WHEN pg_catalog.isfinite({0}) THEN LEAST({0}, '294247-01-10 04:00:54.775806+00') ELSE {0} END"
_WIRE: Final[dict[TypeName, Wire]] = {
    TypeName.SMALLINT: Wire("int2", 21, ">i2"),
    TypeName.INTEGER: Wire("int4", 23, ">i4"),
    TypeName.BIGINT: Wire("int8", 20, ">i8"),
    TypeName.REAL: Wire("float4", 700, ">f4"),
    TypeName.DOUBLE: Wire("float8", 701, ">f8"),
    TypeName.BOOLEAN: Wire("bool", 16, ">i1"),
    TypeName.TIMESTAMPTZ: Wire("timestamptz", _TIMESTAMPTZ_OID, ">i8", compare=_AS_READ),
    TypeName.TEXT: Wire("text", 25),
    TypeName.VARCHAR: Wire("text", 25, show=_AS_TEXT),
    TypeName.UUID: Wire(
        "text",
        25,
        parse="{}::pg_catalog.uuid",
        parse_array="{}::pg_catalog.uuid[]",
        show=_AS_TEXT,
    ),
    TypeName.NUMERIC: Wire(
        "text",
        25,
        parse="{}::pg_catalog.numeric",
        # 99.90 and 99.9 are one value, so they must read as one text.
        show="pg_catalog.trim_scale({})::pg_catalog.text",
    ),
}


def wire(column_type: ColumnType) -> Wire:
    return _WIRE[column_type.name]


def register(connection: psycopg.Connection) -> None:
    """Teach a connection the two conversions that psycopg does not have."""
    connection.adapters.register_dumper(BinaryArray, _BinaryArrayDumper)
    connection.adapters.register_loader(_TIMESTAMPTZ_OID, _MicrosecondsLoader)


def bound(column: pa.ChunkedArray, column_type: ColumnType) -> BinaryArray:
    """A column of canonical values, in the type's Arrow form, as the array parameter that its type is bound as."""
    form = wire(column_type)
    values = column.combine_chunks()
    if not len(values):
        return BinaryArray(struct.pack("!iII", 0, 0, form.oid))
    values = on_the_wire(values, column_type)
    elements = _text_elements(values) if form.dtype is None else _fixed_elements(values, np.dtype(form.dtype))
    header = struct.pack("!iIIii", 1, values.null_count > 0, form.oid, len(values), 1)
    return BinaryArray(header + elements)


def ids(values: Sequence[str]) -> BinaryArray:
    """Ids as a ``text[]`` parameter."""
    return bound(pa.chunked_array([pa.array(values, pa.string())]), ColumnType(TypeName.TEXT))


def canonical(values: Sequence[Any], column_type: ColumnType) -> pa.Array:
    """The values of one column as psycopg loaded them (``None`` for NULL), in canonical form."""
    as_loaded = pa.int64() if column_type.name is TypeName.TIMESTAMPTZ else column_type.arrow
    return canonical_array(pa.array(values, as_loaded), column_type)


def canonical_array(column: pa.Array, column_type: ColumnType) -> pa.Array:
    """The same of a column of numbers or text as they come over the wire."""
    if column_type.name is TypeName.TIMESTAMPTZ:
        return _since_1970(column)
    if column_type.name in (TypeName.REAL, TypeName.DOUBLE):
        # -0.0 + 0.0 is 0.0; every other value stays what it is.
        return pc.add(column, pa.scalar(0.0, column_type.arrow))
    return column.cast(column_type.arrow)


def on_the_wire(values: pa.Array, column_type: ColumnType) -> pa.Array:
    """Canonical values as the numbers or the text that the server is sent."""
    if column_type.name is TypeName.TIMESTAMPTZ:
        return _since_2000(values)
    return values.cast(pa.int8()) if column_type.name is TypeName.BOOLEAN else values


def _fixed_elements(values: pa.Array, dtype: np.dtype[Any]) -> bytes:
    elements = np.empty(len(values), dtype=[("length", ">i4"), ("value", dtype)])
    elements["length"] = dtype.itemsize
    if not values.null_count:
        elements["value"] = values.to_numpy(zero_copy_only=False)
        return elements.tobytes()
    elements["value"] = values.fill_null(0).to_numpy(zero_copy_only=False)
    is_null = nulls(values)
    elements["length"][is_null] = -1
    sent = np.ones((len(values), elements.dtype.itemsize), dtype=bool)
    sent[is_null, 4:] = False
    octets = elements.view(np.uint8).reshape(sent.shape)
    return octets[sent].tobytes()


def _text_elements(values: pa.Array) -> bytes:
    """Lengths and UTF-8 bytes in turn, made of Arrow's offsets and bytes without a Python object per value."""
    # What lies under a null is not defined in Arrow; filled, it has no bytes.
    filled = values.fill_null("") if values.null_count else values
    _, offset_buffer, data_buffer = filled.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[filled.offset : filled.offset + len(filled) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets).astype(">i4")
    if values.null_count:
        lengths[nulls(values)] = -1
    starts = offsets[:-1] - offsets[0] + 4 * np.arange(len(filled))
    heads = starts[:, np.newaxis] + np.arange(4)
    octets = np.empty(4 * len(filled) + len(data), np.uint8)
    is_data = np.ones(len(octets), dtype=bool)
    is_data[heads] = False
    octets[heads] = lengths.view(np.uint8).reshape(-1, 4)
    octets[is_data] = data
    return octets.tobytes()


def nulls(values: pa.Array) -> NDArray[np.bool_]:
    """Which values are NULL."""
    mask: NDArray[np.bool_] = values.is_null().to_numpy(zero_copy_only=False)
    return mask


def _since_1970(values: pa.Array) -> pa.Array:
    """PostgreSQL's timestamps reach to the year 294276, microseconds since 1970 in 64 bits to 294247.

    What lies between becomes the last moment that fits: it differs from every value of the source, as it should.
    """
    shifted = pc.add(pc.min_element_wise(values, _INFINITY - 1 - _EPOCH, skip_nulls=False), _EPOCH)
    return _keep_infinities(values, shifted).cast(pa.timestamp("us", tz="UTC"))


def _since_2000(values: pa.Array) -> pa.Array:
    values = values.cast(pa.int64())
    shifted = pc.subtract(pc.max_element_wise(values, _MINUS_INFINITY + 1 + _EPOCH, skip_nulls=False), _EPOCH)
    return _keep_infinities(values, shifted)


def _keep_infinities(values: pa.Array, shifted: pa.Array) -> pa.Array:
    infinite = pc.or_(pc.equal(values, _INFINITY), pc.equal(values, _MINUS_INFINITY))
    return pc.if_else(infinite, values, shifted)
