"""Converts whole pages of documents at once, and equals the conversion of single ones (`conversion`).

Decoding every document into Python values takes most of the time of a sync in which nothing differs. Documents of a
catalogue mostly look alike: the same fields in the same order. Where they do, every field is read of all documents
together (`octets`). The rules stay those of `conversion`: a document whose form or value is not *known here to be
copied in just that way* is handed over to them, and they alone reject. So this module can be slow where it should not,
but neither copy nor reject what they would not (``docs/decisions/0015``; a property test compares the two).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from product_sync.conversion.byte_block import ByteBlock, Mask, Positions
from product_sync.conversion.document import EARLIEST_MS, LATEST_MS, RowConverter
from product_sync.conversion.ids import FIXED_SIZES, value_size
from product_sync.schema.mapping import Kind
from product_sync.schema.records import IdType, Reject, SourceBatch, TypeName
from product_sync.schema.row_schema import RowColumn, RowSchema

#: Types of BSON elements (bsonspec.org).
_DOUBLE, _STRING, _BINARY, _OBJECT_ID = 0x01, 0x02, 0x05, 0x07
_BOOLEAN, _DATE, _NULL, _INT32, _INT64 = 0x08, 0x09, 0x0A, 0x10, 0x12
_NUMBERS: Final = frozenset({_DOUBLE, _INT32, _INT64})
#: A binary element of a UUID: its length, then its subtype.
_UUID_HEAD: Final = b"\x10\0\0\0\x04"
_UUID_SIZE: Final = len(_UUID_HEAD) + 16

_ID_TYPES: Final = {
    _OBJECT_ID: IdType.OBJECT_ID,
    _STRING: IdType.STRING,
    _INT32: IdType.INT,
    _INT64: IdType.LONG,
    _BINARY: IdType.UUID,
}
_INTEGER_BITS: Final = {TypeName.SMALLINT: 16, TypeName.INTEGER: 32, TypeName.BIGINT: 64}
_TEXTS: Final = frozenset({TypeName.TEXT, TypeName.VARCHAR})
#: Every integer up to here is a double, and every decimal of so many digits stands for another double (DBL_DIG of C).
_EXACT_AS_DOUBLE: Final = 2**53
_DOUBLE_DIGITS: Final = 15
#: The most digits after the point that are tried of a double, and the most digits of a number in 64 bits.
_FRACTION_DIGITS: Final = 6
_INT64_DIGITS: Final = 18

#: Shapes that are looked for in one page.
_SHAPES: Final = 8
#: From how many documents on it is quicker to read them together.
WORTH_WHILE: Final = 64


@dataclass(frozen=True, slots=True)
class Documents:
    """Raw BSON documents within one block: document *i* is ``data[starts[i]:ends[i]]``. They come in the order of the
    block and do not overlap."""

    data: bytes | memoryview
    starts: Positions
    ends: Positions

    @classmethod
    def joined(cls, documents: Sequence[bytes]) -> Documents:
        """Documents that came one by one."""
        ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(documents)]
        return cls(b"".join(documents), starts, ends)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return int((self.ends - self.starts).sum())

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.data[self.starts[index] : self.ends[index]])

    def each(self) -> Iterator[bytes]:
        """The documents one by one."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield bytes(self.data[start:end])

    def pages(self, page_bytes: int) -> Iterator[Documents]:
        """Cut into pages of at most ``page_bytes``, or of one document that is larger."""
        start = 0
        while start < len(self):
            fits = int(np.searchsorted(self.ends, self.starts[start] + page_bytes, side="right"))
            end = max(fits, start + 1)
            yield Documents(self.data, self.starts[start:end], self.ends[start:end])
            start = end


class _Element(NamedTuple):
    """A field of all documents of a shape: its name, and the BSON types that it may have."""

    name: str
    kinds: frozenset[int]


class _Found(NamedTuple):
    """An element of a number of documents: where its value begins and ends, and its BSON type in each."""

    at: Positions
    end: Positions
    kinds: NDArray[np.uint8]

    def only(self, chosen: Mask) -> _Found:
        return _Found(self.at[chosen], self.end[chosen], self.kinds[chosen])


