"""Shows a diff to people: counts by column, the first rows of each kind, and one line for each column that differs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.compare.rule import same_values
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.types import TypeName
from product_sync.state.files import opened, pages, read_schema
from product_sync.state.spill import row_bytes

#: The most bytes of the rows of one op that are shown.
_SHOWN_BYTES = 8 * 1024 * 1024
_SHOWN_CHARACTERS = 200
#: Characters that are shown before the place where two long values differ, and in how many that place is looked for.
_SHARED_CHARACTERS, _COMPARED_CHARACTERS = 20, 100_000
#: How many rows of each op are shown.
SHOWN = 10
_TIMES = {TypeName.TIMESTAMPTZ: "microseconds", TypeName.TIMESTAMP: "microseconds", TypeName.DATE: "days"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One line for people. An update has one line for each column that differs. For an insert or an extra row
    ``column`` is empty, and ``new`` or ``old`` holds all values. NULL is ``None``; long values are cut."""

    op: Op
    id: str
    column: str
    old: str | None
    new: str | None


def changed_columns(path: Path, row_schema: RowSchema) -> dict[str, int]:
    """For each compared column: in how many of the changed rows it differs. Refused rows do not count."""
    counts = dict.fromkeys((column.name for column in row_schema.compared), 0)
    for rows in _rows_of(path, Op.UPDATE):
        new, old = diff_rows.new_rows(rows, row_schema), diff_rows.old_rows(rows, row_schema)
        for column in row_schema.compared:
            same = same_values(new, old, [column])
            counts[column.name] += rows.num_rows - int(pc.sum(same, min_count=0).as_py())
    return counts


def first_differences(path: Path, row_schema: RowSchema, limit_per_op: int = SHOWN) -> list[Difference]:
    """The first rows of each op, by id, as lines for people. Rows that were refused before are left out."""
    shown: list[Difference] = []
    for op in Op:
        left = limit_per_op
        for rows in _rows_of(path, op):
            for index in range(min(left, rows.num_rows)):
                shown.extend(lines_of(rows.slice(index, 1), op, row_schema))
            left -= rows.num_rows
            if left <= 0:
                break
    return shown


def first_rows(path: Path, op: Op, limit: int, most_bytes: int = _SHOWN_BYTES) -> pa.Table:
    """The first ``limit`` rows of ``op``, by id, without those that were refused before. If they have more than
    ``most_bytes``, fewer rows are returned, but at least one."""
    found, left, bytes_left = [read_schema(path).empty_table()], limit, float(most_bytes)
    for rows in _rows_of(path, op):
        head = rows.slice(0, left).combine_chunks()
        ends = np.cumsum(row_bytes(head.to_batches()[0]))
        fits = max(int(np.searchsorted(ends, bytes_left, side="right")), 1 if left == limit else 0)
        found.append(head.slice(0, fits))
        if fits == left or fits < head.num_rows:
            break
        left, bytes_left = left - fits, bytes_left - ends[-1]
    return pa.concat_tables(found)


def _rows_of(path: Path, op: Op) -> Iterator[pa.Table]:
    """The rows of ``op`` that were not refused before. Row groups without such rows are not read."""
    with opened(path) as file:
        for at, group in enumerate(file.groups):
            if not group.may_hold("op", str(op), str(op)):
                continue
            for page in pages(file, groups=[at]):
                wanted = pc.and_(pc.equal(page["op"], str(op)), pc.invert(page["refused_before"]))
                rows = page.filter(wanted)
                if rows.num_rows:
                    yield pa.Table.from_batches([rows]).replace_schema_metadata()


def lines_of(row: pa.Table, op: Op, row_schema: RowSchema) -> Iterator[Difference]:
    """One diff row as lines for people."""
    new, old = diff_rows.new_rows(row, row_schema), diff_rows.old_rows(row, row_schema)
    row_id = diff_rows.ids(row)[0]
    if op is Op.INSERT:
        yield Difference(op, row_id, "", None, _all_values(new, row_schema))
    elif op is Op.EXTRA:
        yield Difference(op, row_id, "", _all_values(old, row_schema), None)
    else:
        for column in row_schema.compared:
            if not same_values(new, old, [column])[0].as_py():
                yield Difference(op, row_id, column.name, *_cut_both(_text(old, column), _text(new, column)))


def _all_values(row: pa.Table, row_schema: RowSchema) -> str:
    values = ((column.name, shown(row, column)) for column in row_schema.values)
    return ", ".join(f"{name}: {or_null(value)}" for name, value in values)


def shown(row: pa.Table, column: RowColumn) -> str | None:
    """The value of the first row in this column, for people: ``None`` for NULL, long values are cut."""
    text = _text(row, column)
    return text and _cut(text)


def _text(row: pa.Table, column: RowColumn) -> str | None:
    scalar = row[column.name][0]
    if not scalar.is_valid:
        return None
    if column.type.name in _TIMES:
        return _shown_time(scalar, _TIMES[column.type.name])
    text = as_text(scalar.as_py())[:_COMPARED_CHARACTERS]
    return _with_zeros(text, column.type.scale) if column.type.scale else text


def _with_zeros(number: str, scale: int) -> str:
    """A canonical number with as many decimal places as the column has: 1.50 as in the table, not 1.5."""
    whole, _, fraction = number.partition(".")
    return f"{whole}.{fraction:0<{scale}}" if scale > 0 and whole.lstrip("-").isdigit() else number


def as_text(value: object) -> str:
    """A value as PostgreSQL's clients and mapping files write it: ``true``, not ``True``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def or_null(value: str | None) -> str:
    """A value in a line of text: an empty text must not look like nothing."""
    return "NULL" if value is None else value or '""'


def _shown_time(scalar: Any, unit: str) -> str:
    half = 2 ** (scalar.type.bit_width - 1)
    if scalar.value in (half - 1, -half):
        return "infinity" if scalar.value > 0 else "-infinity"
    try:
        return str(scalar.as_py().isoformat())
    except (ValueError, OverflowError):  # Python's calendar ends with the year 9999, PostgreSQL's does not
        return f"{scalar.value} {unit} since 1970"


def _cut_both(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """Two values that differ, cut. If both begin with the same long text, it is left out: otherwise they would look the
    same."""
    if old is None or new is None:
        return old and _cut(old), new and _cut(new)
    start = _shared(old, new) - _SHARED_CHARACTERS
    if start > 0 and max(len(old), len(new)) > _SHOWN_CHARACTERS:
        old, new = f"…{old[start:]}", f"…{new[start:]}"
    return _cut(old), _cut(new)


def _shared(old: str, new: str) -> int:
    """How many characters both begin with."""
    return bisect_left(range(min(len(old), len(new))), True, key=lambda place: old[: place + 1] != new[: place + 1])


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
