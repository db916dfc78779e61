"""Checks the target table: before anything is read or written that a sync can write to it, later that it is unchanged.

The writer, the start of a run and `doctor` use the same function, so that `doctor` never passes what a sync refuses.
"""

from __future__ import annotations

from typing import Final

import psycopg

from product_sync.errors import AccessDenied, EveryBatchWouldFail, ReadOnlyTarget, TableError, TransactionPooling
from product_sync.runtime import hints
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import catalog_sql, session_sql
from product_sync.targets.postgres.errors import START_AGAIN
from product_sync.targets.postgres.lock import pools_transactions

_SETTING: Final = "default_transaction_read_only"


def table_oid(connection: psycopg.Connection, table: TargetTable) -> int:
    """The table's OID, or `TableError` if the table does not exist."""
    row = connection.execute(catalog_sql.RELATION, [table.schema, table.name]).fetchone()
    if row is None:
        raise TableError(f"Table {table.qualified_name} does not exist any more.", hint="Was it renamed?")
    return int(row[0])


def require_writable(connection: psycopg.Connection, address: TargetAddress, table: TargetTable) -> None:
    """Raises an error if no sync could write to ``table``.

    `ReadOnlyTarget` on a standby, or if the role or the database is set read-only; `TransactionPooling` and
    `TooFewConnections` for the sessions behind ``address``; `AccessDenied` under row-level security; `TableError` for
    rules; and driver errors. Privileges are not checked: which ones are needed depends on the differences.
    """
    oid = table_oid(connection, table)
    _refuse_read_only(connection, address, table)
    if pools_transactions(connection, address):
        raise TransactionPooling(
            f"{table.qualified_name} is reached through a transaction pooler, which would break the sync's lock.",
            hint=f"Let {address.variable} name the server itself, or a pool in session mode.",
        )
    _refuse_row_security(connection, oid, table)
    _refuse_rules(connection, oid, table)


def refuse_heirs(connection: psycopg.Connection, oid: int, name: str) -> None:
    """Raises `TableError` if other tables inherit from the table, or if a partition is a foreign table. Reading a table
    also reads the rows of tables that inherit from it, and its primary key does not cover them."""
    heirs = connection.execute(catalog_sql.HEIRS, [oid]).fetchall()
    if children := [str(heir) for heir, is_partition in heirs if not is_partition]:
        raise TableError(
            f"Other tables inherit from {name}: {', '.join(children)}. Their rows would be read as its own, and its"
            " primary key does not hold for them.",
            hint="End the inheritance, make them partitions, or let `target` of the mapping file name another table.",
        )
    if heirs:
        foreign = ", ".join(str(heir) for heir, _ in heirs)
        raise TableError(
            f"{name} has partitions that are foreign tables: {foreign}. INSERT … ON CONFLICT does not work on them.",
            hint="Move their rows into partitions of this server, or let `target` name another table.",
        )


def _refuse_read_only(connection: psycopg.Connection, address: TargetAddress, table: TargetTable) -> None:
    [(in_recovery, is_on, source, database)] = connection.execute(session_sql.READ_ONLY)
    if in_recovery:
        raise ReadOnlyTarget(
            f"The server of {table.qualified_name} is in recovery: a standby cannot be written to.",
            hint=f"Promote it, or let {address.variable} name the primary: with several hosts and"
            " target_session_attrs=read-write the driver finds it.",
        )
    if is_on:
        raise ReadOnlyTarget(
            f"Transactions of {connection.info.user!r} in the database {database!r} are read-only"
            f" ({_SETTING} = on, set by: {source}).",
            hint=_end_of_read_only(source, connection.info.user, str(database)),
        )


def _end_of_read_only(source: str, role: str, database: str) -> str:
    owners: dict[str, tuple[str, list[str]]] = {
        "user": ("ROLE {}", [role]),
        "database": ("DATABASE {}", [database]),
        "database user": ("ROLE {} IN DATABASE {}", [role, database]),
    }
    if source not in owners:
        return f"Use a role that may write, or turn {_SETTING} off. Some services set it on a full disk."
    owner, names = owners[source]
    # READ WRITE: the session that executes it may be read-only too.
    return hints.sql(f"BEGIN READ WRITE; ALTER {owner} RESET {_SETTING}; COMMIT", *names)


def _refuse_row_security(connection: psycopg.Connection, oid: int, table: TargetTable) -> None:
    """Rows that it hides would count as missing."""
    if connection.execute(catalog_sql.ROW_SECURITY, [oid]).fetchone() == (True,):
        raise AccessDenied(
            f"Row-level security is active on {table.qualified_name} for this role, so it may not see all rows.",
            hint="Use a role with BYPASSRLS, or the owner of the table without FORCE ROW LEVEL SECURITY.",
        )


def _refuse_rules(connection: psycopg.Connection, oid: int, table: TargetTable) -> None:
    if rules := [str(name) for (name,) in connection.execute(catalog_sql.RULES, [oid])]:
        raise TableError(
            f"{table.qualified_name} has rules that change what INSERT, UPDATE or DELETE do: {', '.join(rules)}."
            " PostgreSQL refuses INSERT … ON CONFLICT there.",
            hint="Let triggers do what the rules do, or let `target` of the mapping file name another table.",
        )


def require_unchanged(connection: psycopg.Connection, row_schema: RowSchema) -> None:
    """Raises `EveryBatchWouldFail` if a mapped column has another type now or is gone, and driver errors.

    PostgreSQL rounds an integer that it is sent for a column that has become real, and binary COPY takes its four bytes
    for those of a float. Neither is an error to the server, so it has to be asked. After a transaction has written to
    the table, the table is locked against such changes until the transaction ends.
    """
    if changes := changed(connection, row_schema):
        raise EveryBatchWouldFail(changes, hint=START_AGAIN)


def changed(connection: psycopg.Connection, row_schema: RowSchema) -> str:
    """A sentence about the mapped columns that have changed; empty if none has, or if the whole table is gone."""
    mapped = {column.name for column in (*row_schema.columns, *row_schema.written_at)}
    reflected = {
        column.name: column.declared.replace('"', "") for column in row_schema.table.columns if column.name in mapped
    }
    rows = connection.execute(catalog_sql.TYPES_NOW, [row_schema.table.schema, row_schema.table.name]).fetchall()
    now: dict[str, str] = dict(rows)
    changes = [
        f"{name} is {now[name]} now and was {declared}" if name in now else f"{name} is gone"
        for name, declared in reflected.items()
        if now.get(name) != declared
    ]
    if not now or not changes:
        return ""
    return f"{row_schema.table.qualified_name} was changed during the run: {', '.join(changes)}."
