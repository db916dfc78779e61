"""An expression that fails on some documents: every command goes on with the others and says what was wrong."""

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
  price: {expression: {$toDecimal: $price}}
  title: {expression: {$ifNull: [$title.en, $title]}, default: untitled}
"""
QUICK: dict[str, Any] = {"settle_seconds": 0, "batch_delay_ms": 0}


def test_a_failing_expression_costs_its_document_and_a_wrong_one_is_refused(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.sql("CREATE TABLE item (id text PRIMARY KEY, price numeric(10, 2) NOT NULL, title text NOT NULL)")
    market.stock([{"_id": f"p{number}", "price": f"{number}.50", "title": {"en": "Ring"}} for number in range(5)])
    market.stock([{"_id": "bad", "price": "ask us", "title": "Ring"}, {"_id": "p5", "price": "7", "title": None}])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MAPPING)
    market.env["PRODUCT_SYNC_MAPPING"] = str(mapping)
    market.enter(monkeypatch)

    first = api.sync(**QUICK, quarantine_budget=1).raise_for_error()
    assert (first.inserted, first.quarantined_by_reason) == (6, {"expression_failed": 1})
    assert market.sql("SELECT price::text, title FROM item WHERE id IN ('p1', 'p5') ORDER BY id") == [
        ("1.50", "Ring"), ("7.00", "untitled"),
    ]  # fmt: skip
    [entry] = api.quarantine().raise_for_error().entries
    [defect] = entry.defects
    assert (defect.column, defect.value.partition("'")[0]) == ("price", "Failed to parse number ")
    [shown] = api.show("bad").raise_for_error().documents or []
    assert [each.reason for each in shown.defects] == ["expression_failed"]
    assert shown.fields['{"$toDecimal": "$price"}'] == "failed", "and not absent"

    with MongoClient[dict[str, Any]](market.mongodb_url) as client:
        client.get_default_database()["products"].update_one({"_id": "bad"}, {"$set": {"price": "8"}})
    healed = api.sync(**QUICK).raise_for_error()
    assert (healed.inserted, healed.updated, healed.quarantined, healed.valid) == (1, 0, 0, True)

    mapping.write_text(MAPPING.replace("$toDecimal", "$toDecimals"))
    for answer in api.sync(**QUICK), api.doctor():
        said = str(answer.as_json())
        assert "MongoDB refuses the expression of the column 'price'" in said
        assert "Unrecognized expression '$toDecimals'" in said