class _Read(NamedTuple):
    """A column as it was read, and which of its values are canonical; the others mean nothing."""

    values: pa.Array
    certain: Mask


class PageConverter:
    """Turns pages of documents into rows of a layout. Made once per run, as `RowConverter`, with the same errors.

    Fewer documents than ``worth_while`` are converted one by one.
    """

    def __init__(self, row_schema: RowSchema, *, worth_while: int = WORTH_WHILE) -> None:
        self._worth_while = worth_while
        self._schema = row_schema.source_schema
        self._exact = RowConverter(row_schema)
        self._key = row_schema.key
        self._values = row_schema.values
        self._by_field: dict[str, list[RowColumn]] = {}
        for column in row_schema.columns:
            self._by_field.setdefault(column.path[0], []).append(column)
        self._is_flat = all(len(column.path) == 1 for column in row_schema.columns)

    def batch(self, documents: Documents) -> SourceBatch:
        """What `RowConverter.batch` makes of these documents, in the same order."""
        undecided = np.arange(len(documents))
        parts: list[tuple[Positions, pa.RecordBatch]] = []
        if self._is_flat and len(documents) >= self._worth_while:
            undecided = self._decode(documents, undecided, parts)
        rejects: list[Reject] = []
        if len(undecided) or not parts:
            outcomes = self._exact.each(documents[int(index)] for index in undecided)
            rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
            rows = [(index, row) for index, row in zip(undecided, outcomes, strict=True) if not isinstance(row, Reject)]
            if rows or not parts:
                places = np.array([index for index, _ in rows], np.int64)
                parts.append((places, self._exact.assemble([row for _, row in rows])))
        return SourceBatch(self._in_order(parts), tuple(rejects), len(documents))

    def _decode(
        self, documents: Documents, undecided: Positions, parts: list[tuple[Positions, pa.RecordBatch]]
    ) -> Positions:
        """Read the documents of a few shapes into ``parts``; returns the others."""
        octets = ByteBlock(documents.data)
        others: list[Positions] = []
        for _ in range(_SHAPES):
            if len(undecided) < self._worth_while:
                break
            # In the middle stands an ordinary document more likely than at the ends.
            example = len(undecided) // 2
            shape = self._shape(documents[int(undecided[example])])
            if shape is None:
                others.append(undecided[example : example + 1])
                undecided = np.delete(undecided, example)
                continue
            is_read, rows = self._read(octets, documents.starts[undecided], documents.ends[undecided], shape)
            parts.append((undecided[is_read], rows))
            others.append(undecided[example : example + 1][~is_read[example : example + 1]])
            is_read[example] = True
            undecided = undecided[~is_read]
        return np.sort(np.concatenate([undecided, *others]))

    def _in_order(self, parts: list[tuple[Positions, pa.RecordBatch]]) -> pa.RecordBatch:
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        return pa.concat_batches([rows for _, rows in parts]).take(pa.array(order))

    def _shape(self, document: bytes) -> list[_Element] | None:
        """The elements of a document if all documents like it can be read here, else ``None``."""
        shape: list[_Element] = []
        at, end = 4, len(document) - 1
        while at < end:
            kind, name_end = document[at], document.find(b"\0", at + 1)
            name = document[at + 1 : name_end].decode("utf-8", "replace")
            kinds, size = self._kinds_read_alike(name, kind), value_size(document, kind, name_end + 1)
            if kinds is None or size is None or size < 0 or name in (element.name for element in shape):
                return None
            at = name_end + 1 + size
            shape.append(_Element(name, kinds))
        absent = self._by_field.keys() - {element.name for element in shape}
        if at != end or any(not self._may_be_absent(name) for name in absent):
            return None
        return shape

    def _kinds_read_alike(self, name: str, kind: int) -> frozenset[int] | None:
        """The types that a field may have besides this one and be read by the same steps; ``None`` for a field that is
        not mapped, and for a type that `conversion` has to look at."""
        columns = self._by_field.get(name, [])
        if kind == _NULL and columns and self._may_be_absent(name):
            return frozenset({_NULL})
        for kinds in (_NUMBERS, frozenset({kind})):
            if kind in kinds and columns and all(kinds <= self._kinds(column) for column in columns):
                return kinds
        return None

    def _kinds(self, column: RowColumn) -> frozenset[int]:
        """The BSON types of which values of this column can be read here."""
        name = column.type.name
        if column is self._key or column.kind is Kind.REFERENCE:
            return frozenset(_ID_TYPES) if name in _TEXTS else frozenset({_BINARY})
        if name in _INTEGER_BITS or name is TypeName.DOUBLE:
            return _NUMBERS
        if name is TypeName.NUMERIC:
            return _NUMBERS if 0 <= (column.type.scale or 0) <= _FRACTION_DIGITS else frozenset()
        kinds = {TypeName.BOOLEAN: {_BOOLEAN}, TypeName.TIMESTAMPTZ: {_DATE}, TypeName.UUID: {_BINARY}}
        return frozenset({_STRING} if name in _TEXTS else kinds.get(name, set()))

    def _may_be_absent(self, name: str) -> bool:
        columns = self._by_field[name]
        return all(column is not self._key and self._exact.may_be_absent(column.name) for column in columns)

    def _read(
        self, octets: ByteBlock, starts: Positions, ends: Positions, shape: list[_Element]
    ) -> tuple[Mask, pa.RecordBatch]:
        """Which of the documents have this shape and hold nothing but values that are certain; and their rows."""
        has_shape, found = _walk(octets, starts, ends, shape)
        found = {name: element.only(has_shape) for name, element in found.items()}
        rows = int(has_shape.sum())
        columns = {column.name: self._column(octets, column, found, rows) for column in (self._key, *self._values)}
        certain = np.ones(rows, dtype=bool)
        for column in columns.values():
            certain &= column.certain
        is_read = has_shape.copy()
        is_read[has_shape] = certain
        (id_kind,) = next(element.kinds for element in shape if element.name == "_id")
        id_types = pa.DictionaryArray.from_arrays(
            np.zeros(rows, np.int8), [str(_ID_TYPES[id_kind])]
        ).dictionary_decode()
        arrays = [id_types, *(column.values for column in columns.values())]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return is_read, batch if certain.all() else batch.filter(pa.array(certain))

    def _column(self, octets: ByteBlock, column: RowColumn, found: dict[str, _Found], rows: int) -> _Read:
        element = found.get(column.path[0])
        if element is None or (rows and element.kinds[0] == _NULL):
            default = pa.array([self._exact.default(column.name)], column.type.arrow)
            return _Read(default.take(pa.array(np.zeros(rows, np.int64))), np.ones(rows, dtype=bool))
        if not rows:
            return _Read(pa.array([], column.type.arrow), np.ones(0, dtype=bool))
        name = column.type.name
        if column is self._key or column.kind is Kind.REFERENCE:
            return _id(octets, element, column.type.length)
        if name in _INTEGER_BITS:
            return _integer(octets, element, _INTEGER_BITS[name], column.type.arrow)
        if name is TypeName.NUMERIC:
            return _numeric(octets, element, column.type.precision, column.type.scale)
        if name is TypeName.DOUBLE:
            return _double(octets, element)
        if name is TypeName.BOOLEAN:
            octet = octets.integers(element.at, "u1")
            return _Read(pa.array(octet == 1), octet <= 1)
        if name is TypeName.TIMESTAMPTZ:
            return _timestamp(octets, element)
        if name is TypeName.UUID:
            return _uuid(octets, element)
        return _text(octets, element, column.type.length)


