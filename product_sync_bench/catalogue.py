"""The catalogue that everything is measured on: always the same documents, about 615 bytes of BSON each.

A product has the six mapped fields and others, so that a tool that reads whole documents pays for it. In an irregular
catalogue every hundredth product has a field of another type, as importers leave it; its row is the same. A product is
a pure function of its number, so its expected row is known without any conversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from bson import Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from product_sync.embedded import product_names
from product_sync.embedded.product_names import BRANDS, CATEGORIES

COLLECTION: Final = "products"
#: Named in the collection beside the catalogue, so that a catalogue of another version is made anew.
VERSION: Final = 1
_MARKER = "catalogue"
_SEED = 20_260_601
_LAUNCH = datetime(2016, 1, 4, 8, 0, tzinfo=UTC)
_BATCH = 10_000
_VARIETY = 4_096
_IRREGULAR_EVERY = 100
_SELLERS = 5_000
#: Bytes of description that bring a document to about 615 bytes of BSON.
_DESCRIPTION = 177

Row = tuple[str, str, int, str, str, int]


@dataclass(frozen=True, slots=True)
class _Wording:
    """What is drawn from a fixed set, so that ten million products are made in minutes and not in hours."""

    title: str
    category: str
    brand: str
    cents: int
    description: str


class Catalogue:
    """``count`` products, made one by one from their numbers, in the order of which their ids rise."""

    def __init__(self, count: int, *, irregular: bool = False) -> None:
        self.count = count
        self.irregular = irregular
        random = Random(_SEED)  # noqa: S311 - sample data that must be the same every time
        self._wordings = [_wording(random) for _ in range(_VARIETY)]

    def row(self, number: int) -> Row:
        """The row that product ``number`` should be in the target: id, title, price, image, sellerId, quantity."""
        dice = _dice(number)
        wording = self._wordings[dice[0] % _VARIETY]
        return (
            str(_object_id(number, dice)),
            f"{wording.title} No. {number}",
            wording.cents + dice[1] % 500,
            f"https://images.example.com/products/{number:08d}/{dice[2]:08x}.jpg",
            str(_seller(dice)),
            dice[3] % 400,
        )

    def document(self, number: int) -> dict[str, Any]:
        """Product ``number`` as the product service stores it."""
        dice = _dice(number)
        wording = self._wordings[dice[0] % _VARIETY]
        _, title, price, image, _, quantity = self.row(number)
        created = _LAUNCH + timedelta(seconds=30 * number)
        document = {
            "_id": _object_id(number, dice),
            "title": title,
            "description": wording.description,
            "category": wording.category,
            "brand": wording.brand,
            "tags": [wording.category.lower(), "sale", "gift"],
            "price": price,
            "image": image,
            "sellerId": _seller(dice),
            "quantity": quantity,
            "rating": {"average": 2.5 + dice[4] % 25 / 10, "count": dice[4] % 900},
            "dimensions": {"width": dice[5] % 300, "height": dice[5] % 200, "depth": dice[5] % 100},
            "createdAt": created,
            "updatedAt": created + timedelta(hours=dice[5] % 4_000),
        }
        if self.irregular and number % _IRREGULAR_EVERY == 0:
            document |= _irregularity(document, number // _IRREGULAR_EVERY)
        return document


def ensure(mongodb_url: str, catalogue: Catalogue) -> bool:
    """Fill ``mongodb_url`` with the catalogue unless it is there; whether it had to be made (a minute a million)."""
    with MongoClient[dict[str, Any]](mongodb_url, tz_aware=True) as client:
        database = client.get_default_database()
        wanted = {"_id": _MARKER, "version": VERSION, "count": catalogue.count}
        if database[_MARKER].find_one({"_id": _MARKER}) == wanted:
            return False
        client.drop_database(database)
        for batch in _batches(catalogue):
            database[COLLECTION].insert_many(batch, ordered=True)
        database[_MARKER].insert_one(wanted)
    return True


def mean_document_bytes(mongodb_url: str) -> int:
    """The mean size of a document of the stored catalogue, in bytes of BSON."""
    with MongoClient[RawBSONDocument](mongodb_url, document_class=RawBSONDocument) as client:
        sizes = [len(document.raw) for document in client.get_default_database()[COLLECTION].find(limit=1_000)]
    return round(sum(sizes) / len(sizes))


def _batches(catalogue: Catalogue) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, catalogue.count, _BATCH):
        yield [catalogue.document(number) for number in range(start, min(start + _BATCH, catalogue.count))]


def _irregularity(document: dict[str, Any], kind: int) -> dict[str, Any]:
    """One of the mapped fields in another type, of the same value."""
    match kind % 5:
        case 0:
            return {"price": float(document["price"])}
        case 1:
            return {"price": Decimal128(f"{document['price']}.00")}
        case 2:
            return {"quantity": Int64(document["quantity"])}
        case 3:
            return {"quantity": float(document["quantity"])}
        case _:
            return {"sellerId": str(document["sellerId"])}


def _dice(number: int) -> tuple[int, ...]:
    """Six numbers of 32 bits, fixed for each product. A generator seeded for each would take ten times as long."""
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=24).digest()
    return tuple(int.from_bytes(digest[position : position + 4], "big") for position in range(0, 24, 4))


def _object_id(number: int, dice: tuple[int, ...]) -> ObjectId:
    """Ids rise with the product's age, as those of a real shop do."""
    seconds = int(_LAUNCH.timestamp()) + 30 * number
    return ObjectId(seconds.to_bytes(4, "big") + dice[4].to_bytes(4, "big") + number.to_bytes(4, "big"))


def _seller(dice: tuple[int, ...]) -> ObjectId:
    return ObjectId(f"5e11e{dice[5] % _SELLERS:019x}")


def _wording(random: Random) -> _Wording:
    category = random.choice(CATEGORIES)
    brand = random.choice(BRANDS)
    title = product_names.title(random, brand, category)
    description = product_names.description(random, title)
    return _Wording(
        title=title,
        category=category.name,
        brand=brand,
        cents=random.randrange(*category.cents),
        description=f"{description} {description} {description}"[:_DESCRIPTION],
    )
