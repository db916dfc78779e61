"""The databases of one round, and the target's record of every write.

The drift is planned here, so the rows to write, and their batches, are known without product_sync.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql
from pymongo import DeleteOne, MongoClient, ReplaceOne

from product_sync_torture.faults.judge import Drift, Row, Write
from product_sync_torture.faults.machines import Machines

BATCH_SIZE: Final = 10
_PRODUCTS: Final = 300
_REFUSED_TITLE: Final = "not for sale"
#: Long enough for a batch to need new pages, so that it meets the full disk.
_PADDING: Final = "x" * 1_200
#: The key of the advisory lock for which a halted statement waits.
HALT_KEY: Final = 4711

# product: the cart's table, with a constraint that some products violate. audit: every write to a row with its
# transaction and session, recorded by a trigger, so it is committed or rolled back with the row. halt: the rows at
# which a statement or its COMMIT waits or meets a full disk.
_TABLES: Final = """
CREATE TABLE product (
    id text PRIMARY KEY USING INDEX TABLESPACE {tablespace},
    title text NOT NULL CONSTRAINT for_sale CHECK (title <> 'not for sale'),
    price integer NOT NULL,
    image text NOT NULL,
    "sellerId" text NOT NULL,
    quantity integer NOT NULL
) TABLESPACE {tablespace};
CREATE TABLE halt (id text NOT NULL, at text NOT NULL);
CREATE TABLE audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL,
    op text NOT NULL,
    transaction text NOT NULL DEFAULT pg_current_xact_id()::text,
    writer text NOT NULL DEFAULT current_setting('application_name')
);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (id, op) VALUES (coalesce(NEW.id, OLD.id), TG_OP);
    RETURN NULL;
END $$;
CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM halt WHERE id = NEW.id AND at = TG_ARGV[0]) THEN
        PERFORM pg_advisory_xact_lock_shared(4711);
    END IF;
    IF EXISTS (SELECT FROM halt WHERE id = NEW.id AND at = 'full disk') THEN
        RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END IF;
    RETURN NEW;
END $$;
"""
_TRIGGERS: Final = """
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON product FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER halt BEFORE INSERT OR UPDATE ON product FOR EACH ROW EXECUTE FUNCTION halt('row');
CREATE CONSTRAINT TRIGGER halt_commit AFTER INSERT OR UPDATE ON product DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION halt('commit');
"""
_SESSIONS = """
SELECT pid, state, application_name FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'product_sync%'
"""
_LOCKS = """
SELECT lock.pid, activity.application_name FROM pg_locks AS lock LEFT JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted
  AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HALTED = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 4711"
_SYNC_LOCK = "SELECT pg_advisory_lock(hashtextextended('product_sync:public.product', 0))"


def plan_drift(random_: random.Random) -> Drift:
    """Some products are missing, some changed, and in every second round some are refused by the table. In every fourth
    round there are extra rows, which a run reads twice, seconds apart."""
    ids = [f"p{number:04}" for number in range(_PRODUCTS)]
    missing = set(random_.sample(ids, random_.randint(40, 90)))
    changed = set(random_.sample(sorted(set(ids) - missing), random_.randint(20, 50)))
    refused = set(random_.sample(sorted(missing), random_.choice([0, 1, 2, 0])))
    source = {key: _row(key, 2, refused=key in refused) for key in ids}
    before = {key: _row(key, 1 if key in changed else 2) for key in ids if key not in missing}
    extra = {key: _row(key, 1) for key in (f"x{number}" for number in range(random_.choice([0, 0, 0, 3])))}
    return Drift(source, before | extra, frozenset(refused), BATCH_SIZE)


def _row(key: str, version: int, *, refused: bool = False) -> Row:
    title = _REFUSED_TITLE if refused else f"{key} {version} {_PADDING}"
    return (key, title, version * 100, f"{version}.jpg", "s1", version)


