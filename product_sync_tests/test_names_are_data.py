"""Names in the mapping and values in documents are never executed as SQL or as a query of MongoDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql
from pymongo import MongoClient

from product_sync import api
from product_sync_tests.market import Market

pytestmark = pytest.mark.usefixtures("in_memory")

HOSTILE = (
    "'; DROP TABLE canary; --",
    '"; DROP TABLE canary; --',
    "$1",
    "%s %(id)s %%",
    "{}{0}{id}",
    "\\'; DROP TABLE canary; --",
    "$$; DROP TABLE canary; $$",
    "E'\\x00'",
    "\\N",
    "1\t2\n3\\.\n",
    "NULL",
    '{"$gt": ""}',
    "{{ 7 * 7 }}",
    "=HYPERLINK(1)",
)
SCHEMA, TABLE, COLLECTION = 'sch"ema; DROP TABLE canary', "pro'duct\"; DROP TABLE canary; --", "pro'ducts\"; %s {}"
COLUMNS = {
    'id"; DROP TABLE canary; --': "_id",
    "$1": "a;b",
    "%s": "nested.x' OR '1'='1",
    "p.{}": 'quo"te',
}
NAMES = list(COLUMNS)


@pytest.fixture
def hostile(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Market:
    """A target and a source in which every name is a trap, and a table that must still exist afterwards."""
    mapping = {
        "source": {"collection": COLLECTION},
        "target": {"schema": SCHEMA, "table": TABLE},
        "columns": {name: {"source": path} for name, path in COLUMNS.items()},
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping, allow_unicode=True))
    market.sql("CREATE TABLE canary (id int)")
    columns = sql.SQL(", ").join(sql.SQL("{} text NOT NULL").format(sql.Identifier(name)) for name in NAMES)
    with psycopg.connect(market.cart_url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        connection.execute(
            sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
                sql.Identifier(SCHEMA, TABLE), columns, sql.Identifier(NAMES[0])
            )
        )
    market.env["PRODUCT_SYNC_MAPPING"] = str(tmp_path / "mapping.yaml")
    market.enter(monkeypatch)
    return market


def documents(suffix: str = "") -> list[dict[str, Any]]:
    return [
        {"_id": text, "a;b": text + suffix, "nested": {"x' OR '1'='1": text}, 'quo"te': text[::-1]} for text in HOSTILE
    ]


def stored(market: Market) -> set[tuple[Any, ...]]:
    with psycopg.connect(market.cart_url) as connection:
        return set(connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(SCHEMA, TABLE))).fetchall())


def expected(suffix: str = "") -> set[tuple[Any, ...]]:
    return {(text, text + suffix, text, text[::-1]) for text in HOSTILE}


SETTINGS: dict[str, Any] = {"batch_size": 10_000, "batch_delay_ms": 0, "settle_seconds": 0}


def test_they_are_inserted_changed_and_deleted_as_what_they_are(hostile: Market) -> None:
    with MongoClient[dict[str, Any]](hostile.mongodb_url) as client:
        collection = client.get_default_database()[COLLECTION]
        collection.insert_many(documents())
        # From the sixth batch on, the driver executes prepared statements.
        assert api.sync(**SETTINGS | {"batch_size": 1}).raise_for_error().inserted == len(HOSTILE)
        assert stored(hostile) == expected()
        for document in documents(" '; DROP TABLE canary; --"):
            collection.replace_one({"_id": document["_id"]}, document)
        collection.delete_one({"_id": HOSTILE[0]})
        deletes = {"batch_size": 1, "extra": "delete", "max_delete_share": 1.0}
        report = api.sync(**SETTINGS | deletes).raise_for_error()
    assert (report.updated, report.deleted) == (len(HOSTILE) - 1, 1)
    assert stored(hostile) == {row for row in expected(" '; DROP TABLE canary; --") if row[0] != HOSTILE[0]}
    assert hostile.sql("SELECT to_regclass('canary')::text") == [("canary",)]


def test_they_are_also_by_copy(hostile: Market) -> None:
    """Enough rows for COPY, which has a syntax of its own for values."""
    more = [{**document, "_id": f"{number} {document['_id']}"} for number in range(40) for document in documents()]
    with MongoClient[dict[str, Any]](hostile.mongodb_url) as client:
        client.get_default_database()[COLLECTION].insert_many(more)
        assert api.sync(**SETTINGS).raise_for_error().inserted == len(more)
    assert stored(hostile) == {(f"{number} {text}", text, text, text[::-1]) for number in range(40) for text in HOSTILE}


def test_a_query_as_an_id_is_no_query(hostile: Market) -> None:
    """An id may be a document. One in the form of a query must not select other documents."""
    with MongoClient[dict[str, Any]](hostile.mongodb_url) as client:
        collection = client.get_default_database()[COLLECTION]
        collection.insert_many([{**documents()[0], "_id": {"gt": ""}}, documents()[1]])
        report = api.sync(**SETTINGS)
    assert (report.inserted, report.quarantined) == (1, 1)
    assert {row[0] for row in stored(hostile)} == {HOSTILE[1]}
