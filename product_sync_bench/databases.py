"""The target before a run, and what both databases felt of it.

Every run gets a database of its own, copied from a template: empty, equal to the source, with drift, or with another
value in every row. So all begin
with the same pages, vacuumed and analysed, and none pays for what another left.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql
from pymongo import MongoClient

from product_sync.embedded.servers import Servers
from product_sync_bench.catalogue import VERSION, Catalogue

EMPTY, EQUAL, DRIFTED, CHANGED = "empty", "equal", "drifted", "changed"
_TARGET: Final = "bench_target"
_CHANGED_SHARE, _LOST_SHARE = 0.01, 0.001
#: Seconds in which the server must notice that a client is gone.
_QUIET_S: Final = 30.0
_STATEMENT = re.compile(rb"^\S+ \S+ \S+ \[\d+\] LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)

# create_product: the cart service's original table.
_CREATE_PRODUCT: LiteralString = """
CREATE TABLE product (
    id text PRIMARY KEY, title text NOT NULL, price integer NOT NULL, image text NOT NULL,
    "sellerId" text NOT NULL, quantity integer NOT NULL
)
"""

# create_cart_item: the carts reference the products, as in any shop.
_CREATE_CART_ITEM: LiteralString = """
CREATE TABLE cart_item (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id text NOT NULL REFERENCES product (id),
    quantity integer NOT NULL
)
"""

# copy_products: the rows of the template, in the order of the columns above.
_COPY_PRODUCTS: LiteralString = 'COPY product (id, title, price, image, "sellerId", quantity) FROM STDIN'

# plant_changes: a changed price, title or quantity in every hundredth row, the same rows each time.
_PLANT_CHANGES: LiteralString = """
UPDATE product SET
    price = price + CASE kind WHEN 0 THEN 100 ELSE 0 END,
    title = title || CASE kind WHEN 1 THEN ' (old)' ELSE '' END,
    quantity = quantity + CASE kind WHEN 2 THEN 1 ELSE 0 END
FROM (
    SELECT id AS chosen, row_number() OVER () %% 3 AS kind
    FROM (SELECT id FROM product ORDER BY md5('changed' || id) LIMIT %s) AS first
) AS drift
WHERE id = chosen
"""

# change_all: another price in every row, as after a long outage; the rows lie in the order of the source again.
_CHANGE_ALL: LiteralString = "UPDATE product SET price = price + 100"

# plant_losses: rows that never arrived.
_PLANT_LOSSES: LiteralString = """
DELETE FROM product WHERE id IN (SELECT id FROM product ORDER BY md5('lost' || id) LIMIT %s)
"""

# lose_events: the price before an event that never arrived.
_LOSE_EVENTS: LiteralString = "UPDATE product SET price = price + 100 WHERE id = ANY(%s)"

# fill_carts: some products are in a cart.
_FILL_CARTS: LiteralString = """
INSERT INTO cart_item (product_id, quantity) SELECT id, 1 FROM product ORDER BY md5('cart' || id) LIMIT 1000
"""

# rows_written: what was written to the table and to all tables of the database, staging and catalogues included; how
# much was read from files: the target is fresh, so nothing of it is in the server's own buffers.
_ROWS_WRITTEN: LiteralString = """
SELECT
    coalesce((SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relid = to_regclass('public.product')), 0)::bigint,
    coalesce((SELECT sum(n_tup_upd) FROM pg_stat_user_tables WHERE relid = to_regclass('public.product')), 0)::bigint,
    coalesce((SELECT sum(n_tup_del) FROM pg_stat_user_tables WHERE relid = to_regclass('public.product')), 0)::bigint,
    tup_inserted + tup_updated + tup_deleted,
    blks_read * current_setting('block_size')::bigint