def _walk(
    octets: ByteBlock, starts: Positions, ends: Positions, shape: list[_Element]
) -> tuple[Mask, dict[str, _Found]]:
    """Go through all documents side by side, element by element; returns which of them are well-formed and have
    exactly these elements, and where these are. What is said of the others means nothing."""
    fits = octets.integers(starts, "<i4") == ends - starts
    at = starts + 4
    last = ends - 1
    found: dict[str, _Found] = {}
    for name, kinds in shape:
        kind = octets.integers(at, "u1")
        title = name.encode() + b"\0"
        fits &= np.isin(kind, list(kinds)) & octets.equal(at + 1, title)
        value_at = np.minimum(at + 1 + len(title), last)
        size, is_whole = _sizes(octets, value_at, kind, kinds)
        fits &= is_whole & (size <= last - value_at)
        at = np.where(fits, value_at + size, starts)
        found[name] = _Found(value_at, at, kind)
    fits &= (at == last) & (octets.integers(last, "u1") == 0)
    return fits, found


def _sizes(
    octets: ByteBlock, at: Positions, kind: NDArray[np.uint8], kinds: frozenset[int]
) -> tuple[Positions, Mask | bool]:
    """Bytes of the values, and where these are well-formed as far as their size goes."""
    if kinds == _NUMBERS:
        return np.where(kind == _INT32, 4, 8), True
    (only,) = kinds
    if only == _STRING:
        length = octets.integers(at, "<i4").astype(np.int64)
        end = np.minimum(np.maximum(at + 4 + length - 1, 0), octets.size)
        return length + 4, (length >= 1) & (octets.integers(end, "u1") == 0)
    if only == _BINARY:
        return np.full(len(at), _UUID_SIZE), octets.equal(at, _UUID_HEAD)
    return np.full(len(at), FIXED_SIZES[only]), True


