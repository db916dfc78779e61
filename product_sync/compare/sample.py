"""Looks at some whole documents of a source: which fields there are, and what one product becomes, column by column.

A snapshot reads the mapped fields only, so the name that was meant in place of a mistyped one is not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidBSON

from product_sync.compare.diff_lines import as_text, shown
from product_sync.conversion.document import RowConverter, decode, descend
from product_sync.conversion.elements import TYPE_NAMES, kind_at
from product_sync.conversion.extended_json import cut, excerpt, readable
from product_sync.results import SampleValue
from product_sync.schema.records import Defect, Reject
from product_sync.schema.row_schema import RowColumn, RowSchema

#: How the names of the fields begin that the source adds (`document.projection`).
_OWN: Final = ("product_sync ", "product_sync:")
#: The value of a column that has `now: true`.
_WRITTEN: Final = "the time of the write"
#: A place in an array, as people write it in a path: `images[0].url` or `images.0.url`.
_PLACE: Final = re.compile(r"\[(\d+)\]|(?<=\.)(\d+)(?=\.|$)")


@dataclass(frozen=True)
class Sample:
    """``fields`` are the dotted paths of all values that are not null, each with whether it is an array. ``product`` is
    empty if there is no document that can be decoded."""

    fields: Mapping[str, bool]
    product: Sequence[SampleValue]

    def advice(self, column: RowColumn) -> str:
        """A sentence about a column that no document has: how to reach what was probably meant. May be empty."""
        if column.expression is not None:
            return ""
        path = ".".join(column.path)
        place = _PLACE.search(path)
        plain = _PLACE.sub("", path).replace("..", ".").strip(".")
        above = [".".join(column.path[:depth]) for depth in range(1, len(column.path))]
        if place and plain.split(".")[0] in self.fields:
            return _element(plain, int(place[1] or place[2]))
        if any(self.fields.get(name) for name in above):
            return _element(path, 0)
        near = _nearest(path, self.fields)
        return f"The nearest field is {cut(near)}." if near else ""


NO_SAMPLE: Final = Sample({}, ())


def _element(path: str, place: int) -> str:
    expression = f'{{$arrayElemAt: ["${path}", {place}]}}'
    return f"A path does not reach into an array: use `expression: {expression}` in place of `source`."


def _nearest(path: str, fields: Mapping[str, bool]) -> str:
    """The field whose path is most like this one, else one with the same last name."""
    by_lower = {name.lower(): name for name in sorted(fields, reverse=True)}
    near = get_close_matches(path.lower(), sorted(by_lower), n=1)
    last = path.lower().rpartition(".")[2]
    same = sorted((len(name), name) for name in by_lower if name.rpartition(".")[2] == last)
    return by_lower[near[0]] if near else by_lower[same[0][1]] if same else ""


def take_sample(documents: Sequence[bytes], row_schema: RowSchema) -> Sample:
    """``documents`` are whole, with the values of the expressions as further fields."""
    fields: dict[str, bool] = {}
    for raw in documents:
        with suppress(InvalidBSON):
            fields |= {name: is_array for name, is_array in _paths(decode(raw)) if not name.startswith(_OWN)}
    return Sample(fields, _product(documents, row_schema))


def _paths(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, bool]]:
    for name, value in document.items():
        if value is not None:
            yield f"{above}{name}", isinstance(value, list)
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{name}.")


def _product(documents: Sequence[bytes], row_schema: RowSchema) -> list[SampleValue]:
    """The first of the documents that have the fewest defects and, of these, the fewest columns without a value."""
    converter = RowConverter(row_schema)
    best: tuple[tuple[int, int], bytes] | None = None
    for raw in documents:
        absent: list[str] = []
        [outcome] = converter.each([raw], absent)
        rank = len(outcome.defects) if isinstance(outcome, Reject) else 0, len(absent)
        if best is None or rank < best[0]:
            best = rank, raw
    return [] if best is None else product_of(best[1], row_schema, converter)


def product_of(raw: bytes, row_schema: RowSchema, converter: RowConverter) -> list[SampleValue]:
    """What this document becomes, column by column."""
    batch = converter.batch([raw])
    defects = {defect.column: defect for reject in batch.rejects for defect in reject.defects}
    row = pa.Table.from_batches([batch.rows]) if batch.rows.num_rows else None
    try:
        document = decode(raw)
    except InvalidBSON:
        document = {}
    values = [_value(raw, document, column, row, defects.get(column.name)) for column in row_schema.columns]
    return values + [SampleValue(each.name, "now", None, _WRITTEN, _WRITTEN, None) for each in row_schema.written_at]


def _value(
    raw: bytes, document: Mapping[str, Any], column: RowColumn, row: pa.Table | None, defect: Defect | None
) -> SampleValue:
    kind, value = None, None
    if column.path:
        kind = kind_at(raw, column.path) if document else None
        value = None if kind is None else _said(descend(document, column.path)[0])
    elif column.has_default:
        value = as_text(column.default)
    reason = None
    if row is None:
        reason = str(defect.reason) if defect else "another column cannot be copied"
    target = None if row is None else shown(row, column)
    return SampleValue(
        column.name, column.origin or "value", None if kind is None else TYPE_NAMES[kind], value, target, reason
    )


def _said(value: Any) -> str:
    """A value of a document for people."""
    if isinstance(value, DatetimeMS):
        with suppress(OverflowError, ValueError):  # Python's calendar has the years 1 to 9999
            return value.as_datetime().isoformat()
    return readable(excerpt(value))
