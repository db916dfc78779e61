"""A path that no document has is a warning before the first row is written, with the field that was probably meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from product_sync import api
from product_sync.pipeline import read_back
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sync_run import open_sync_run
from product_sync.runtime.progress import no_progress
from product_sync.schema.addresses import SourceAddress
from product_sync.schema.definition import load_definition
from product_sync.settings import RunOptions
from product_sync_tests.market import Market

pytestmark = pytest.mark.usefixtures("in_memory")

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
    names = [f"p{number:02}" for number in range(20)]
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
    assert [(value.source, value.bson_type, value.target) for value in dry.sample_product or []] == [
        ("_id", "string", "p19"),
        ("title", "string", "p19"),
        ("stock.availible", None, "0"),
        ("img", None, None),
        ("note", "string", "rare"),
    ]
    assert api.doctor().sample_product == dry.sample_product


def test_every_run_says_in_how_many_documents_each_column_was_found(mistyped: Market) -> None:
    found = {"id": 20, "title": 20, "stock": 0, "image": 0, "note": 1}
    assert api.validate(settle_seconds=0).found_by_column == found
    assert api.sync(dry_run=True).found_by_column == found
    assert api.sync().raise_for_error().found_by_column == found


def test_one_document_is_enough_for_the_warning_and_none_is_not(mistyped: Market) -> None:
    mistyped.unstock({})
    assert api.doctor().mongodb.notes is None
    mistyped.stock([{"_id": "a", "title": "t", "images": [{"url": "u"}], "image": None}])
    [note] = api.doctor().mongodb.notes or []
    assert "None of 1 document has a value at img for column image: it is NULL in every row." in note


def test_a_snapshot_is_kept_and_its_check_names_the_field_although_mongodb_is_down_by_then(
    mistyped: Market, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MISTYPED.replace("products}", "products, filter: {title: {$exists: true}}}"))
    databases = Databases.of(load_definition(mapping), mistyped.env)
    options = RunOptions.resolve({}, {})
    run = open_sync_run(databases, options, state_root=tmp_path, run_id="run", on_progress=no_progress)
    counted = run.snapshot_source()
    down = replace(run, databases=replace(databases, source=SourceAddress("mongodb://127.0.0.1:1/shop")))
    assert STOCK in read_back.check_mapping(down, run.files).description
    with run.source() as source:
        pass
    assert counted.filtered_out == 0
    assert run.with_filtered_out(counted, source) == counted, "the connection is closed by now"
