"""Counts in how many documents the path of each column has a value.

A path that no document has is nearly always a mistake in the mapping. A mistyped path with a default would write the
default into every row, and the copy would still be proven.
"""

from __future__ import annotations

from collections import Counter

from product_sync.schema.records import SourceBatch
from product_sync.schema.row_schema import RowSchema


class FoundColumns:
    """Takes the pages of a source. An expression is found in a document if it gives something."""

    def __init__(self, row_schema: RowSchema) -> None:
        #: A column with the same value in every row has no path.
        self._names = [column.name for column in row_schema.columns if column.path]
        self._absent: Counter[str] = Counter()
        self._documents = 0

    def add(self, page: SourceBatch) -> None:
        self._documents += page.documents
        self._absent.update(page.absent)

    @property
    def counts(self) -> dict[str, int]:
        """In how many documents each column was found."""
        return {name: self._documents - self._absent[name] for name in self._names}
