"""A sample catalogue with planted drift, always the same, for the demo and the tests.

The cart's copy has missed events, as in production, and some documents cannot be copied exactly. `fill` returns the
number of each, so that a report can be compared with them.

Every reason for quarantine that a mapping of plain fields has is planted except two: ``mongod`` refuses to store
``invalid_bson``, and ``suppressed_by_database`` needs a trigger in the target.

The expected rows are made here and not by the conversion, because they test the conversion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

import bson
import psycopg
from bson import Binary, Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from product_sync.conversion.elements import document_of
from product_sync.embedded import product_names
from product_sync.embedded.product_names import BRANDS, CATEGORIES
from product_sync.schema.records import Reason

COLLECTION = "products"
SOURCE_COUNT: Final = 5_000
MISSING: Final = 320
CHANGED: Final = {"price": 24, "title": 16, "quantity": 12, "image": 8, "seller": 6}
EXTRA: Final = 10
#: Extra products that ``cart_item`` references.
EXTRA_REFERENCED: Final = 1
TITLE_LENGTH: Final = 200
_SEED = 20_240_501
_LAUNCH = datetime(2023, 3, 1, 8, 0, tzinfo=UTC)
_SELLERS = 40
_CART_ITEMS = 400

# create_product: the cart service's table. A product can break two of its rules.
_CREATE_PRODUCT = f"""
CREATE TABLE product (
    id         text                    PRIMARY KEY,
    title      varchar({TITLE_LENGTH}) NOT NULL,
    price      integer                 NOT NULL,
    image      text                    NOT NULL,
    "sellerId" text                    NOT NULL,
    quantity   integer                 NOT NULL,
    CONSTRAINT product_price_not_negative CHECK (price >= 0)
)
"""

# create_cart_item: the items in the carts. Their products cannot be deleted.
_CREATE_CART_ITEM = """
CREATE TABLE cart_item (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cart_id    uuid        NOT NULL,
    product_id text        NOT NULL REFERENCES product (id),
    quantity   integer     NOT NULL CHECK (quantity > 0),
    added_at   timestamptz NOT NULL
)
"""


@dataclass(frozen=True)
class Planted:
    """The result of a first comparison of the filled databases. ``missing`` includes the products that the database
    will refuse (``quarantined[Reason.REFUSED_BY_DATABASE]``), which is unknown before the first load. ``quarantined``
    counts documents; each has one defect. ``extra_referenced`` of the ``extra`` products are in a cart."""

    source_count: int
    target_count: int
    missing: int
    changed: int
    extra: int
    extra_referenced: int
    quarantined: Mapping[Reason, int]

    @property
    def loadable(self) -> int:
        """How many rows the first sync inserts."""
        return self.missing - self.quarantined[Reason.REFUSED_BY_DATABASE]


class _Row(NamedTuple):
    """The correct row of the target."""

    id: str
    title: str
    price: int
    image: str
    seller: str
    quantity: int


class _Product(NamedTuple):
    document: dict[str, Any]
    row: _Row


class _Bad(NamedTuple):
    """A document that cannot be copied. ``row`` is the row of its product, if the target has one."""

    document: Mapping[str, Any]
    reason: Reason
    row: _Row | None = None


def fill(mongodb_url: str, cart_url: str) -> Planted:
    """Replace the collection ``products`` and the tables ``product`` and ``cart_item`` by the sample in about 1 s. Only
    for the embedded databases: the earlier content of all three is lost."""
    random = Random(_SEED)  # noqa: S311 - sample data that must be the same every time
    bad = list(_bad_documents(random))
    refused = sum(1 for one in bad if one.reason is Reason.REFUSED_BY_DATABASE)
    products = [_product(random, number) for number in range(SOURCE_COUNT - len(bad))]
    target = _with_drift(random, products)
    # Some quarantined products were copied before they became bad. Their rows are neither extra nor changed.
    target += [one.row for one in bad if one.row is not None]
    extra = [_product(random, SOURCE_COUNT + number).row for number in range(EXTRA)]
    items = _cart_items(random, target, extra[:EXTRA_REFERENCED])
    target += extra

    documents = [product.document for product in products] + [one.document for one in bad]
    random.shuffle(documents)
    _fill_source(mongodb_url, documents)
    _fill_target(cart_url, target, items)
    return Planted(
        source_count=len(documents),
        target_count=len(target),
        missing=MISSING + refused,
        changed=sum(CHANGED.values()),
        extra=EXTRA,
        extra_referenced=EXTRA_REFERENCED,
        quarantined=Counter(one.reason for one in bad),
    )


def _product(random: Random, number: int) -> _Product:
    """A product as the product service stores it, and its correct row. ``number`` makes it unique."""
    category = random.choice(CATEGORIES)
    brand = random.choice(BRANDS)
    title = product_names.title(random, brand, category)
    created = _LAUNCH + timedelta(minutes=97 * number, seconds=random.randrange(60))
    identity, key = _id(random, number, created)
    price = random.randrange(*category.cents) // 10 * 10 + 9
    quantity = random.choice((0, 1, 2, 5, 8, 12, 20, 36, 50, 120, 400))
    image = f"https://images.example.com/products/{number:05d}/{random.randrange(16**8):08x}.jpg"
    seller = _seller(random.randrange(_SELLERS))
    document: dict[str, Any] = {
        "_id": identity,
        "title": title,
        "description": product_names.description(random, title),
        "category": category.name,
        "brand": brand,
        "tags": random.sample([category.name.lower(), "new", "sale", "gift", "bestseller", "eco"], k=2),
        "price": _stored_price(random, price),
        "image": image,
        "sellerId": seller,
        "rating": {"average": round(random.uniform(2.5, 5.0), 1), "count": random.randrange(900)},
        "createdAt": created,
        "updatedAt": created + timedelta(hours=random.randrange(4_000)),
    }
    quantity = _store_quantity(random, document, quantity)
    return _Product(document, _Row(key, title, price, image, str(seller), quantity))


def _id(random: Random, number: int, created: datetime) -> tuple[Any, str]:
    """The ``_id`` and its text. Nearly all are ObjectIds; some old products have other types."""
    if number % 500 == 100:
        return f"legacy-{number:06d}", f"legacy-{number:06d}"
    if number % 500 == 200:
        return number, str(number)
    if number % 500 == 300:
        return Int64(9_000_000_000 + number), str(9_000_000_000 + number)
    if number % 500 == 400:
        uuid = UUID(int=random.getrandbits(128), version=4)
        return Binary.from_uuid(uuid), str(uuid)
    identity = ObjectId(int(created.timestamp()).to_bytes(4, "big") + random.randbytes(8))
    return identity, str(identity)


def _seller(number: int) -> ObjectId:
    return ObjectId(f"5e11e{number:019x}")


def _stored_price(random: Random, price: int) -> object:
    """The price in one of the number types that different importers have used."""
    kind = random.random()
    if kind < 0.88:
        return price
    if kind < 0.94:
        return float(price)
    if kind < 0.98:
        return Int64(price)
    return Decimal128(f"{price}.00")


def _store_quantity(random: Random, document: dict[str, Any], quantity: int) -> int:
    """Store the quantity in the document, or leave it out. Returns the target's value (default 0)."""
    kind = random.random()
    if kind < 0.03:
        return 0
    if kind < 0.04:
        document["quantity"] = None
        return 0
    document["quantity"] = float(quantity) if kind < 0.08 else quantity
    return quantity


