"""`--mapping` names another mapping file for one command, on every command that reads a mapping.

The mapping of these tests is about sellers and not about products, in a database that holds both.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from product_sync import api
from product_sync_tests.market import Market, products

SELLERS = """
source: {collection: sellers}
target: {table: seller}
columns:
  id: {source: _id}
  name: {source: name}
"""


@pytest.fixture
def mapping(market: Market, tmp_path: Path) -> Path:
    """Two sellers are missing; products are there to be left alone."""
    market.sql("CREATE TABLE seller (id text PRIMARY KEY, name text NOT NULL)")
    market.stock(products(3))
    market.stock([{"_id": "s1", "name": "Sara"}, {"_id": "s2", "name": "Sam"}], "sellers")
    path = tmp_path / "sellers.yaml"
    path.write_text(SELLERS)
    return path


def test_every_command_takes_the_mapping_that_it_is_given(
    market: Market, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = market.run("sync", "--mapping", str(mapping), "--delay-ms", "0", "--json")
    assert (outcome.status, outcome.answer["inserted"]) == (0, 2), outcome.everything
    assert market.sql("SELECT * FROM seller ORDER BY id") == [("s1", "Sara"), ("s2", "Sam")]
    assert market.rows() == {}

    market.enter(monkeypatch)
    monkeypatch.chdir(mapping.parent)
    relative = mapping.name
    assert api.stats(mapping=relative).last_sync_run_id == outcome.answer["run_id"]
    assert api.stats().as_json()["last_sync_run_id"] is None
    assert (api.show("s1", mapping=relative).state, api.show("s1").state) == ("equal", "nowhere")
    assert list(api.doctor(mapping=mapping).postgres.table or ()) == ["id", "name"]
    market.sql("UPDATE seller SET name = 'Somebody' WHERE id = 's2'")
    validation = api.validate(mapping=relative, settle_seconds=0.0)
    assert (validation.exit_status, validation.changed_ids) == (1, ["s2"])


def test_a_mapping_that_is_not_there_is_named_with_both_ways_to_give_one(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.enter(monkeypatch)
    absent = tmp_path / "absent.yaml"
    for report in (api.sync(mapping=absent), api.validate(mapping=absent), api.stats(mapping=absent)):
        assert (report.exit_status, report.error and report.error.code) == (2, "mapping")
        assert str(absent) in str(report.failure)
        assert "the option mapping, or PRODUCT_SYNC_MAPPING" in str(report.failure)
