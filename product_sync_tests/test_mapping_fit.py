"""A path that no document has is a warning before the first row is written, with the field that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_sync import api
from product_sync.verify.checks import FEW_DOCUMENTS
from product_sync_tests.market import Market

MISTYPED = """
source: {collection: products}
target: {table: goods}
columns:
  id: {source: _id}
  title: {source: title}
  stock: {source: stock.availible, default: 0}
  image: {source: img, required: false}
  note: {source: note, required: false}
"""
STOCK = (
    "has a value at stock.availible for column stock: every row gets the default 0."
    " The nearest field is stock.available."
)


@pytest.fixture
def mistyped(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Market:
    """Two paths of the mapping are in no document; one optional field is in the last one only."""
    market.sql(
        "CREATE TABLE goods (id text PRIMARY KEY, title text NOT NULL, stock int NOT NULL, image text, note text)"
    )
    names = [f"p{number:02}" for number in range(2 * FEW_DOCUMENTS)]
    documents = [{"_id": name, "title": name, "stock": {"available": 3}, "image": None} for name in names]
    market.stock([*documents[:-1], {**documents[-1], "note": "rare"}])
    (tmp_path / "mapping.yaml").write_text(MISTYPED)
    market.env["PRODUCT_SYNC_MAPPING"] = str(tmp_path / "mapping.yaml")
    market.enter(monkeypatch)
    return market


def test_doctor_and_the_dry_run_name_the_path_and_the_nearest_field(mistyped: Market) -> None:
    [note] = api.doctor().raise_for_error().mongodb.notes or []
    assert note.startswith("in a sample: None of 20 documents ")
    dry = api.sync(dry_run=True).raise_for_error()
    assert dry.would_pass
    [predicted] = [check for check in dry.predicted_checks or [] if check.check == "mapping_fits_source"]
    for said in (note, predicted.description):
        assert STOCK in said
        assert "at img for column image: it is NULL in every row." in said
        assert "column note" not in said, "the last document has it"
    assert not predicted.passed
