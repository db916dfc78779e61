"""The second sync of the demo: the sellers of the sample catalogue, with drift of their own."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
from bson import ObjectId
from psycopg.types.json import Jsonb
from pymongo import MongoClient

from product_sync.schema.definition import DEFAULT_MAPPING, SyncDefinition, load_definition

MAPPING_FILE: Final = Path(__file__).with_name("sellers.yaml")
SOURCE_COUNT, CLOSED = 60, 5
MISSING, CHANGED, EXTRA = 4, 3, 1
_CITIES: Final = ("Lyon", "Porto", "Gdańsk", "Turku", "Graz")

# create_seller: the cart service's table.
_CREATE = """
CREATE TABLE seller (
    id                 text PRIMARY KEY,
    name               text NOT NULL,
    city               text NOT NULL,
    commission_percent numeric(4, 2) NOT NULL,
    payment            jsonb,
    joined_at          timestamptz NOT NULL
)
"""


def definition() -> SyncDefinition:
    return load_definition(MAPPING_FILE, MAPPING_FILE.stem)


def mapping_folder(folder: Path) -> Path:
    """A folder with the mapping files of both syncs of the demo, below ``folder``."""
    syncs = folder / "syncs"
    syncs.mkdir(exist_ok=True)
    for file in (DEFAULT_MAPPING, MAPPING_FILE):
        shutil.copy(file, syncs / file.name)
    return syncs


def fill_sellers(mongodb_url: str, cart_url: str) -> None:
    """Replace the collection ``sellers`` and the table ``seller`` by the sample. Only for the embedded databases."""
    sellers = [_document(number) for number in range(SOURCE_COUNT + EXTRA + CLOSED)]
    closed = [{**each, "closedAt": dt.datetime(2024, 2, 29, tzinfo=dt.UTC)} for each in sellers[-CLOSED:]]
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        collection = client.get_default_database()["sellers"]
        collection.drop()
        collection.insert_many(sellers[:SOURCE_COUNT] + closed)
    rows = [_row(each) for each in sellers[MISSING : SOURCE_COUNT + EXTRA]]
    for row in rows[:CHANGED]:
        row[1] += " (old name)"
    with psycopg.connect(cart_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS seller")
        cursor.execute(_CREATE)
        cursor.executemany("INSERT INTO seller VALUES (%s, %s, %s, %s, %s, %s)", rows)
        # Makes the estimated row count right, which `health` shows.
        cursor.execute("ANALYZE seller")


def _document(number: int) -> dict[str, Any]:
    languages = ("en", "local") if number % 3 else ("local",)
    return {
        "_id": ObjectId(f"5e11e{number:019x}"),
        "name": dict.fromkeys(languages, f"Seller {number}"),
        "address": {"city": _CITIES[number % len(_CITIES)]},
        "commissionBasisPoints": 500 + number * 25,
        **({"payment": {"method": "transfer", "days": [14, 30][number % 2]}} if number % 4 else {}),
    }


def _row(seller: dict[str, Any]) -> list[Any]:
    """What the sync makes of a document."""
    return [
        str(seller["_id"]),
        seller["name"]["local"],
        seller["address"]["city"],
        Decimal(seller["commissionBasisPoints"]) / 100,
        Jsonb(seller["payment"]) if "payment" in seller else None,
        seller["_id"].generation_time,
    ]
