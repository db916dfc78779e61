"""`--mapping` names another mapping file for one command; a folder of them makes several syncs, which have names.

The mapping of these tests is about sellers and not about products, in a database that holds both.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from product_sync import api
from product_sync.results import Report
from product_sync.schema.definition import DEFAULT_MAPPING, load_definition
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


def hint_of(report: Report) -> str:
    assert report.failure is not None
    return report.failure.hint


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


def test_several_syncs_are_run_by_name_or_all_and_each_says_which_it_is(
    market: Market, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mapping.parent / "syncs"
    folder.mkdir()
    (folder / "seller.yaml").write_text(SELLERS)
    (folder / "product.yaml").write_text(DEFAULT_MAPPING.read_text())
    market.env["PRODUCT_SYNC_MAPPING"] = str(folder)
    market.enter(monkeypatch)
    for refused in (api.sync(), api.validate(), api.stats(), api.show("s1"), api.quarantine(), api.doctor()):
        assert (refused.exit_status, refused.sync) == (2, None)
        assert "There are several syncs: product, seller." in str(refused.failure)
    assert "There is no sync 'shop'. The syncs are: product, seller." in str(api.stats(sync="shop").failure)

    market.sql("ALTER TABLE seller RENAME TO away")
    both = market.run("sync", "--all", "--delay-ms", "0", "--json")
    answers = [json.loads(line) for line in both.stdout.splitlines()]
    assert [(answer["sync"], answer["inserted"]) for answer in answers] == [("product", 3), ("seller", None)]
    assert (both.status, answers[1]["error"]["code"]) == (1, "table"), "2 would say that nothing was written"
    market.sql("ALTER TABLE away RENAME TO seller")
    told = market.run("sync", "seller", "product", "--dry-run")
    assert told.status == 0, told.everything
    assert [line for line in told.stdout.splitlines() if line.startswith("Sync: ")] == ["Sync: seller", "Sync: product"]
    assert "product-sync sync seller --plan" in told.stdout
    assert api.sync("seller", batch_delay_ms=0).raise_for_error().inserted == 2
    assert api.show("s1", sync="seller").state == "equal"
    # The next step names the sync: `product-sync sync --dry-run` would be refused here.
    [pasted] = re.findall(r"`(product-sync .*)`", hint_of(api.sync("product", plan=str(uuid4()))))
    assert pasted == "product-sync sync product --dry-run"
    assert market.run(*shlex.split(pasted)[1:]).status == 0
    assert f"`{pasted} --mapping {folder}`" in hint_of(api.sync("product", mapping=folder, plan=str(uuid4())))
    seller = load_definition(folder / "seller.yaml", "seller")
    assert api.stats(sync=seller).last_sync_run_id != api.stats(sync="product").last_sync_run_id
    assert market.run("validate", "--all", "product").status == 2


def test_two_syncs_of_different_tables_run_beside_each_other(market: Market, mapping: Path) -> None:
    with psycopg.connect(market.cart_url) as other, market.start("sync", "--mapping", str(mapping)) as sellers:
        other.execute("LOCK TABLE seller IN ACCESS EXCLUSIVE MODE")
        products = market.run("sync", "--delay-ms", "0", "--json")
        assert (products.status, products.answer["inserted"]) == (0, 3), products.everything
        assert sellers.process.poll() is None
        other.rollback()
        assert sellers.outcome().status == 0