def _with_drift(random: Random, products: list[_Product]) -> list[_Row]:
    """The target after lost events: `MISSING` products are absent, `CHANGED` ones are outdated."""
    rows = [product.row for product in products]
    random.shuffle(rows)
    rows = rows[MISSING:]
    position = 0
    for column, count in CHANGED.items():
        for index in range(position, position + count):
            rows[index] = _outdated(random, rows[index], column)
        position += count
    random.shuffle(rows)
    return rows


def _outdated(random: Random, row: _Row, column: str) -> _Row:
    match column:
        case "price":
            return row._replace(price=row.price + (random.choice((-200, 100, 500)) if row.price > 200 else 100))
        case "title":
            return row._replace(title=f"{row.title} (2022 model)")
        case "quantity":
            return row._replace(quantity=row.quantity + random.randrange(1, 30))
        case "image":
            return row._replace(image=row.image.replace("images.example.com", "old-images.example.net"))
        case _:
            return row._replace(seller=str(_seller(_SELLERS)))


def _bad_documents(random: Random) -> Iterator[_Bad]:
    """At least one document for each reason."""

    def good(number: int) -> _Product:
        return _product(random, 2 * SOURCE_COUNT + 500 * number)

    def broken(number: int, reason: Reason, *, known: bool = False, **fields: object) -> _Bad:
        product = good(number)
        return _Bad(product.document | fields, reason, product.row if known else None)

    yield broken(0, Reason.UNSUPPORTED_ID, _id=41.5)
    yield broken(1, Reason.MISSING_FIELD, image=None)
    without_title = good(2)
    del without_title.document["title"]
    yield _Bad(without_title.document, Reason.MISSING_FIELD)
    yield broken(3, Reason.WRONG_TYPE, price="1999", known=True)
    yield broken(4, Reason.WRONG_TYPE, quantity=True)
    yield broken(5, Reason.NOT_EXACT, price=19.99, known=True)
    yield broken(6, Reason.OUT_OF_RANGE, price=Int64(2**40))
    yield broken(7, Reason.NOT_FINITE, price=float("nan"))
    yield broken(8, Reason.NUL_CHARACTER, title="Desk Lamp\0, Navy")
    yield _Bad(_in_latin_1(good(9).document | {"title": "Rosé Candle"}), Reason.INVALID_UTF8)
    yield broken(10, Reason.TOO_LONG, title=f"Puzzle 500 Pieces{', with a very long name' * 12}")
    yield broken(11, Reason.REFUSED_BY_DATABASE, price=-500)
    # The same id twice: once as text from an importer, once as an ObjectId.
    twice = good(12)
    yield _Bad(twice.document, Reason.DUPLICATE_ID, twice.row)
    yield _Bad(twice.document | {"_id": twice.row.id}, Reason.DUPLICATE_ID)
    yield _Bad(_with_second_price(good(13).document), Reason.REPEATED_FIELD)


