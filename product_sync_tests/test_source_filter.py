"""A filter limits a sync to a part of the collection. A product that no longer matches is an extra row.

The mapping of these tests also has a column with the same value in every row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from product_sync.schema.definition import DEFAULT_MAPPING
from product_sync_tests.market import Market, product, products


@pytest.fixture
def mapping(market: Market, tmp_path: Path) -> str:
    """Of 31 products the mapping's filter leaves out one."""
    market.stock([product | {"status": "active"} for product in products(30)])
    market.stock([product(99) | {"status": "sold"}])
    path = tmp_path / "active.yaml"
    with_filter = "collection: products\n  filter: {status: active}"
    text = DEFAULT_MAPPING.read_text().replace("collection: products", with_filter)
    path.write_text(text.replace("{source: sellerId, kind: reference}", "{value: house}"))
    return str(path)


def test_only_matching_products_are_copied_and_one_that_no_longer_matches_is_extra(
    market: Market, mapping: str
) -> None:
    first = market.run("sync", "--mapping", mapping, "--delay-ms", "0", "--json")
    assert (first.status, first.answer["inserted"], first.answer["filtered_out"]) == (0, 30, 1), first.everything
    assert market.sql('SELECT DISTINCT "sellerId" FROM product') == [("house",)]
    market.sql("""UPDATE product SET "sellerId" = 'other' WHERE id = 'p0001'""")
    with MongoClient[dict[str, Any]](market.mongodb_url) as client:
        client.get_default_database()["products"].update_one({"_id": "p0000"}, {"$set": {"status": "sold"}})

    reported = market.run("sync", "--mapping", mapping, "--settle-seconds", "0", "--json")
    counts = [reported.answer[name] for name in ("extra", "updated")]
    assert (counts, len(market.rows())) == ([1, 1], 30), reported.everything
    assert market.sql('SELECT DISTINCT "sellerId" FROM product') == [("house",)]
    assert market.run("show", "p0000", "--mapping", mapping, "--json").answer["state"] == "extra"

    deleted = market.run("sync", "--mapping", mapping, "--extra", "delete", "--json")
    assert (deleted.status, deleted.answer["deleted"]) == (0, 1), deleted.everything
    assert list(market.rows())[:2] == ["p0001", "p0002"]

    market.unstock({"_id": {"$nin": ["p0001", "p0002", "p0000"]}})
    [note] = market.run("doctor", "--mapping", mapping, "--json").answer["mongodb"]["notes"]
    assert 'This index would serve it: db["products"].createIndex({"status": 1, "_id": 1}).' in note
    assert note in market.run("sync", "--mapping", mapping, "--dry-run").stderr

    everything = market.run("sync", "--json")
    assert everything.answer["inserted"] == 1, "without the filter, from a state of its own"
    assert everything.answer["filtered_out"] is None
    assert len(list(market.state.glob("sides/*.json"))) == 2


def test_a_filter_that_the_server_refuses_is_an_error_of_the_mapping(market: Market, mapping: str) -> None:
    path = Path(mapping)
    path.write_text(path.read_text().replace("status: active", "status: {$is: active}"))
    refused = market.run("sync", "--mapping", mapping, "--json")
    assert (refused.status, refused.error["code"]) == (2, "configuration"), refused.everything
    assert "unknown operator: $is" in refused.error["message"]
    doctor = market.run("doctor", "--mapping", mapping, "--json")
    assert "unknown operator: $is" in doctor.answer["mongodb"]["error"]["message"]
