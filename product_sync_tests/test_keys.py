"""The id of a product may be in any column that identifies a row: beside a serial primary key, and as a number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from product_sync_tests.market import Market
from product_sync_tests.targets.postgres_tables import role

SYNC = ("sync", "--json", "--settle-seconds", "0", "--batch-size", "1000", "--delay-ms", "0")
DELETE = ("--extra", "delete", "--max-delete-share", "1")


def mapped(market: Market, table: str, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """The market's commands sync ``products`` into ``table``."""
    mapping = market.state.parent / "mapping.yaml"
    mapping.write_text(
        json.dumps({"source": {"collection": "products"}, "target": {"table": table}, "columns": columns})
    )
    market.env["PRODUCT_SYNC_MAPPING"] = str(mapping)


def orm_table(market: Market, sequence: str) -> None:
    """A table as an ORM makes it: a key of its own, and the id of the product in another column."""
    market.sql(
        f"CREATE TABLE item (id {sequence} PRIMARY KEY, ref text NOT NULL UNIQUE, slug text NOT NULL UNIQUE,"
        " created timestamptz NOT NULL DEFAULT now())"
    )
    mapped(market, "item", {"ref": {"source": "_id"}, "slug": {"source": "slug"}})
    market.stock([{"_id": f"p{number:03}", "slug": f"s{number}"} for number in range(300)])


@pytest.mark.parametrize("sequence", ["bigserial", "integer GENERATED ALWAYS AS IDENTITY"])
def test_a_table_with_a_serial_key_is_synced_by_another_unique_column(market: Market, sequence: str) -> None:
    orm_table(market, sequence)
    first = market.run(*SYNC)
    assert (first.status, first.answer["inserted"]) == (0, 300), first.everything
    keys = dict(market.sql("SELECT ref, id FROM item"))

    market.sql("UPDATE item SET slug = 'other' WHERE ref = 'p000'")
    market.sql("DELETE FROM item WHERE ref = 'p001'")
    market.sql("INSERT INTO item (ref, slug) VALUES ('gone', 'x')")
    market.sql("UPDATE item SET slug = 'swap' WHERE ref = 'p002'")
    market.sql("UPDATE item SET slug = 's2' WHERE ref = 'p003'")
    market.sql("UPDATE item SET slug = 's3' WHERE ref = 'p002'")
    second = market.run(*SYNC, *DELETE)

    assert second.status == 0, second.everything
    answer = second.answer
    assert (answer["inserted"], answer["updated"], answer["deleted"], answer["valid"]) == (1, 3, 1, True)
    rows = {ref: (key, slug) for ref, key, slug in market.sql("SELECT ref, id, slug FROM item")}
    assert {ref: slug for ref, (_, slug) in rows.items()} == {f"p{n:03}": f"s{n}" for n in range(300)}
    assert {ref: key for ref, (key, _) in rows.items() if ref != "p001"} == {
        ref: key for ref, key in keys.items() if ref != "p001"
    }, "rows that were there keep their key"


def test_a_role_that_may_not_use_the_sequence_is_told_the_grant(market: Market) -> None:
    orm_table(market, "serial")
    owner = market.cart_url
    with role(owner, "GRANT SELECT, INSERT, UPDATE ON item TO {}") as user:
        refused = market.run("doctor", "--json", CART_DB_URL=user.url)
        assert "USAGE on sequence public.item_id_seq" in refused.everything
        predicted = market.run("sync", "--dry-run", CART_DB_URL=user.url)
        assert "USAGE on sequence public.item_id_seq" in predicted.stdout
        assert "lacks INSERT" not in predicted.everything, "it has it"
        error = market.run(*SYNC, CART_DB_URL=user.url).error
        assert (error["code"], "public.item_id_seq" in error["message"]) == ("access_denied", True)
        market.sql(error["hint"])
        allowed = market.run(*SYNC, CART_DB_URL=user.url)
        assert (allowed.status, allowed.answer["inserted"]) == (0, 300), allowed.everything


@pytest.mark.parametrize(("column", "largest"), [("integer", 2**31 - 1), ("bigint", 2**63 - 1)])
def test_whole_numbers_are_ids_of_an_integer_column(market: Market, column: str, largest: int) -> None:
    market.sql(f"CREATE TABLE item (number {column} PRIMARY KEY, title text NOT NULL)")
    mapped(market, "item", {"number": {"source": "_id"}, "title": {"source": "title"}})
    numbers = [-(largest + 1), -1, 0, *range(10, 310), largest]
    market.stock([{"_id": number, "title": f"t{number}"} for number in numbers])
    market.stock([{"_id": "7", "title": "a text"}])
    if column == "integer":
        market.stock([{"_id": largest + 1, "title": "too large"}])

    first = market.run(*SYNC, "--quarantine-budget", "1")
    assert first.answer["inserted"] == len(numbers), first.everything
    assert dict(market.sql("SELECT number, title FROM item")) == {number: f"t{number}" for number in numbers}
    reasons = market.run("quarantine", "--json").stdout
    assert ("unsupported_id" in reasons, "out_of_range" in reasons) == (True, column == "integer")

    market.sql("UPDATE item SET title = 'other' WHERE number IN (0, 10)")
    market.sql("DELETE FROM item WHERE number = -1")
    market.sql("INSERT INTO item VALUES (5, 'gone')")
    second = market.run(*SYNC, *DELETE, "--quarantine-budget", "1").answer
    assert (second["inserted"], second["updated"], second["deleted"]) == (1, 2, 1)
    assert dict(market.sql("SELECT number, title FROM item")) == {number: f"t{number}" for number in numbers}
    states = {text: market.run("show", text, "--json").answer["state"] for text in ("10", "7", "none")}
    assert states == {"10": "equal", "7": "quarantined", "none": "nowhere"}
