"""The fakes keep the contracts that the real servers keep, so that tests on them prove something."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from product_sync.schema.row_schema import RowSchema
from product_sync_tests.fakes import FakeSource, FakeTarget
from product_sync_tests.source_contract import SourceContract, SourceOf, product_row_schema
from product_sync_tests.target_contract import Row, TargetContract, TargetOf


class TestFakeSource(SourceContract):
    @pytest.fixture
    def source_of(self) -> SourceOf:
        return lambda documents: FakeSource(product_row_schema(), documents)


class _Table:
    """A fake target with the hands that the contract asks for."""

    def __init__(self, row_schema: RowSchema, rows: Sequence[Row]) -> None:
        empty = dict.fromkeys(row_schema.target_schema.names)
        self.reader = self.writer = FakeTarget(row_schema, [empty | dict(row) for row in rows])

    def remove(self, key: str) -> None:
        del self.writer.rows[key]

    def refuse_title(self, title: str) -> None:
        self.writer.refuses = lambda row: "title_is_fine" if row["title"] == title else None

    def make_unique(self, column: str) -> None:
        self.writer.unique += (column,)

    def refer_to_id(self, column: str) -> None:
        self.writer.parent = column

    def swallow(self, key: str) -> None:
        self.writer.swallows.add(key)


class TestFakeTarget(TargetContract):
    @pytest.fixture
    def target_of(self) -> TargetOf:
        return _Table
