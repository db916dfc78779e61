"""Reads many values out of one block of bytes at once, each at its own position.

MongoDB's replies and PostgreSQL's COPY are rows of varying length, one after the other. Cutting them apart in Python
makes some objects per value, which takes most of the time of a sync. Here a column is one array of positions, and
reading it is one operation of NumPy or Arrow, for any number of rows.

A read never leaves the block, even with a wrong position. The caller checks the value or leaves it out.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: The widest value that is read as a number, and more than the widest that is read as bytes.
_PADDING: Final = 64
_WORD: Final = 8
_HEX: Final = np.frombuffer("".join(f"{value:02x}" for value in range(256)).encode(), np.uint16)
#: The places of the hyphens and of the hexadecimal digits in the text of a UUID (RFC 9562, section 4).
_UUID_HYPHENS: Final = (8, 13, 18, 23)
_UUID_DIGITS: Final = np.array([place for place in range(36) if place not in _UUID_HYPHENS])


class ByteBlock:
    """A block of bytes. Positions are offsets into it, at least 0 and at most its size. Offsets of text are 32 bits
    wide in Arrow, so a block has less than 2 GiB."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.size = len(data)
        self._bytes = np.zeros(self.size + _PADDING, np.uint8)
        self._bytes[: self.size] = np.frombuffer(data, np.uint8)

    def __getitem__(self, part: slice) -> bytes:
        return self._bytes[part].tobytes()

    def integers(self, at: Positions, dtype: str) -> NDArray[Any]:
        """The number of NumPy type ``dtype`` (such as ``<i4``) at each position."""
        return self._at_any_place(dtype)[at]

    def equal(self, at: Positions, expected: bytes) -> Mask:
        """Whether the bytes at each position are ``expected``."""
        same = np.ones(len(at), dtype=bool)
        words = self._at_any_place("<u8")
        for start in range(0, len(expected), _WORD):
            part = expected[start : start + _WORD]
            wanted = np.uint64(int.from_bytes(part, "little"))
            significant = np.uint64(2 ** (8 * len(part)) - 1)
            same &= words[np.minimum(at + start, self.size)] & significant == wanted
        return same

    def texts(self, starts: Positions, ends: Positions) -> pa.Array:
        """The bytes between each pair of positions, as a binary column. The parts are in the order of the block and do
        not overlap."""
        if not len(starts):
            return pa.array([], pa.binary())
        # Together, the parts and the gaps between them already are an Arrow column of the block.
        edges = np.empty(2 * len(starts), np.int32)
        edges[0::2], edges[1::2] = starts, ends
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self._bytes)]
        parts_and_gaps = pa.Array.from_buffers(pa.binary(), len(edges) - 1, buffers)
        return parts_and_gaps.take(pa.array(np.arange(0, len(edges) - 1, 2)))

    def hexadecimal(self, at: Positions, width: int) -> pa.Array:
        """The ``width`` bytes at each position as lower-case hexadecimal text."""
        return fixed_width(self._digits(at, width), pa.string())

    def uuids(self, at: Positions) -> pa.Array:
        """The 16 bytes at each position as the canonical text of a UUID."""
        texts = np.full((len(at), 36), ord("-"), np.uint8)
        texts[:, _UUID_DIGITS] = self._digits(at, 16)
        return fixed_width(texts, pa.string())

    def _digits(self, at: Positions, width: int) -> NDArray[np.uint8]:
        windows = np.lib.stride_tricks.sliding_window_view(self._bytes, width)
        return _HEX[windows[at]].view(np.uint8)

    def _at_any_place(self, dtype: str) -> NDArray[Any]:
        """The block as overlapping numbers, one at each position."""
        size = np.dtype(dtype).itemsize
        return np.ndarray((len(self._bytes) - size + 1,), dtype, self._bytes, strides=(1,))


def fixed_width(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """The bytes of each row or number of ``values`` as one text or binary value."""
    width = values.itemsize * (values.shape[1] if values.ndim > 1 else 1)
    edges = np.arange(len(values) + 1, dtype=np.int32) * np.int32(width)
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)
