"""Converts whole pages of documents at once, with the same results as `RowConverter`.

Decoding every document into Python values takes most of the time of a sync in which nothing differs. The documents of
a catalogue mostly have the same fields in the same order: a *shape*. The documents of one shape are read together, one
field after the other. A document of another shape, or with a value that is not certain, is left to `RowConverter`,
which alone rejects. So this module may be slower than necessary, never disagrees (docs/decisions/0015; a property test
compares the two).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
import pyarrow as pa
from bson.errors import InvalidBSON
from numpy.typing import NDArray

from product_sync.conversion import page_values
from product_sync.conversion.byte_block import ByteBlock, Mask, Positions
from product_sync.conversion.document import RowConverter
from product_sync.conversion.elements import FIXED_SIZES, UNCOUNTED_SIZES, BsonType, Documents, elements
from product_sync.conversion.page_columns import ID_TYPES, NUMBERS, UUID_HEAD, UUID_SIZE, Converted, Values
from product_sync.conversion.rules import page_column
from product_sync.schema.records import Reject, SourceBatch
from product_sync.schema.row_schema import RowColumn, RowSchema

#: Shapes that are looked for in one page.
_SHAPES: Final = 8
#: Bytes of a document without elements.
_EMPTY_DOCUMENT: Final = 5
#: From so many documents on it is faster to read them together.
WORTH_WHILE: Final = 64


#: The fields of all documents of a shape in their order, with the BSON types that each may have.
_Shape = dict[str, frozenset[int]]


class PageConverter:
    """Converts pages to rows of a `RowSchema`. Made once per run; raises the same errors as `RowConverter`. Fewer than
    ``worth_while`` documents are converted one by one."""

    def __init__(self, row_schema: RowSchema, *, worth_while: int = WORTH_WHILE) -> None:
        self._worth_while = worth_while
        self._schema = row_schema.source_schema
        self._exact = RowConverter(row_schema)
        self._key = row_schema.key
        self._columns = row_schema.columns
        self._readers = {
            column.name: page_values.page_column(column) or page_column(column, is_key=column is self._key)
            for column in self._columns
        }
        self._by_field: dict[str, list[RowColumn]] = {}
        for column in self._columns:
            if column.path:
                self._by_field.setdefault(column.path[0], []).append(column)
        self._is_flat = all(len(column.path) <= 1 for column in self._columns)

    def batch(self, documents: Documents) -> SourceBatch:
        """The result of `RowConverter.batch` for these documents, in the same order."""
        undecided = np.arange(len(documents))
        parts: list[tuple[Positions, pa.RecordBatch]] = []
        absent: Counter[str] = Counter()
        if self._is_flat and len(documents) >= self._worth_while:
            undecided = self._read_shapes(documents, undecided, parts, absent)
        rejects: list[Reject] = []
        if len(undecided) or not parts:
            absent_here: list[str] = []
            outcomes = self._exact.each((documents[int(index)] for index in undecided), absent_here)
            absent.update(absent_here)
            rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
            rows = [(index, row) for index, row in zip(undecided, outcomes, strict=True) if not isinstance(row, Reject)]
            if rows or not parts:
                places = np.array([index for index, _ in rows], np.int64)
                parts.append((places, self._exact.assemble([row for _, row in rows])))
        return SourceBatch(_in_order(parts), tuple(rejects), len(documents), absent)

    def _read_shapes(
        self,
        documents: Documents,
        undecided: Positions,
        parts: list[tuple[Positions, pa.RecordBatch]],
        absent: Counter[str],
    ) -> Positions:
        """Read the documents of a few shapes into ``parts`` and count ``absent``. Returns the places of the others."""
        block = ByteBlock(documents.data)
        others: list[Positions] = []
        for _ in range(_SHAPES):
            if len(undecided) < self._worth_while:
                break
            # An ordinary document is more likely in the middle than at the ends.
            example = len(undecided) // 2
            shape = self._shape(documents[int(undecided[example])])
            if shape is None:
                others.append(undecided[example : example + 1])
                undecided = np.delete(undecided, example)
                continue
            is_read, rows = self._read(block, documents.starts[undecided], documents.ends[undecided], shape)
            parts.append((undecided[is_read], rows))
            absent.update(dict.fromkeys(self._absent_in(shape), rows.num_rows))
            others.append(undecided[example : example + 1][~is_read[example : example + 1]])
            is_read[example] = True
            undecided = undecided[~is_read]
        return np.sort(np.concatenate([undecided, *others]))

    def _shape(self, document: bytes) -> _Shape | None:
        """The fields of a document if all documents like it can be read here, else ``None``."""
        shape: _Shape = {}
        try:
            for element in elements(document):
                name = element.name.decode("utf-8", "replace")
                kinds = self._kinds_read_alike(name, element.kind)
                if kinds is None or name in shape:
                    return None
                shape[name] = kinds
        except InvalidBSON:
            return None
        absent = self._by_field.keys() - shape.keys()
        return None if any(not self._may_be_absent(name) for name in absent) else shape

    def _kinds_read_alike(self, name: str, kind: int) -> frozenset[int] | None:
        """The BSON types, ``kind`` among them, that the same steps read in this field. ``None`` for a field that is not
        mapped and for a type that only the exact rules convert."""
        columns = self._by_field.get(name, [])
        if kind == BsonType.NULL and columns and self._may_be_absent(name):
            return frozenset({BsonType.NULL})
        readers = [self._readers[column.name] for column in columns]
        for kinds in (NUMBERS, frozenset({kind})):
            if kind in kinds and readers and all(reader is not None and kinds <= reader.kinds for reader in readers):
                return kinds
        return None

    def _absent_in(self, shape: _Shape) -> list[str]:
        """The columns for which documents of this shape have no value."""
        filled = {name for name, kinds in shape.items() if kinds != {BsonType.NULL}}
        return [column.name for column in self._columns if column.path and column.path[0] not in filled]

    def _may_be_absent(self, name: str) -> bool:
        return not any(column is self._key or self._exact.is_required(column.name) for column in self._by_field[name])

    def _read(self, block: ByteBlock, starts: Positions, ends: Positions, shape: _Shape) -> tuple[Mask, pa.RecordBatch]:
        """Which of the documents have this shape and only certain values, and the rows of these."""
        has_shape, found = _walk(block, starts, ends, shape)
        found = {name: values.only(has_shape) for name, values in found.items()}
        rows = int(has_shape.sum())
        columns = [self._column(block, column, found, rows) for column in self._columns]
        certain = np.ones(rows, dtype=bool)
        for column in columns:
            certain &= column.certain
        is_read = has_shape.copy()
        is_read[has_shape] = certain
        (id_kind,) = shape["_id"]
        id_types = _repeated(pa.array([str(ID_TYPES[id_kind])]), rows)
        arrays = [id_types, *(column.values for column in columns)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return is_read, batch if certain.all() else batch.filter(pa.array(certain))

    def _column(self, block: ByteBlock, column: RowColumn, found: dict[str, Values], rows: int) -> Converted:
        values = found.get(column.path[0]) if column.path else None
        reader = self._readers[column.name]
        if not rows:
            return Converted(pa.array([], column.type.arrow), np.ones(0, dtype=bool))
        if values is None or reader is None or values.kinds[0] == BsonType.NULL:
            default = pa.array([self._exact.default(column.name)], column.type.arrow)
            return Converted(_repeated(default, rows), np.ones(rows, dtype=bool))
        return reader.convert(block, values)


def _in_order(parts: list[tuple[Positions, pa.RecordBatch]]) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    return pa.concat_batches([rows for _, rows in parts]).take(pa.array(order))


def _repeated(value: pa.Array, rows: int) -> pa.Array:
    """The only value of an array, ``rows`` times."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), value).dictionary_decode()


