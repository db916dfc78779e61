"""The sample catalogue holds what it says, the same every time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest
from bson import Binary
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from product_sync.embedded.catalogue import Planted, fill
from product_sync.schema.records import Reason

# all_rows: the target as it is.
_ALL_ROWS = 'SELECT id, title, price, image, "sellerId", quantity FROM product ORDER BY id'


def _source(url: str) -> list[bytes]:
    with MongoClient[RawBSONDocument](url, document_class=RawBSONDocument) as client:
        return sorted(bytes(document.raw) for document in client.get_default_database()["products"].find())


def _target(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(_ALL_ROWS).fetchall()


@pytest.fixture
def planted(mongodb_url: str, cart_url: str) -> Planted:
    return fill(mongodb_url, cart_url)


def test_it_is_the_same_every_time(mongodb_url: str, cart_url: str, planted: Planted) -> None:
    source, target = _source(mongodb_url), _target(cart_url)
    assert fill(mongodb_url, cart_url) == planted
    assert _source(mongodb_url) == source
    assert _target(cart_url) == target


def test_it_plants_what_the_demo_promises(planted: Planted) -> None:
    assert planted.source_count == 5_000
    assert planted.missing >= 300
    assert planted.changed >= 60
    assert planted.extra == 10
    assert planted.extra_referenced == 1
    assert sum(planted.quarantined.values()) >= 12
    cannot_be_stored = {Reason.INVALID_BSON, Reason.SUPPRESSED_BY_DATABASE}
    of_other_mappings = {Reason.EXPRESSION_FAILED, Reason.NOT_IN_ENUM, Reason.NOT_JSON}
    assert planted.quarantined.keys() == set(Reason) - cannot_be_stored - of_other_mappings


def test_the_databases_hold_what_it_says(mongodb_url: str, cart_url: str, planted: Planted) -> None:
    """Counted with a comparison of its own: ids as text, ids of every type, no conversion of ours."""
    options: CodecOptions[dict[str, Any]] = CodecOptions(unicode_decode_error_handler="replace")
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        collection = client.get_default_database().get_collection("products", options)
        documents = list(collection.find())
    assert len(documents) == planted.source_count
    source = {str(document["_id"]): document for document in documents}
    target = {row[0]: row[1:] for row in _target(cart_url)}
    assert len(target) == planted.target_count
    assert len(target.keys() - _ids(documents)) == planted.extra

    changed: Counter[str] = Counter()
    for key in target.keys() & source.keys():
        document = source[key]
        expected = (document["title"], document["image"], str(document["sellerId"]), document.get("quantity") or 0)
        title, price, image, seller, quantity = target[key]
        if (title, image, seller, quantity) != expected or str(price) != str(document["price"]).split(".")[0]:
            changed[key] += 1
    # The two quarantined for their price have rows with the price of better times.
    assert len(changed) == planted.changed + 2


def _ids(documents: list[dict[str, Any]]) -> set[str]:
    return {
        str(document["_id"].as_uuid()) if isinstance(document["_id"], Binary) else str(document["_id"])
        for document in documents
    }


def test_the_extra_products_in_a_cart_cannot_be_deleted(cart_url: str, planted: Planted) -> None:
    with psycopg.connect(cart_url) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("DELETE FROM product WHERE id IN (SELECT product_id FROM cart_item)")
