"""What only a whole run on real servers shows: batches, reads, pauses, ids, and a change in the middle of a run."""

from __future__ import annotations

from uuid import UUID

from bson import Binary, Int64, ObjectId
from pymongo import monitoring

from product_sync.orchestration.names import PRODUCT
from product_sync.runtime.progress import Progress
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]


def transactions(shop: Shop) -> list[int]:
    """How many rows of the table each transaction wrote, largest first."""
    return [count for (count,) in shop.sql("SELECT count(*) FROM product GROUP BY xmin ORDER BY 1 DESC")]


def test_products_are_written_in_batches_of_a_hundred_each_in_a_transaction_of_its_own(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(250)))
    outcome = shop.run()
    assert outcome.materialized[PRODUCT.load]["batches"] == 3
    assert transactions(shop) == [100, 100, 50]


def test_both_sides_are_compared_as_sets_and_no_product_is_looked_up_alone(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(300)))
    assert shop.run().success
    asked = _Commands()
    monitoring.register(asked)
    try:
        assert shop.run().success
    finally:
        asked.deaf = True
    assert 2 <= asked.finds <= 8, "two pages, a sample and the time of the position, and nothing for each product"


def test_there_is_a_pause_between_two_batches(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)))
    done = shop.run(batch_size=1, batch_delay_ms=300).materialized[PRODUCT.load]
    assert done["duration_s"] >= 0.6


def test_ids_become_text_without_loss(shop: Shop) -> None:
    uuid = UUID("12345678-1234-5678-1234-567812345678")
    kinds = ["legacy-1", 42, Int64(2**40), ObjectId("507f1f77bcf86cd799439011"), Binary.from_uuid(uuid)]
    shop.put(*(product("x") | {"_id": kind} for kind in kinds))
    assert shop.run().success
    assert set(shop.rows) == {"legacy-1", "42", str(2**40), "507f1f77bcf86cd799439011", str(uuid)}


def test_a_newer_value_is_never_overwritten(shop: Shop) -> None:
    """The event of a change arrives between our comparison and our batch."""
    shop.put(product("a"))
    assert shop.run().success
    shop.put(product("a", price=600))

    def event(progress: Progress) -> None:
        if progress.stage == "read target":
            shop.put(product("a", price=700))
            shop.sql("UPDATE product SET price = 700 WHERE id = 'a'")

    done = shop.run(on_progress=event).materialized[PRODUCT.load]
    assert (done["updated"], done["conflicts"]) == (0, 1)
    assert shop.rows["a"][0] == 700


class _Commands(monitoring.CommandListener):
    """Counts the reads of the collection. Listeners cannot be taken back, hence ``deaf``."""

    def __init__(self) -> None:
        self.finds = 0
        self.deaf = False

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if not self.deaf and event.command_name == "find":
            self.finds += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Not of interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Not of interest."""