def _walk(block: ByteBlock, starts: Positions, ends: Positions, shape: _Shape) -> tuple[Mask, dict[str, Values]]:
    """Walk through all documents side by side, field by field. Returns which of them are well-formed and have exactly
    these fields, and where the values are. The positions in the other documents mean nothing."""
    fits = block.integers(starts, "<i4") == ends - starts
    at = starts + 4
    last = ends - 1
    found: dict[str, Values] = {}
    for name, kinds in shape.items():
        kind = block.integers(at, "u1")
        title = name.encode() + b"\0"
        fits &= np.isin(kind, list(kinds)) & block.equal(at + 1, title)
        value_at = np.minimum(at + 1 + len(title), last)
        size, is_whole = _sizes(block, value_at, kind, kinds)
        fits &= is_whole & (size <= last - value_at)
        at = np.where(fits, value_at + size, starts)
        found[name] = Values(value_at, at, kind)
    fits &= (at == last) & (block.integers(last, "u1") == 0)
    return fits, found


def _sizes(
    block: ByteBlock, at: Positions, kind: NDArray[np.uint8], kinds: frozenset[int]
) -> tuple[Positions, Mask | bool]:
    """The sizes of the values, and which of these are possible."""
    if kinds == NUMBERS:
        return np.where(kind == BsonType.INT32, FIXED_SIZES[BsonType.INT32], FIXED_SIZES[BsonType.INT64]), True
    (only,) = kinds
    if only == BsonType.STRING:
        length = block.integers(at, "<i4").astype(np.int64)
        size = length + UNCOUNTED_SIZES[BsonType.STRING]
        end = np.minimum(np.maximum(at + size - 1, 0), block.size)
        return size, (length >= 1) & (block.integers(end, "u1") == 0)
    if only in (BsonType.DOCUMENT, BsonType.ARRAY):
        size = block.integers(at, "<i4").astype(np.int64)
        return size, size >= _EMPTY_DOCUMENT
    if only == BsonType.BINARY:
        return np.full(len(at), UUID_SIZE), block.equal(at, UUID_HEAD)
    return np.full(len(at), FIXED_SIZES[only]), True
