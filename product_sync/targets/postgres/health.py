"""What the target is like before anything is written: rights, triggers, foreign keys, server.

A dry run and `doctor` promise what a sync would meet. They ask the catalogue for it, which every role may read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import psycopg

from product_sync.errors import ProductSyncError
from product_sync.schema.records import TargetTable
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import catalog_sql, session_sql
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.errors import read_error
from product_sync.targets.postgres.lock import holder_of
from product_sync.targets.postgres.requirements import require_writable, table_oid

#: What happens to rows that reference a deleted one, where that changes them.
_CASCADING: Final = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key onto the target: ``table`` is the referencing one, ``on_delete`` the action in SQL's words."""

    name: str
    table: str
    on_delete: str

    @property
    def cascading(self) -> bool:
        """Whether a deletion in the target would change the referencing table."""
        return self.on_delete in _CASCADING


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the role may do with the mapped columns; column-level grants suffice. ``lacking`` names what it may not:
    ``USAGE on schema shop``, ``INSERT on title``; not DELETE, which few syncs need."""

    select: bool
    insert: bool
    update: bool
    delete: bool
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """The server, whatever tables it has. ``latency_ms`` is one round trip in milliseconds."""

    version: str
    latency_ms: float
    role: str
    in_recovery: bool


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """The target as `doctor` and the dry run see it.

    ``problem`` would keep any sync from writing, whatever it finds (`requirements.require_writable`). ``triggers`` are
    those of the table's users: with any, nothing is probed. ``lock_holder`` names a sync that is running.
    """

    server: ServerHealth
    problem: ProductSyncError | None
    privileges: Privileges
    triggers: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    lock_holder: str | None


def health(url: str, row_schema: RowSchema, *, clock: Callable[[], float] = time.perf_counter) -> TargetHealth:
    """Ask the server. Errors as `connect`; `TableError` if the table is gone."""
    with closing(connect(url)) as connection:
        try:
            return _health(connection, url, row_schema, clock)
        except psycopg.Error as error:
            raise read_error(error, table=row_schema.table.qualified_name, broken=connection.closed) from error


def server_health(url: str, *, clock: Callable[[], float] = time.perf_counter) -> ServerHealth:
    """Ask the server about itself only. Errors as `connect`."""
    with closing(connect(url)) as connection:
        try:
            return server_of(connection, clock)
        except psycopg.Error as error:
            raise read_error(error, table="the server", broken=connection.closed) from error


def _health(
    connection: psycopg.Connection, url: str, row_schema: RowSchema, clock: Callable[[], float]
) -> TargetHealth:
    oid = table_oid(connection, row_schema.table)
    holder = holder_of(connection, row_schema.table)
    return TargetHealth(
        server=server_of(connection, clock),
        problem=_problem(connection, url, row_schema.table),
        privileges=_privileges(connection, row_schema, oid),
        triggers=tuple(name for (name,) in connection.execute(catalog_sql.USER_TRIGGERS, [oid])),
        foreign_keys=tuple(ForeignKey(*found) for found in connection.execute(catalog_sql.FOREIGN_KEYS, [oid])),
        lock_holder=None if holder is None else str(holder),
    )


def server_of(connection: psycopg.Connection, clock: Callable[[], float]) -> ServerHealth:
    """On an open connection; ``clock`` counts seconds. Raises driver errors."""
    started = clock()
    row = connection.execute(session_sql.SERVER).fetchone()
    latency_ms = (clock() - started) * 1000
    version, in_recovery, role = row or ("unknown", False, "unknown")
    return ServerHealth(version, latency_ms, role, in_recovery)


def _privileges(connection: psycopg.Connection, row_schema: RowSchema, oid: int) -> Privileges:
    usage, delete = connection.execute(catalog_sql.TABLE_RIGHTS, [oid]).fetchone() or (False, False)
    granted = set(connection.execute(catalog_sql.COLUMN_RIGHTS, [oid]).fetchall())
    mapped = [column.name for column in row_schema.columns]
    needed = {"SELECT": mapped, "INSERT": mapped, "UPDATE": [column.name for column in row_schema.compared]}
    lacking = {right: [name for name in names if (name, right) not in granted] for right, names in needed.items()}
    return Privileges(
        select=usage and not lacking["SELECT"],
        insert=usage and not lacking["INSERT"],
        update=usage and not lacking["UPDATE"],
        delete=usage and delete,
        lacking=(
            *(() if usage else (f"USAGE on schema {row_schema.table.schema}",)),
            *(f"{right} on {', '.join(names)}" for right, names in lacking.items() if names),
        ),
    )


def _problem(connection: psycopg.Connection, url: str, table: TargetTable) -> ProductSyncError | None:
    try:
        require_writable(connection, url, table)
    except ProductSyncError as error:
        return error
    return None
