"""Databases of one test, or of one module, on the servers of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql
from pymongo import MongoClient

from product_sync.embedded.servers import Servers

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


@contextmanager
def mongodb_database(servers: Servers) -> Iterator[str]:
    """The URL of a database that is empty and gone afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    try:
        yield _with_database(servers.mongodb_url, name)
    finally:
        with MongoClient[dict[str, object]](servers.mongodb_url) as client:
            client.drop_database(name)


@contextmanager
def cart_database(servers: Servers) -> Iterator[str]:
    """The URL, as superuser, of a database that is empty and gone afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))
    try:
        yield _with_database(servers.postgres_url, name)
    finally:
        with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def create_product_table(cart_url: str) -> None:
    with psycopg.connect(cart_url) as connection:
        connection.execute(ORIGINAL_TABLE)


@contextmanager
def another_sync(cart_url: str) -> Iterator[psycopg.Connection]:
    """A session that holds the lock of a sync of the product table."""
    with psycopg.connect(cart_url, application_name="another sync") as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended('product_sync:public.product', 0))")
        yield connection


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