def _id(octets: ByteBlock, element: _Found, length: int | None) -> _Read:
    kind = element.kinds[0]
    if kind == _STRING:
        return _text(octets, element, length)
    if kind == _BINARY:
        read = _uuid(octets, element)
    elif kind == _OBJECT_ID:
        read = _Read(octets.hexadecimal(element.at, 12), np.ones(len(element.at), dtype=bool))
    else:
        numbers = octets.integers(element.at, "<i4" if kind == _INT32 else "<i8")
        read = _Read(pa.array(numbers).cast(pa.string()), np.ones(len(element.at), dtype=bool))
    return read if length is None else _Read(read.values, read.certain & _mask(_is_at_most(read.values, length)))


def _text(octets: ByteBlock, element: _Found, length: int | None) -> _Read:
    octets_of_text = octets.texts(element.at + 4, element.end - 1)
    certain = np.ones(len(element.at), dtype=bool)
    try:
        text = octets_of_text.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8 somewhere: of the whole page only what is ASCII is certain then
        text = octets_of_text.view(pa.string())
        certain &= _mask(pc.string_is_ascii(text))
    if not np.frombuffer(text.buffers()[2] or b"\1", np.uint8).all():
        certain &= ~_mask(pc.match_substring(octets_of_text, b"\0"))
    if length is not None:
        # Not counting the characters of what may be no UTF-8.
        text = pc.if_else(pa.array(certain), text, "")
        certain &= _mask(_is_at_most(text, length))
    return _Read(text, certain)


def _is_at_most(text: pa.Array, length: int) -> pa.Array:
    return pc.less_equal(pc.utf8_length(text), length)


def _uuid(octets: ByteBlock, element: _Found) -> _Read:
    return _Read(octets.uuids(element.at + len(_UUID_HEAD)), np.ones(len(element.at), dtype=bool))


def _timestamp(octets: ByteBlock, element: _Found) -> _Read:
    milliseconds = octets.integers(element.at, "<i8")
    certain = (milliseconds >= EARLIEST_MS) & (milliseconds <= LATEST_MS)
    microseconds = pa.array(np.where(certain, milliseconds, 0) * 1000)
    return _Read(microseconds.cast(pa.timestamp("us", tz="UTC")), certain)


