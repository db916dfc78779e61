"""The shop, which writes products to MongoDB, and its event consumer, which copies most changes to the cart.

Events are delayed, so they overtake each other, and some are lost. There are three kinds of consumers, as in real
systems (`CONSUMERS`).
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from pymongo import MongoClient

from product_sync_torture.live.histories import CONSUMER, Fact, ShopHistory, product

_COLUMNS = '(id, title, price, image, "sellerId", quantity)'
_VALUES = "(%(id)s, %(title)s, %(price)s, %(image)s, %(sellerId)s, %(quantity)s)"
_NEW = (
    "title = EXCLUDED.title, price = EXCLUDED.price, image = EXCLUDED.image,"
    ' "sellerId" = EXCLUDED."sellerId", quantity = EXCLUDED.quantity'
)
_UPSERT = f"INSERT INTO product {_COLUMNS} VALUES {_VALUES} ON CONFLICT (id) DO UPDATE SET {_NEW}"  # noqa: S608
_SET = 'title = %(title)s, price = %(price)s, image = %(image)s, "sellerId" = %(sellerId)s, quantity = %(quantity)s'

#: A tombstone remains after its row, so that a late event does not insert the row again.
TOMBSTONES = "CREATE TABLE tombstone (id text PRIMARY KEY)"


@dataclass(frozen=True, slots=True)
class Consumer:
    """The statements for each kind of event, executed in one transaction.

    With ``keeps_order`` the consumer never writes an older version and never inserts a deleted row again, in any order
    of the events.
    """

    name: str
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    keeps_order: bool = False


_GUARDED: Final = (
    f"INSERT INTO product {_COLUMNS} SELECT * FROM (VALUES {_VALUES}) AS event"  # noqa: S608
    " WHERE NOT EXISTS (SELECT FROM tombstone WHERE id = %(id)s)"
    f" ON CONFLICT (id) DO UPDATE SET {_NEW} WHERE product.quantity < EXCLUDED.quantity"
)
_DELETE: Final = "DELETE FROM product WHERE id = %(id)s"
#: Guarded by the version, which is a mapped column; writing every event; and updating only existing rows.
CONSUMERS: Final = (
    Consumer(
        "guarded",
        (_GUARDED,),
        (_GUARDED,),
        ("INSERT INTO tombstone VALUES (%(id)s) ON CONFLICT DO NOTHING", _DELETE),
        keeps_order=True,
    ),
    Consumer("plain", (_UPSERT,), (_UPSERT,), (_DELETE,)),
    Consumer(
        "update only",
        (f"INSERT INTO product {_COLUMNS} VALUES {_VALUES} ON CONFLICT (id) DO NOTHING",),  # noqa: S608
        (f"UPDATE product SET {_SET} WHERE id = %(id)s",),  # noqa: S608
        (_DELETE,),
    ),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The behaviour of the shop. Shares are between 0 and 1; ``events_per_second`` is an upper bound."""

    events: int
    events_per_second: float = 120.0
    products: int = 300
    copied: float = 0.7
    created: float = 0.25
    deleted: float = 0.22
    hot: float = 0.5
    lost: float = 0.15
    #: (share, longest delay in seconds), the shortest first.
    delays: tuple[tuple[float, float], ...] = ((0.8, 0.02), (0.95, 0.3), (1.0, 2.5))


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    at: float
    number: int
    statements: tuple[str, ...] = field(compare=False)
    row: dict[str, Any] = field(compare=False)