def _in_latin_1(document: Mapping[str, Any]) -> RawBSONDocument:
    """The document with é in Latin-1, which is one byte and not UTF-8. The server stores it."""
    raw = bson.encode(document)
    # A blank replaces the second byte, so that the lengths in the BSON stay right.
    return RawBSONDocument(raw.replace("Rosé Candle".encode(), b"Ros\xe9  Candle"))


def _with_second_price(document: Mapping[str, Any]) -> RawBSONDocument:
    """The document with a second ``price`` at its end, as some drivers can store it."""
    return RawBSONDocument(document_of(bson.encode(document)[4:-1] + bson.encode({"price": 999})[4:-1]))


def _cart_items(random: Random, rows: list[_Row], extra: list[_Row]) -> list[tuple[object, ...]]:
    chosen = random.sample(rows, k=_CART_ITEMS - len(extra)) + extra
    return [
        (UUID(int=random.getrandbits(128), version=4), row.id, random.randrange(1, 4), _LAUNCH + timedelta(days=900))
        for row in chosen
    ]


def _fill_source(url: str, documents: list[Mapping[str, Any]]) -> None:
    with MongoClient[Mapping[str, Any]](url, tz_aware=True) as client:
        collection = client.get_default_database()[COLLECTION]
        collection.drop()
        collection.insert_many(documents)


def _fill_target(url: str, rows: list[_Row], items: list[tuple[object, ...]]) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS cart_item, product")
        cursor.execute(_CREATE_PRODUCT)
        with cursor.copy('COPY product (id, title, price, image, "sellerId", quantity) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(_CREATE_CART_ITEM)
        with cursor.copy("COPY cart_item (cart_id, product_id, quantity, added_at) FROM STDIN") as copy:
            for item in items:
                copy.write_row(item)
        # Makes the estimated row counts right, which the progress shows.
        cursor.execute("ANALYZE product, cart_item")
