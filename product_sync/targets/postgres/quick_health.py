"""A look at the target that costs next to nothing: one connection, a few catalogue reads, short limits.

Unlike `inspect` it needs no reflected table, so it can be taken every few minutes, beside a load that is running.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg

from product_sync.schema.records import TargetTable
from product_sync.targets.postgres import catalog_sql, session_sql
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.errors import read_error
from product_sync.targets.postgres.health import ServerHealth, server_of
from product_sync.targets.postgres.requirements import table_oid


@dataclass(frozen=True, slots=True)
class Replication:
    """``replicas`` are connected to this server. ``behind_s`` is how far the slowest of them is, in seconds, or, on a
    server in recovery, how old the last transaction is that it has replayed; ``None`` where that cannot be seen."""

    in_recovery: bool
    replicas: int
    behind_s: float | None

    def __str__(self) -> str:
        if self.in_recovery:
            behind = "how far is not known" if self.behind_s is None else f"{self.behind_s:.0f} s"
            return f"in recovery, behind its primary: {behind}"
        if not self.replicas:
            return "primary without replicas"
        said = "primary with 1 replica" if self.replicas == 1 else f"primary with {self.replicas} replicas"
        if self.behind_s is None:
            return f"{said}; how far behind is not known (without pg_read_all_stats a role may not see it)"
        return f"{said}, at most {self.behind_s:.1f} s behind"


@dataclass(frozen=True, slots=True)
class QuickHealth:
    """``estimated_rows`` is what the server's own statistics say."""

    server: ServerHealth
    estimated_rows: int
    replication: Replication


def look(
    url: str, table: TargetTable, *, within_s: float, clock: Callable[[], float] = time.perf_counter
) -> QuickHealth:
    """Ask the server; each step ends after ``within_s`` seconds where the server or the network answers at all.

    Errors as `connect`; `TableError` if the table is not there.
    """
    with closing(connect(url, connect_within_s=within_s)) as connection:
        try:
            connection.execute(session_sql.limit_statements(within_s))
            server = server_of(connection, clock)
            row = connection.execute(catalog_sql.ESTIMATED_COUNT, [table_oid(connection, table)]).fetchone()
            replicas, behind_s = connection.execute(session_sql.REPLICATION).fetchone() or (0, None)
            return QuickHealth(server, int(row[0]) if row else 0, Replication(server.in_recovery, replicas, behind_s))
        except psycopg.Error as error:
            raise read_error(error, table=table.qualified_name, broken=connection.closed) from error