def _integer(octets: ByteBlock, element: _Found, bits: int, arrow: pa.DataType) -> _Read:
    numbers, certain = _whole_numbers(octets, element)
    certain &= (numbers >= -(2 ** (bits - 1))) & (numbers <= 2 ** (bits - 1) - 1)
    return _Read(pa.array(np.where(certain, numbers, 0)).cast(arrow), certain)


def _whole_numbers(octets: ByteBlock, element: _Found) -> tuple[NDArray[np.int64], Mask]:
    numbers = np.where(
        element.kinds == _INT32, octets.integers(element.at, "<i4"), octets.integers(element.at, "<i8")
    ).astype(np.int64)
    is_double = element.kinds == _DOUBLE
    if not is_double.any():
        return numbers, np.ones(len(numbers), dtype=bool)
    doubles = _small_doubles(octets, element)
    is_whole = (doubles == np.trunc(doubles)) & (np.abs(doubles) < _EXACT_AS_DOUBLE)
    return np.where(is_double, np.where(is_whole, doubles, 0).astype(np.int64), numbers), is_whole | ~is_double


def _small_doubles(octets: ByteBlock, element: _Found) -> NDArray[np.float64]:
    """The doubles below 2^53; something else, which is not small, in the place of all other values."""
    doubles = octets.integers(element.at, "<f8")
    is_small = (element.kinds == _DOUBLE) & (np.abs(doubles) < _EXACT_AS_DOUBLE)
    return np.where(is_small, doubles, float(_EXACT_AS_DOUBLE))


def _double(octets: ByteBlock, element: _Found) -> _Read:
    numbers, certain = _whole_numbers(octets, element)
    doubles = octets.integers(element.at, "<f8")
    is_double = element.kinds == _DOUBLE
    is_exact = (numbers > -_EXACT_AS_DOUBLE) & (numbers < _EXACT_AS_DOUBLE)
    certain = np.where(is_double, np.isfinite(doubles), certain & is_exact)
    # -0.0 + 0.0 is 0.0; every other value stays what it is.
    values = np.where(certain, np.where(is_double, doubles, numbers), 0.0) + 0.0
    return _Read(pa.array(values), certain)


def _numeric(octets: ByteBlock, element: _Found, precision: int | None, scale: int | None) -> _Read:
    """Numbers as so many units of the last place, which are whole.

    A double is one of them if the quotient is that very double: both parts of it are exact, so it is the double next to
    the decimal. A decimal of at most 15 digits is the only one of so few digits next to a double, so it is
    the shortest one, for which the double stands (`numbers`).
    """
    places = _FRACTION_DIGITS if scale is None and precision is None else scale or 0
    unit = 10**places
    most = 10 ** min(_INT64_DIGITS if precision is None else precision, _INT64_DIGITS)
    whole, certain = _whole_numbers(octets, element)
    certain &= (whole < most // unit) & (whole > -(most // unit))
    units = np.where(certain, whole, 0) * unit
    is_double = element.kinds == _DOUBLE
    if is_double.any():
        doubles = _small_doubles(octets, element)
        counted = np.rint(doubles * unit)
        certain_double = (counted / unit == doubles) & (np.abs(counted) < min(most, 10**_DOUBLE_DIGITS))
        units = np.where(is_double, np.where(certain_double, counted, 0).astype(np.int64), units)
        certain = np.where(is_double, certain_double, certain)
    return _Read(_decimal_texts(units, places), certain)


def _decimal_texts(units: NDArray[np.int64], places: int) -> pa.Array:
    """Fixed-point text without trailing zeros."""
    if not places:
        return pa.array(units).cast(pa.string())
    halves = np.empty((len(units), 2), np.int64)
    halves[:, 0], halves[:, 1] = units, units >> 63  # a decimal128 is a number of 128 bits, little end first
    decimals = pa.Array.from_buffers(pa.decimal128(38, places), len(units), [None, pa.py_buffer(halves)])
    return pc.ascii_rtrim(pc.ascii_rtrim(decimals.cast(pa.string()), "0"), ".")


def _mask(values: Any) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False)
    return mask