FROM pg_stat_database WHERE datname = %s
"""

# log_position: where the write-ahead log ends.
_LOG_POSITION: LiteralString = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"

# clients_left: connections to the target that the server still holds.
_CLIENTS_LEFT: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
)

# statement_log: every statement of the target's clients becomes a line of the server's log, without its values.
_STATEMENT_LOG: tuple[LiteralString, ...] = (
    "ALTER DATABASE {} SET log_statement = 'all'",
    "ALTER DATABASE {} SET log_parameter_max_length = 0",
)


@dataclass(slots=True)
class Felt:
    """What one run meant for the two databases. Bytes, rows and calls; ``rows_written`` includes staging tables."""

    source_bytes: int = 0
    source_calls: int = 0
    statements: int = 0
    target_read_bytes: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    rows_written: int = 0
    wal_bytes: int = 0


@dataclass
class Target:
    """The databases of one catalogue on the embedded PostgreSQL. ``url`` is that of the target of the current run."""

    servers: Servers
    catalogue: Catalogue
    _admin: psycopg.Connection[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._admin = psycopg.connect(self.servers.postgres_url, autocommit=True)

    def close(self) -> None:
        self._admin.close()

    @property
    def url(self) -> str:
        return self._url(_TARGET)

    @property
    def server_pid(self) -> int:
        """The process whose children are those of the server's clients."""
        return psutil.Process(self._admin.info.backend_pid).ppid()

    def log_position(self) -> int:
        row = self._admin.execute(_LOG_POSITION).fetchone()
        return int(row[0]) if row else 0

    def make_empty_template(self) -> None:
        """The two tables and no row in them."""
        self._make(EMPTY, "template0")

    def make_templates(self) -> None:
        """Make the templates of this catalogue unless an earlier run did. 40 s for a million products."""
        self.make_empty_template()
        if self._make(EQUAL, self._template(EMPTY)):
            with self._finishing(EQUAL) as connection:
                with connection.cursor().copy(_COPY_PRODUCTS) as copy:
                    for number in range(self.catalogue.count):
                        copy.write_row(self.catalogue.row(number))
                connection.execute(_FILL_CARTS)
        if self._make(DRIFTED, self._template(EQUAL)):
            with self._finishing(DRIFTED) as connection:
                # Carts keep their products: a lost event is the loss of a product that no cart holds yet.
                connection.execute("DELETE FROM cart_item")
                connection.execute(_PLANT_LOSSES, [round(self.catalogue.count * _LOST_SHARE)])
                connection.execute(_PLANT_CHANGES, [round(self.catalogue.count * _CHANGED_SHARE)])
                connection.execute(_FILL_CARTS)
        if self._make(CHANGED, self._template(EQUAL)):
            with self._finishing(CHANGED) as connection:
                connection.execute(_CHANGE_ALL)

    def begin(self, state: str, setup: LiteralString | str, *, logged: bool = True) -> None:
        """Make the target anew from the template ``state``, then run ``setup`` on it. Everything is on disk after.

        ``logged``: the server writes down every statement, which costs each of them a little.
        """
        self._drop(_TARGET)
        self._create(_TARGET, self._template(state))
        for setting in _STATEMENT_LOG if logged else ():
            self._admin.execute(sql.SQL(setting).format(sql.Identifier(_TARGET)))
        self.execute(setup)
        self._admin.execute("CHECKPOINT")

    def execute(self, statement: LiteralString | str) -> None:
        """Execute SQL on the target, if there is any."""
        if statement:
            with psycopg.connect(self.url) as connection:
                connection.execute(statement.encode())

    def lose_events(self, ids: Sequence[str]) -> None:
        """Give the rows of ``ids`` another price. The counts of the run begin after it."""
        with psycopg.connect(self.url) as connection:
            connection.execute(_LOSE_EVENTS, [list(ids)])
        self._wait_until_quiet()
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT pg_stat_reset()")

    def write_rows(self, file: Path) -> None:
        """Put the rows of the template that equals the source into ``file``, in PostgreSQL's binary format."""
        with (
            psycopg.connect(self._url(self._template(EQUAL))) as connection,
            file.open("wb") as output,
            connection.cursor().copy("COPY product TO STDOUT (FORMAT binary)") as copy,
        ):
            for block in copy:
                output.write(block)

    @contextmanager
    def feeling(self) -> Iterator[Felt]:
        """What the two databases feel while the block runs; complete when it ends."""
        felt = Felt()
        with MongoClient[dict[str, Any]](self.servers.mongodb_url) as client:
            log = self.servers.folder / "postgres.log"
            log_began, wal_began = log.stat().st_size, self.log_position()
            asked, source_began = _source_work(client), _source_work(client)
            yield felt
            source_ended = _source_work(client)
            self._wait_until_quiet()
            felt.wal_bytes = self.log_position() - wal_began
        # Less the question for these numbers itself.
        felt.source_bytes = source_ended[0] - source_began[0] - (source_began[0] - asked[0])
        felt.source_calls = source_ended[1] - source_began[1] - 1
        with log.open("rb") as lines:
            lines.seek(log_began)
            felt.statements = len(_STATEMENT.findall(lines.read()))
        with psycopg.connect(self.url) as connection:
            written = connection.execute(_ROWS_WRITTEN, [_TARGET]).fetchone()
        if written is not None:
            felt.inserted, felt.updated, felt.deleted, felt.rows_written, felt.target_read_bytes = written

    def _make(self, state: str, template: str) -> bool:
        """Make a template unless it is there; whether it has to be filled."""
        name = self._template(state)
        if self._admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return False
        self._create(f"{name}_unfinished", template)
        if state != EMPTY:
            return True
        with self._finishing(state) as connection:
            connection.execute(_CREATE_PRODUCT)
            connection.execute(_CREATE_CART_ITEM)
        return False

    @contextmanager
    def _finishing(self, state: str) -> Iterator[psycopg.Connection[Any]]:
        """Fill a new template; it gets its name only when it is complete."""
        name = self._template(state)
        unfinished = f"{name}_unfinished"
        with psycopg.connect(self._url(unfinished)) as connection:
            yield connection
        with psycopg.connect(self._url(unfinished), autocommit=True) as connection:
            connection.execute("VACUUM (FREEZE, ANALYZE)")
        self._admin.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(unfinished), sql.Identifier(name))
        )

    def _create(self, name: str, template: str) -> None:
        self._drop(name)
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _template(self, state: str) -> str:
        return f"bench_{self.catalogue.count}_v{VERSION}_{state}"

    def _url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.servers.postgres_url)._replace(path=f"/{database}"))

    def _wait_until_quiet(self) -> None:
        """Until no client is left: a backend hands in its statistics when it ends, shortly after its client."""
        deadline = time.monotonic() + _QUIET_S
        while time.monotonic() < deadline:
            row = self._admin.execute(_CLIENTS_LEFT, [_TARGET]).fetchone()
            if row is None or row[0] == 0:
                return
            time.sleep(0.05)


def source_url(servers: Servers, catalogue: Catalogue) -> str:
    """The URL of the MongoDB database that holds ``catalogue``."""
    name = f"bench_{catalogue.count}{'_irregular' if catalogue.irregular else ''}"
    return urlunsplit(urlsplit(servers.mongodb_url)._replace(path=f"/{name}"))


def _source_work(client: MongoClient[dict[str, Any]]) -> tuple[int, int]:
    """Bytes that the server has sent, and finds, further batches and other commands that it has answered."""
    status = client.admin.command("serverStatus")
    calls = status["opcounters"]
    return int(status["network"]["bytesOut"]), int(calls["query"] + calls["getmore"] + calls["command"])
