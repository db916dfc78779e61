"""The second sync of the demo: the sellers of the sample catalogue, with drift of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import psycopg
from bson import ObjectId
from pymongo import MongoClient

from product_sync.schema.definition import DEFAULT_MAPPING, SyncDefinition, load_definition

MAPPING_FILE: Final = Path(__file__).with_name("sellers.yaml")
SOURCE_COUNT: Final = 60
MISSING, CHANGED, EXTRA = 4, 3, 1
_CITIES: Final = ("Lyon", "Porto", "Gdańsk", "Turku", "Graz")

# create_seller: the cart service's table.
_CREATE = "CREATE TABLE seller (id text PRIMARY KEY, name text NOT NULL, city text NOT NULL)"


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
    sellers: list[dict[str, Any]] = [
        {
            "_id": ObjectId(f"5e11e{number:019x}"),
            "name": f"Seller {number}",
            "address": {"city": _CITIES[number % len(_CITIES)]},
        }
        for number in range(SOURCE_COUNT + EXTRA)
    ]
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        collection = client.get_default_database()["sellers"]
        collection.drop()
        collection.insert_many(sellers[:SOURCE_COUNT])
    rows = [(str(each["_id"]), each["name"], each["address"]["city"]) for each in sellers[MISSING:]]
    rows[:CHANGED] = [(row_id, f"{name} (closed)", city) for row_id, name, city in rows[:CHANGED]]
    with psycopg.connect(cart_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS seller")
        cursor.execute(_CREATE)
        cursor.executemany("INSERT INTO seller VALUES (%s, %s, %s)", rows)
