"""Finds the columns that no document fills: their path is nearly always a mistake in the mapping.

Otherwise a mistyped path with a default would write the default into every row, and the copy would still be proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from bson.errors import InvalidBSON

from product_sync.conversion.document import RowConverter, decode
from product_sync.schema.records import Reason, SourceBatch
from product_sync.schema.row_schema import RowColumn, RowSchema


class UnfilledColumns:
    """Takes the pages of a source. A column is filled if a document has a value of its own for it: one that is not the
    default or NULL, or one that cannot be converted."""

    def __init__(self, row_schema: RowSchema) -> None:
        converter = RowConverter(row_schema)
        self._defaults = {
            column.name: pa.scalar(converter.default(column.name), column.type.arrow) for column in row_schema.values
        }
        #: A column with the same value in every row has no path.
        self._left = [column for column in row_schema.values if column.path]
        self._rows = 0

    def add(self, page: SourceBatch) -> None:
        self._rows += page.rows.num_rows
        self._left = [column for column in self._left if not self._is_filled(column, page)]

    @property
    def columns(self) -> list[RowColumn]:
        """The columns that no document fills. If no document can be copied, only required columns are among them:
        nothing is known about the others."""
        return [column for column in self._left if self._rows or _is_demanded(column)]

    def _is_filled(self, column: RowColumn, page: SourceBatch) -> bool:
        if _is_demanded(column):
            missing = (column.name, Reason.MISSING_FIELD)
            return bool(page.rows.num_rows) or any(
                missing not in {(defect.column, defect.reason) for defect in reject.defects} for reject in page.rejects
            )
        values, default = page.rows[column.name], self._defaults[column.name]
        has_default = pc.equal(values, default) if default.is_valid else values.is_null()
        if not pc.all(has_default, min_count=0).as_py():
            return True
        return any(defect.column == column.name for reject in page.rejects for defect in reject.defects)


def _is_demanded(column: RowColumn) -> bool:
    """Whether a document without this column is rejected."""
    return column.required and not column.has_default


def field_paths(documents: Iterable[bytes]) -> set[str]:
    """The dotted paths of all values in these documents that are not null."""
    paths: set[str] = set()
    for raw in documents:
        with suppress(InvalidBSON):
            paths |= set(_paths(decode(raw)))
    return paths


def _paths(document: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in document.items():
        if value is not None:
            yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{name}.")
