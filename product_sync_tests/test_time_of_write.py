"""A column with `now: true` gets the time of each write. It is never compared, so it never makes a row differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync_tests.market import Market

pytestmark = pytest.mark.usefixtures("in_memory")

MAPPING = """
source: {collection: products}
target: {table: item}
columns:
  id: {source: _id}
  stock: {source: stock}
  created_at: {now: true, update: false}
  changed_at: {now: true, zone: Europe/Berlin}
  changed_on: {now: true}
"""
QUICK: dict[str, Any] = {"settle_seconds": 0, "batch_delay_ms": 0}
#: The times of a row: whether they are those of one moment, in the zones of the mapping, a moment ago.
FRESH = (
    "changed_at AT TIME ZONE 'Europe/Berlin' {0} created_at AND changed_on = (now() AT TIME ZONE 'UTC')::date"
    " AND changed_at AT TIME ZONE 'Europe/Berlin' > now() - interval '5 minutes'"
)


def test_a_row_has_the_time_of_its_write_and_is_written_for_other_reasons_only(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.sql(
        "CREATE TABLE item (id int PRIMARY KEY, stock int NOT NULL, created_at timestamptz NOT NULL,"
        " changed_at timestamp NOT NULL, changed_on date NOT NULL)"
    )
    market.stock([{"_id": number, "stock": 1} for number in range(250)])  # enough for COPY
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    market.env["PRODUCT_SYNC_MAPPING"] = str(tmp_path / "mapping.yaml")
    market.enter(monkeypatch)
    assert api.sync(**QUICK).raise_for_error().inserted == 250
    assert market.sql(f"SELECT count(*) FROM item WHERE {FRESH.format('=')}") == [(250,)]

    market.sql("UPDATE item SET created_at = '2001-01-01Z', changed_at = '2002-01-01', changed_on = '2003-01-01'")
    with MongoClient[dict[str, Any]](market.mongodb_url) as client:
        client.get_default_database()["products"].update_one({"_id": 7}, {"$set": {"stock": 2}})
        client.get_default_database()["products"].insert_one({"_id": 1000, "stock": 3})
    again = api.sync(**QUICK).raise_for_error()
    assert (again.inserted, again.updated, again.valid) == (1, 1, True)
    assert {line["column"] for line in again.first_differences if line["op"] == "update"} == {"stock"}
    assert market.sql(f"SELECT id FROM item WHERE {FRESH.format('=')}") == [(1000,)]
    assert market.sql(f"SELECT id, created_at = '2001-01-01Z' FROM item WHERE {FRESH.format('>')}") == [(7, True)]
    assert market.sql("SELECT count(*) FROM item WHERE changed_on = '2003-01-01'") == [(249,)]
    assert api.validate().raise_for_error().valid