class LiveShop:
    """Writes ``traffic.events`` events. The consumer runs until all events that are not lost have arrived."""

    def __init__(self, mongodb_url: str, cart_url: str, consumer: Consumer, traffic: Traffic, seed: int) -> None:
        self.history = ShopHistory()
        #: The time at which the delete event of a product was applied, by id.
        self.deletions: dict[str, float] = {}
        #: The product and the write of each event that was lost.
        self.lost: list[tuple[str, Fact]] = []
        self.delivered = 0
        self._mongodb_url, self._cart_url = mongodb_url, cart_url
        self._consumer, self._traffic = consumer, traffic
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._version = 0
        self._next_id = 0
        self._alive: list[str] = []
        self._due: list[_Due] = []
        self._has_due = threading.Condition()
        self._closed = False
        self._errors: list[BaseException] = []
        self._writer = threading.Thread(target=self._guarded, args=(self._write,), name="shop")
        self._reader = threading.Thread(target=self._guarded, args=(self._consume,), name="consumer")

    def open(self) -> None:
        """Put the first products into the shop, and most of them into the cart."""
        with MongoClient[dict[str, Any]](self._mongodb_url) as client, psycopg.connect(self._cart_url) as cart:
            products = client.get_default_database()["products"]
            for _ in range(self._traffic.products):
                row = self._create(products)
                if self._random.random() < self._traffic.copied:
                    cart.execute(_UPSERT.encode(), row)

    def start(self) -> None:
        self._writer.start()
        self._reader.start()

    @property
    def is_writing(self) -> bool:
        return self._writer.is_alive()

    @property
    def is_busy(self) -> bool:
        """Whether it writes, or an event is still on its way."""
        return self.is_writing or bool(self._due)

    def finish(self) -> None:
        """Wait for the last write and the last event. Raises the first error of either."""
        self._writer.join()
        with self._has_due:
            self._closed = True
            self._has_due.notify()
        self._reader.join()
        if self._errors:
            raise self._errors[0]

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`
            self._errors.append(error)

    def _write(self) -> None:
        with MongoClient[dict[str, Any]](self._mongodb_url) as client:
            products = client.get_default_database()["products"]
            started = time.monotonic()
            for number in range(self._traffic.events):
                self._happen(products, number)
                ahead = number / self._traffic.events_per_second - (time.monotonic() - started)
                if ahead > 0:
                    time.sleep(ahead)

    def _happen(self, products: Any, number: int) -> None:
        drawn = self._random.random()
        if drawn < self._traffic.created or len(self._alive) < self._traffic.products // 2:
            self._send(number, self._consumer.created, self._create(products))
        elif drawn < self._traffic.created + self._traffic.deleted:
            place = self._random.randrange(len(self._alive))
            self._alive[place], self._alive[-1] = self._alive[-1], self._alive[place]
            product_id = self._alive.pop()
            self._record(product_id, None, lambda: products.delete_one({"_id": product_id}))
            self._send(number, self._consumer.deleted, {"id": product_id})
        else:
            # The newest products change most, so that their creation, changes and deletion often overlap.
            newest = min(20, len(self._alive)) if self._random.random() < self._traffic.hot else len(self._alive)
            product_id = self._alive[-self._random.randint(1, newest)]
            self._version += 1
            fields = product(product_id, self._version)
            self._record(product_id, self._version, lambda: products.replace_one({"_id": product_id}, fields))
            self._send(number, self._consumer.updated, {"id": product_id, **fields})

    def _create(self, products: Any) -> dict[str, Any]:
        self._next_id += 1
        self._version += 1
        product_id = f"p{self._next_id:06}"
        fields = product(product_id, self._version)
        self._record(product_id, self._version, lambda: products.insert_one({"_id": product_id, **fields}))
        self._alive.append(product_id)
        return {"id": product_id, **fields}

    def _record(self, product_id: str, version: int | None, write: Any) -> None:
        begun = time.time()
        write()
        self.history.add(product_id, Fact(version, begun, time.time()))

    def _send(self, number: int, statements: tuple[str, ...], row: dict[str, Any]) -> None:
        if self._random.random() < self._traffic.lost:
            self.lost.append((row["id"], self.history.facts[row["id"]][-1]))
            return
        drawn = self._random.random()
        longest = next(longest for share, longest in self._traffic.delays if drawn <= share)
        due = _Due(time.monotonic() + self._random.random() * longest, number, statements, row)
        with self._has_due:
            heapq.heappush(self._due, due)
            self._has_due.notify()

    def _consume(self) -> None:
        with psycopg.connect(self._cart_url, application_name=CONSUMER, autocommit=True) as cart:
            while (event := self._next()) is not None:
                with cart.transaction():
                    for statement in event.statements:
                        cart.execute(statement.encode(), event.row)
                self.delivered += 1
                if event.statements is self._consumer.deleted:
                    self.deletions[event.row["id"]] = time.time()

    def _next(self) -> _Due | None:
        """Wait for the next event. ``None`` after the shop has closed and all events were delivered."""
        with self._has_due:
            while True:
                if not self._due:
                    if self._closed:
                        return None
                    self._has_due.wait()
                elif (wait := self._due[0].at - time.monotonic()) > 0:
                    self._has_due.wait(wait)
                else:
                    return heapq.heappop(self._due)