@dataclass
class Scene:
    """The databases of one round. ``source_url`` and ``target_url`` are for the sync and go through the gates."""

    machines: Machines
    name: str
    drift: Drift
    on_small_disk: bool = False
    source_url: str = field(init=False, repr=False)
    target_url: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.source_url = self.machines.source_url(self.name, gated=True)
        # The gate reads the requests, so they are not encrypted.
        self.target_url = self.machines.target_url(self.name, gated=True) + "?sslmode=disable&gssencmode=disable"

    def make(self, *, equal: bool = False) -> None:
        """Make both sides. With ``equal`` the source begins with the rows of the target, until `lose_events`."""
        with self._source() as client:
            documents = [_document(row) for row in (self.drift.before if equal else self.drift.source).values()]
            client[self.name]["products"].insert_many(documents)
        with self._server() as server:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
            if self.on_small_disk:
                location = sql.Literal(str(self.machines.disk))
                server.execute(sql.SQL("CREATE TABLESPACE small_disk LOCATION {}").format(location))
        with self.target() as target:
            target.execute(_TABLES.format(tablespace="small_disk" if self.on_small_disk else "pg_default").encode())
            with target.transaction(), target.cursor() as cursor:
                rows = list(self.drift.before.values())
                cursor.executemany("INSERT INTO product VALUES (%s, %s, %s, %s, %s, %s)", rows)
            target.execute(_TRIGGERS)

    def touch(self) -> None:
        """Change a document, but no field that is mapped."""
        with self._source() as client:
            client[self.name]["products"].update_one({}, {"$set": {"touched": True}})

    def lose_events(self) -> None:
        """Insert, change and delete products of the source, and tell the target nothing."""
        source, before = self.drift.source, self.drift.before
        changed = [ReplaceOne({"_id": key}, _document(row), upsert=True) for key, row in source.items()]
        writes = [one for one, (key, row) in zip(changed, source.items(), strict=True) if before.get(key) != row]
        deletes = [DeleteOne({"_id": key}) for key in before if key not in source]
        with self._source() as client:
            client[self.name]["products"].bulk_write([*writes, *deletes])

    def remove(self) -> None:
        with self._source() as client:
            client.drop_database(self.name)
        with self._server() as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
            if self.on_small_disk:
                server.execute("DROP TABLESPACE small_disk")

    # For the judge.

    def rows(self) -> list[Row]:
        """The whole target, read without an index."""
        with self.target() as target:
            target.execute("SET enable_indexscan = off")
            return target.execute("SELECT * FROM product").fetchall()

    def documents(self) -> dict[str, Row]:
        with self._source() as client:
            return {one["_id"]: tuple(one[name] for name in _FIELDS) for one in client[self.name]["products"].find()}

    def writes(self) -> list[Write]:
        with self.target() as target:
            rows = target.execute("SELECT id, op, transaction, writer FROM audit ORDER BY seq").fetchall()
        return [Write(*row) for row in rows]

    def sessions(self) -> list[str]:
        """The sessions of syncs, and all advisory locks."""
        with self.target() as target:
            sessions = [f"session {pid} of {name}, {state}" for pid, state, name in target.execute(_SESSIONS)]
            return sessions + [f"advisory lock of {name}, session {pid}" for pid, name in target.execute(_LOCKS)]

    # For the faults.

    @contextmanager
    def target(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that does not go through the gate."""
        with psycopg.connect(self.machines.target_url(self.name, gated=False), autocommit=True) as connection:
            yield connection

    def halt(self, key: str, at: str) -> None:
        with self.target() as target:
            target.execute("INSERT INTO halt VALUES (%s, %s)", [key, at])

    def halt_nowhere(self) -> None:
        with self.target() as target:
            target.execute("DELETE FROM halt")

    def lock_session(self) -> int | None:
        """The pid of the sync's session that holds a lock."""
        with self.target() as target:
            row = target.execute(f"{_LOCKS} AND application_name LIKE 'product_sync%'".encode()).fetchone()
        return None if row is None else row[0]

    def take_lock(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(_SYNC_LOCK)

    def is_halted(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether a statement waits at its halt."""
        return connection.execute(_HALTED).fetchone() is not None

    @contextmanager
    def _source(self) -> Iterator[MongoClient[dict[str, Any]]]:
        with MongoClient[dict[str, Any]](self.machines.source_url(self.name, gated=False)) as client:
            yield client

    @contextmanager
    def _server(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.machines.target_url("postgres", gated=False), autocommit=True) as connection:
            yield connection


_FIELDS: Final[Sequence[str]] = ("_id", "title", "price", "image", "sellerId", "quantity")


def _document(row: Row) -> dict[str, Any]:
    return dict(zip(_FIELDS, row, strict=True))
