"""A product is found in an earlier snapshot wherever it lies there, and row groups without it are passed over."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from product_sync.state import files
from product_sync.verify.drift_cause import Side
from product_sync.verify.snapshot_lookup import EarlierFile, seen_before
from product_sync_tests.load.bench import row
from product_sync_tests.source_contract import product_row_schema
from product_sync_tests.target_contract import table_of

ROW_SCHEMA = product_row_schema()
#: In no order, and with texts that programs sort differently.
IDS = ["b", "a", "", "Z", "é", "\uffff", "\U0001f600", "y" * 5_000, "~", "10", "9", "\u00df"]


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EarlierFile:
    monkeypatch.setattr(files, "ROW_GROUP_ROWS", 2)
    path = tmp_path / "target.arrow"
    with files.table_writer(path, ROW_SCHEMA.target_schema, metadata={}, sought_by="id") as sink:
        for batch in table_of(ROW_SCHEMA, [row(each) for each in IDS]).to_batches(max_chunksize=1):
            sink.write(batch)
    return EarlierFile(Side.TARGET, datetime.now(UTC), path)


@pytest.mark.parametrize("wanted", IDS)
def test_each_product_is_found(snapshot: EarlierFile, wanted: str, tmp_path: Path) -> None:
    [(_, found, _)] = seen_before(wanted, ROW_SCHEMA, [snapshot])
    assert found == table_of(ROW_SCHEMA, [row(wanted)])


def test_what_is_not_there_is_not_found(snapshot: EarlierFile, tmp_path: Path) -> None:
    for wanted in ("c", "zz", "\U0001f601"):
        [(_, found, _)] = seen_before(wanted, ROW_SCHEMA, [snapshot])
        assert found.num_rows == 0


def test_only_the_ids_have_bounds_that_row_groups_are_passed_over_by(snapshot: EarlierFile) -> None:
    with files.opened(snapshot.rows) as file:
        assert len(file.groups) == len(IDS) // 2
        assert [dict(group.bounds) for group in file.groups[:2]] == [{"id": ("a", "b")}, {"id": ("", "Z")}]
