"""The servers that the tests run on, and a database of its own for each test.

Every pytest-xdist worker has its own pair of servers in a temporary folder of its own; a session fixture per
process is just that. Nothing is skipped where they cannot be started: the tests fail.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from pymongo import MongoClient

from product_sync.embedded.servers import Servers, remove, running

# original_product_table: the table of the cart service as it was designed first, in prices of whole cents.
ORIGINAL_TABLE = """
CREATE TABLE product (
    id         text    PRIMARY KEY,
    title      text    NOT NULL,
    price      integer NOT NULL,
    image      text    NOT NULL,
    "sellerId" text    NOT NULL,
    quantity   integer NOT NULL
)
"""


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Both servers, for all tests of this process."""
    base = Path(tempfile.mkdtemp(prefix="product_sync_tests_"))
    # The folder is ours, made a line above: as root, the servers' user has to get through it.
    base.chmod(0o711)
    try:
        with running(base / "data", durable=False) as started:
            yield started
    finally:
        remove(base / "data")
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def mongodb_url(servers: Servers) -> Iterator[str]:
    """The URL of a MongoDB database that is empty and of this test alone."""
    name = f"test_{uuid4().hex[:12]}"
    yield _with_database(servers.mongodb_url, name)
    with MongoClient[dict[str, object]](servers.mongodb_url) as client:
        client.drop_database(name)


@pytest.fixture
def cart_url(servers: Servers) -> Iterator[str]:
    """The URL, as superuser, of a PostgreSQL database that is empty and of this test alone."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield _with_database(servers.postgres_url, name)
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def product_table(cart_url: str) -> str:
    """The cart's original table, empty, in ``cart_url``; its name."""
    with psycopg.connect(cart_url) as connection:
        connection.execute(ORIGINAL_TABLE)
    return "product"


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
