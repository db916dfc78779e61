"""What happened on each side, recorded where it happened and not by the program that is judged.

Every write of the shop gets a version of its own, and every field of the product is made of it: so a row of the target
names the write that it came from, and one that mixes two writes shows. The target is recorded by a trigger, with the
name of the connection that wrote. Both clocks are those of one machine.
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

# audit: every version of every row of the target, in the order in which they came to be: a row is written by one
# transaction at a time, so the order of its entries is the order of its values.
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
# linger: the writes of the sync take their time, so that events fall between its reading and its commit.
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
    """The product as the shop holds it in this version: a document, and a row with the same fields."""
    return {
        "title": f"{product_id} in version {version}",
        "price": version * 7,
        "image": f"{version}.jpg",
        "sellerId": f"s{version % 10}",
        "quantity": version,
    }


@dataclass(frozen=True, slots=True)
class Written:
    """One entry of the audit. Versions are ``None`` where there was no row; -1 for a row that is of no version."""

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
    """One write of the shop, ``version`` ``None`` if it deleted: not yet true at ``begun``, true at ``done``."""

    version: int | None
    begun: float
    done: float


@dataclass
class ShopHistory:
    """All writes of the shop, by product, in their order: one thread writes them."""

    facts: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))

    def add(self, product_id: str, fact: Fact) -> None:
        self.facts[product_id].append(fact)

    def versions_between(self, product_id: str, start: float, end: float) -> set[int | None]:
        """What the shop may have held at some moment from ``start`` to ``end``; ``None`` is no product."""
        facts = self.facts[product_id]
        first = bisect_right(facts, start, key=lambda fact: fact.done) - 1
        before: set[int | None] = {facts[first].version if first >= 0 else None}
        return before | {fact.version for fact in facts[max(first, 0) :] if fact.begun <= end and fact.done > start}

    def now(self) -> dict[str, int]:
        """The last version of each product that is there."""
        last = {product_id: facts[-1].version for product_id, facts in self.facts.items()}
        return {product_id: version for product_id, version in last.items() if version is not None}


def read_audit(cart_url: str) -> list[Written]:
    with psycopg.connect(cart_url) as connection:
        rows = connection.execute(_READ_AUDIT).fetchall()
    return [Written(at, writer, row_id, version_of(old), version_of(new)) for at, writer, row_id, old, new in rows]


def version_of(row: dict[str, Any] | None) -> int | None:
    """The version that a row (or a document, its ``_id`` called ``id``) is of; -1 if it mixes several."""
    if row is None:
        return None
    version = int(row["quantity"])
    return version if row == {"id": row["id"], **product(row["id"], version)} else -1
