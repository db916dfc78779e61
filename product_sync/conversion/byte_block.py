"""Reads many values out of one block of bytes at once, each at a position of its own.

MongoDB's replies and PostgreSQL's COPY both come as rows of a changing length, one after the other. Cut apart by
Python they cost some objects a value, which is most of the time that a sync takes. Here a column is one array of
positions, and reading it is one operation of NumPy or Arrow, whatever the number of rows.

Reading never leaves the block, however wrong a position is: what was read there has to be checked, or left out.
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
#: Where the hexadecimal digits of a UUID stand in its text, and where the hyphens do (RFC 9562, section 4).
_UUID_HYPHENS: Final = (8, 13, 18, 23)
_UUID_DIGITS: Final = np.array([place for place in range(36) if place not in _UUID_HYPHENS])


class ByteBlock:
    """A block of bytes. Positions are offsets into it, at least 0 and at most its size.

    Offsets of text are 32 bits wide in Arrow, so a block has less than 2 GiB.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.size = len(data)
        self._bytes = np.zeros(self.size + _PADDING, np.uint8)
        self._bytes[: self.size] = np.frombuffer(data, np.uint8)

    def __getitem__(self, part: slice) -> bytes:
        return self._bytes[part].tobytes()

    def integers(self, at: Positions, dtype: str) -> NDArray[Any]:
        """The numbers of NumPy type ``dtype`` (such as ``<i4``) that begin at these positions."""
        return self._at_any_place(dtype)[at]

    def equal(self, at: Positions, expected: bytes) -> Mask:
        """Where the bytes from a position on are ``expected``."""
        same = np.ones(len(at), dtype=bool)
        words = self._at_any_place("<u8")
        for start in range(0, len(expected), _WORD):
            part = expected[start : start + _WORD]
            wanted = np.uint64(int.from_bytes(part, "little"))
            significant = np.uint64(2 ** (8 * len(part)) - 1)
            same &= words[np.minimum(at + start, self.size)] & significant == wanted
        return same

    def texts(self, starts: Positions, ends: Positions) -> pa.Array:
        """The bytes between each pair of positions, as a binary column. The parts must not overlap and must come in
        the order of the block."""
        if not len(starts):
            return pa.array([], pa.binary())
        # Parts and the gaps between them, taken together, are an Arrow column that lies in the block already.
        edges = np.empty(2 * len(starts), np.int32)
        edges[0::2], edges[1::2] = starts, ends
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self._bytes)]
        parts_and_gaps = pa.Array.from_buffers(pa.binary(), len(edges) - 1, buffers)
        return parts_and_gaps.take(pa.array(np.arange(0, len(edges) - 1, 2)))

    def hexadecimal(self, at: Positions, width: int) -> pa.Array:
        """The ``width`` bytes at each position as lower-case hexadecimal text."""
        return _fixed_texts(self._digits(at, width))

    def uuids(self, at: Positions) -> pa.Array:
        """The 16 bytes at each position as the canonical text of a UUID."""
        texts = np.full((len(at), 36), ord("-"), np.uint8)
        texts[:, _UUID_DIGITS] = self._digits(at, 16)
        return _fixed_texts(texts)

    def _digits(self, at: Positions, width: int) -> NDArray[np.uint8]:
        windows = np.lib.stride_tricks.sliding_window_view(self._bytes, width)
        return _HEX[windows[at]].view(np.uint8)

    def _at_any_place(self, dtype: str) -> NDArray[Any]:
        """The block as overlapping numbers, one at each position."""
        size = np.dtype(dtype).itemsize
        return np.ndarray((len(self._bytes) - size + 1,), dtype, self._bytes, strides=(1,))


def _fixed_texts(characters: NDArray[np.uint8]) -> pa.Array:
    """Text of one width: a row of ``characters``, which are ASCII, each."""
    rows, width = characters.shape
    edges = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(np.ascontiguousarray(characters))]
    return pa.Array.from_buffers(pa.string(), rows, buffers)
