"""The history of both sides, recorded by the sides themselves and not by the program under test.

Every write of the shop has its own version, and all fields of the product are made from it. So a row of the target
shows the write that it came from, and a mix of two writes is visible. A trigger records the writes in the target, with
the name of the connection. Both sides use the clock of the same machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import psycopg

#: How `product_sync` names its connections.
OURS = "product_sync"
CONSUMER = "consumer"

# audit: every version of every row of the target. One transaction at a time writes a row, so the order of its entries
# is the order of its values.
AUDIT = """
CREATE TABLE audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    writer text NOT NULL DEFAULT current_setting('application_name'),
    id text NOT NULL,
    old jsonb,
    new jsonb
);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (id, old, new) VALUES (coalesce(NEW.id, OLD.id), to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON product FOR EACH ROW EXECUTE FUNCTION audit();
"""
# linger: slows down the writes of the sync, so that events happen between its reading and its commit.
LINGER = """
CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'product_sync%' THEN PERFORM pg_sleep(random() * 0.02); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER linger BEFORE INSERT OR UPDATE ON product FOR EACH ROW EXECUTE FUNCTION linger();
"""
# read_audit: all entries in their order.
_READ_AUDIT = "SELECT at, writer, id, old, new FROM audit ORDER BY seq"


def product(product_id: str, version: int) -> dict[str, Any]:
    """The fields of this version, for the document and the row."""
    return {
        "title": f"{product_id} in version {version}",
        "price": version * 7,
        "image": f"{version}.jpg",
        "sellerId": f"s{version % 10}",
        "quantity": version,
    }


@dataclass(frozen=True, slots=True)
class Written:
    """One entry of the audit. A version is ``None`` if there was no row, and -1 if the row mixes versions."""

    at: float
    writer: str
    id: str
    old: int | None
    new: int | None

    @property
    def by_us(self) -> bool:
        return self.writer.startswith(OURS)


@dataclass(frozen=True, slots=True)
class Fact:
    """One write of the shop between ``begun`` and ``done``. ``version`` is ``None`` for a delete."""

    version: int | None
    begun: float
    done: float


@dataclass
class ShopHistory:
    """All writes of the shop, by product, in their order. One thread makes them."""

    facts: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))

    def add(self, product_id: str, fact: Fact) -> None:
        self.facts[product_id].append(fact)

    def versions_between(self, product_id: str, start: float, end: float) -> set[int | None]:
        """The versions that the shop may have had between ``start`` and ``end``; ``None`` means no product."""
        facts = self.facts[product_id]
        first = bisect_right(facts, start, key=lambda fact: fact.done) - 1
        before: set[int | None] = {facts[first].version if first >= 0 else None}
        return before | {fact.version for fact in facts[max(first, 0) :] if fact.begun <= end and fact.done > start}

    def now(self) -> dict[str, int]:
        """The last version of each existing product."""
        last = {product_id: facts[-1].version for product_id, facts in self.facts.items()}
        return {product_id: version for product_id, version in last.items() if version is not None}


def read_audit(cart_url: str) -> list[Written]:
    with psycopg.connect(cart_url) as connection:
        rows = connection.execute(_READ_AUDIT).fetchall()
    return [Written(at, writer, row_id, version_of(old), version_of(new)) for at, writer, row_id, old, new in rows]


def version_of(row: dict[str, Any] | None) -> int | None:
    """The version of a row, or of a document whose ``_id`` is called ``id``; -1 if it mixes several."""
    if row is None:
        return None
    version = int(row["quantity"])
    return version if row == {"id": row["id"], **product(row["id"], version)} else -1
