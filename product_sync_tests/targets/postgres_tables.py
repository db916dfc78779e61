"""Target tables for the tests of the PostgreSQL adapter, and rows to put into them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from product_sync.errors import SyncAlreadyRunning, TransientError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.column_spec import ColumnSpec
from product_sync.schema.definition import SourceSpec, SyncDefinition, TargetSpec
from product_sync.schema.records import TargetTable
from product_sync.schema.row_schema import RowSchema, resolve_mapping
from product_sync.schema.types import TypeName
from product_sync.targets.postgres.reflection import reflect

_T = TypeVar("_T")
#: The password of every `role`, to be looked for where it must not be.
PASSWORD = "s3cret-of-the-test"
_WAITING: LiteralString = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def execute(url: str, *statements: LiteralString | sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
    """Run statements as another client of the database would; the rows of the last one."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def row_schema_of(
    url: str, table: str = "product", *, schema: str = "public", not_updated: Sequence[str] = ()
) -> RowSchema:
    """The table with all its supported columns mapped, each from a field of its own."""
    return map_all(reflect(TargetAddress(url), schema, table), not_updated=not_updated)


def map_all(table: TargetTable, *, not_updated: Sequence[str] = ()) -> RowSchema:
    key = next((column.name for column in table.columns if (column.name,) in table.keys), None)
    columns = {
        column.name: ColumnSpec(
            source="_id" if column.name == key else f"field{number}",
            required=not column.nullable,
            update=column.name not in not_updated,
            zone="UTC" if column.type.scalar.name is TypeName.TIMESTAMP else None,
        )
        for number, column in enumerate(table.columns)
        if column.type is not None
    }
    target = TargetSpec.model_validate({"table": table.name, "schema": table.schema})
    return resolve_mapping(
        SyncDefinition(source=SourceSpec(collection="products"), target=target, columns=columns), table
    )


def product(product_id: str, **changes: object) -> dict[str, Any]:
    """A row of the cart's original table."""
    row = {"id": product_id, "title": "Ring", "price": 995, "image": "ring.png", "sellerId": "s1", "quantity": 3}
    return row | changes


@dataclass(frozen=True)
class Role:
    """A role that lives for one test."""

    name: str
    url: str


@contextmanager
def role(url: str, *grants: LiteralString, password: str = PASSWORD) -> Iterator[Role]:
    """A role with LOGIN and the ``grants``: statements in which ``{}`` stands for its name."""
    name = f"role_{uuid4().hex[:12]}"
    identifier = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, sql.Literal(password))
    execute(url, create, *(sql.SQL(grant).format(identifier) for grant in grants))
    parts = urlsplit(url)
    credentials = f"{name}:{quote(password, safe='')}"
    try:
        yield Role(name, urlunsplit(parts._replace(netloc=f"{credentials}@{parts.hostname}:{parts.port}")))
    finally:
        execute(
            url,
            sql.SQL("DROP OWNED BY {}").format(identifier),
            sql.SQL("DROP ROLE {}").format(identifier),
        )


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Another client holds the whole table."""
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(table)))
        yield
        connection.rollback()


@contextmanager
def once_waiting(url: str, act: Callable[[], object]) -> Iterator[None]:
    """Do it in a thread as soon as a session of this database waits for a lock, which is within the block."""

    def watch() -> None:
        while not execute(url, _WAITING):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive(), "nobody waited"


def eventually(action: Callable[[], _T]) -> _T:
    """Try until it works: the server notices that a client has gone a moment after the client does."""
    for _ in range(200):
        try:
            return action()
        except (SyncAlreadyRunning, TransientError):
            time.sleep(0.02)
    return action()


def other_sessions(url: str, expected: int) -> bool:
    """Whether the database comes to have this many sessions beside the one that asks."""
    query: LiteralString = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(200):
        if execute(url, query) == [(expected,)]:
            return True
        time.sleep(0.02)
    return False
