"""Both sides with a state folder of their own, and `product-sync` run on them as its users run it: as a process.

(`shop.py` runs the Dagster jobs inside the test's process and looks at what Dagster recorded.)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from product_sync.embedded.servers import Servers
from product_sync.orchestration.local_history import folder_of
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_tests.run_history import put_history
from product_sync_tests.warm_process import WarmProcess, started

#: Variables that would let the machine's own configuration into a test.
_OURS = ("PRODUCT_", "CART_", "MONGO_", "SYNC_", "DAGSTER_", "PG", "TIMEZONE", "ENABLE_SCHEDULER", "COLUMNS")
_TIMEOUT_S = 60.0
_POLL_S = 0.02

Product = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> dict[str, Any]:
        """The last line of standard output, as JSON."""
        answer: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return answer

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = self.answer["error"]
        return error

    @property
    def everything(self) -> str:
        return self.stdout + self.stderr


@dataclass
class Market:
    """The two databases of one test. ``env`` is what its commands are started with, and may be changed."""

    mongodb_url: str
    cart_url: str
    state: Path
    env: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.env = {
            **clean_environment(),
            "PRODUCT_SERVICE_MONGODB_URL": self.mongodb_url,
            "CART_DB_URL": self.cart_url,
            "PRODUCT_SYNC_STATE": str(self.state),
        }

    # What is on the two sides.

    def stock(self, products: Sequence[Product], collection: str = "products") -> None:
        """Put documents into the source."""
        with MongoClient[Product](self.mongodb_url) as client:
            client.get_default_database()[collection].insert_many(products)

    def unstock(self, query: Mapping[str, Any]) -> None:
        with MongoClient[Product](self.mongodb_url) as client:
            client.get_default_database()["products"].delete_many(query)

    def copy(self, products: Sequence[Product]) -> None:
        """Put rows into the target, as the events would have."""
        with psycopg.connect(self.cart_url) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO product VALUES (%(_id)s, %(title)s, %(price)s, %(image)s, %(sellerId)s, %(quantity)s)",
                products,
            )

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the cart's database; its rows."""
        with psycopg.connect(self.cart_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """The whole target by id, with ``xmin``: a row that was written again, even with equal values, differs."""
        return {row[1]: row for row in self.sql("SELECT xmin::text, * FROM product ORDER BY id")}

    def forget_all(self) -> None:
        """Remove the state folder: what a command finds the first time."""
        shutil.rmtree(self.state)

    def remembered(self) -> dict[str, bytes]:
        """What the state folder keeps from run to run: the quarantine and the baseline."""
        found = [*self.state.glob("*/quarantine.arrow"), *self.state.glob("*/baseline.json")]
        return {path.name: path.read_bytes() for path in found}

    # Commands, and the functions behind them.

    def run(self, *arguments: str, **env: str) -> Outcome:
        """A command to its end. ``env`` is added to the variables."""
        with self.start(*arguments, **env) as command:
            return command.outcome()

    @contextmanager
    def start(self, *arguments: str, **env: str) -> Iterator[Running]:
        """A command under way, killed at the end of the block if it still runs then."""
        with started("product_sync.cli", *arguments, env={**self.env, **env}) as process:
            yield Running(process)

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give this process the variables that a command would have, for calls of `product_sync.api`."""
        for name in os.environ.keys() - self.env.keys():
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that configure the sync, Dagster or a database."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


@contextmanager
def open_market(servers: Servers, state: Path) -> Iterator[Market]:
    """Empty databases and a state folder that holds nothing but a run history without runs."""
    put_history(folder_of(state))
    with mongodb_database(servers) as mongodb_url, cart_database(servers) as cart_url:
        create_product_table(cart_url)
        yield Market(mongodb_url, cart_url, state)


@dataclass(frozen=True)
class Running:
    """A command under way."""

    process: WarmProcess

    def outcome(self) -> Outcome:
        completed = self.process.completed(_TIMEOUT_S)
        return Outcome(completed.returncode, completed.stdout, completed.stderr)

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Look again and again while the command runs; fail if it ends before."""
        wait_until(lambda: holds() or self.process.poll() is not None)
        assert self.process.poll() is None, self.outcome()

    def send(self, number: signal.Signals) -> Outcome:
        self.process.send_signal(number)
        return self.outcome()


def wait_until(holds: Callable[[], object], seconds: float = _TIMEOUT_S) -> None:
    """Look again and again; fail when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(_POLL_S)


def product(number: int, **changes: object) -> Product:
    """A product that fits the cart's table, its id a text."""
    values: Product = {
        "_id": f"p{number:04}",
        "title": f"Ring {number}",
        "price": 100 + number,
        "image": f"{number}.png",
        "sellerId": "s1",
        "quantity": number,
    }
    return values | changes


def products(count: int) -> list[Product]:
    return [product(number) for number in range(count)]
