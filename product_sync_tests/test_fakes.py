"""The fakes keep the contracts that the real servers keep, so that tests on them prove something."""

from __future__ import annotations

import pytest

from product_sync_tests.fakes import FakeSource
from product_sync_tests.source_contract import SourceContract, SourceOf, product_layout


class TestFakeSource(SourceContract):
    @pytest.fixture
    def source_of(self) -> SourceOf:
        return lambda documents: FakeSource(product_layout(), documents)
