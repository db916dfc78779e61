"""The state of the target before anything is written: rights, triggers, foreign keys, server, replicas.

A dry run and `doctor` say what a sync would meet. They ask the catalogue, which every role may read. The health check
asks less, and with short limits, because it runs every few minutes beside a load.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import psycopg

from product_sync.errors import ProductSyncError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import catalog_sql, session_sql
from product_sync.targets.postgres.connection import connected
from product_sync.targets.postgres.lock import holder_of
from product_sync.targets.postgres.requirements import require_writable, table_oid

#: The actions of a foreign key that change the referencing table when a row is deleted.
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
    """What the role may do with the mapped columns; grants on the columns are enough. ``lacking`` names the rights that
    it does not have: ``USAGE on schema shop``, ``INSERT on title``; without DELETE, which few syncs need. ``sequences``
    (schema and name) fill other columns, and an insert lacks USAGE on them. ``schemas`` are those of the table and of
    its types on which USAGE is lacking."""

    select: bool
    insert: bool
    update: bool
    delete: bool
    lacking: tuple[str, ...]
    sequences: tuple[tuple[str, str], ...] = ()
    schemas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """``latency_ms`` is one round trip in milliseconds."""

    version: str
    latency_ms: float
    role: str
    in_recovery: bool


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """The target for `doctor` and the dry run. ``problem`` would stop every sync (`requirements.require_writable`).
    ``triggers`` are those of the table's users: with any, nothing is probed. ``lock_holder`` names a sync that is
    running."""

    server: ServerHealth
    problem: ProductSyncError | None
    privileges: Privileges
    triggers: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    lock_holder: str | None


@dataclass(frozen=True, slots=True)
class Replication:
    """The number of connected replicas, and the lag of the slowest in seconds; on a standby ``behind_s`` is the age of
    the last transaction that it has replayed. ``behind_s`` is ``None`` if the role may not see it."""

    in_recovery: bool
    replicas: int
    behind_s: float | None

    def __str__(self) -> str:
        if self.in_recovery:
            behind = "an unknown time" if self.behind_s is None else f"{self.behind_s:.0f} s"
            return f"in recovery, {behind} behind its primary"
        if not self.replicas:
            return "primary without replicas"
        replicas = "primary with 1 replica" if self.replicas == 1 else f"primary with {self.replicas} replicas"
        if self.behind_s is None:
            return f"{replicas}; their lag is unknown (without pg_read_all_stats a role may not see it)"
        return f"{replicas}, at most {self.behind_s:.1f} s behind"


@dataclass(frozen=True, slots=True)
class QuickHealth:
    """``estimated_rows`` comes from the server's own statistics."""

    server: ServerHealth
    estimated_rows: int
    replication: Replication


def health(address: TargetAddress, row_schema: RowSchema) -> TargetHealth:
    """Asks the server. Raises what `connected` raises, and `TableError` if the table is gone."""
    table = row_schema.table
    with connected(address, table.qualified_name) as connection:
        oid, holder = table_oid(connection, table), holder_of(connection, table)
        problem: ProductSyncError | None = None
        try:
            require_writable(connection, address, table)
        except ProductSyncError as error:
            problem = error
        return TargetHealth(
            server=_server(connection),
            problem=problem,
            privileges=_privileges(connection, row_schema, oid),
            triggers=tuple(name for (name,) in connection.execute(catalog_sql.USER_TRIGGERS, [oid])),
            foreign_keys=tuple(ForeignKey(*found) for found in connection.execute(catalog_sql.FOREIGN_KEYS, [oid])),
            lock_holder=None if holder is None else str(holder),
        )


def quick_health(address: TargetAddress, table: TargetTable, *, within_s: float) -> QuickHealth:
    """Asks the server with one connection and a few reads of the catalogue. Each step ends after ``within_s`` seconds.
    Needs no reflected table. Errors as of `health`."""
    with connected(address, table.qualified_name, connect_within_s=within_s) as connection:
        connection.execute(session_sql.limit_statements(within_s))
        server = _server(connection)
        [(rows,)] = connection.execute(catalog_sql.ESTIMATED_COUNT, [table_oid(connection, table)])
        [(replicas, behind_s)] = connection.execute(session_sql.REPLICATION)
        return QuickHealth(server, int(rows), Replication(server.in_recovery, replicas, behind_s))


def server_health(address: TargetAddress) -> ServerHealth:
    """Asks about the server only. Errors as of `connected`."""
    with connected(address, "the server") as connection:
        return _server(connection)


def _server(connection: psycopg.Connection) -> ServerHealth:
    started = time.perf_counter()
    [(version, in_recovery, role)] = connection.execute(session_sql.SERVER)
    latency_ms = (time.perf_counter() - started) * 1000
    return ServerHealth(version, latency_ms, role, in_recovery)


def _privileges(connection: psycopg.Connection, row_schema: RowSchema, oid: int) -> Privileges:
    # What is written is cast to an enum or citext by its full name.
    named = {column.type.scalar.own_name for column in row_schema.columns}
    schemas = sorted({row_schema.table.schema, *(each[0] for each in named if each is not None)})
    forbidden = tuple(str(name) for (name,) in connection.execute(catalog_sql.FORBIDDEN_SCHEMAS, [schemas]))
    usage = row_schema.table.schema not in forbidden
    granted = set(connection.execute(catalog_sql.COLUMN_RIGHTS, [oid]).fetchall())
    mapped = [column.name for column in row_schema.columns]
    written_at = row_schema.written_at
    inserted = [*mapped, *(column.name for column in written_at)]
    updated = [column.name for column in (*row_schema.compared, *written_at) if column.update]
    needed = {"SELECT": mapped, "INSERT": inserted, "UPDATE": updated}
    sequences = connection.execute(catalog_sql.FORBIDDEN_SEQUENCES, [oid, inserted]).fetchall()
    lacking = {right: [name for name in names if (name, right) not in granted] for right, names in needed.items()}
    return Privileges(
        select=usage and not lacking["SELECT"],
        insert=not forbidden and not lacking["INSERT"] and not sequences,
        update=not forbidden and not lacking["UPDATE"],
        delete=usage and ("", "DELETE") in granted,
        lacking=(
            *(f"USAGE on schema {name}" for name in forbidden),
            *(f"{right} on {', '.join(names)}" for right, names in lacking.items() if names),
            *(f"USAGE on sequence {schema}.{name}" for schema, name in sequences),
        ),
        sequences=tuple(sequences),
        schemas=forbidden,
    )
