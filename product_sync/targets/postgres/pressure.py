"""Measures how busy the target is, as far as the role may see it.

It uses its own connection: on the one that writes it would block the transactions and see only them. A sync must not
fail because the pressure could not be measured, so here an error of the driver becomes a part of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

import psycopg

from product_sync.errors import ProductSyncError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.ports import Signals
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.errors import describe

#: Round trips per measurement. The middle one counts, so that a pause of this process is not taken for a slow server.
_PINGS: Final = 3
#: Seconds that a statement may take, so that measuring does not add to the pressure.
_LIMIT_S: Final = 1.0
#: Seconds after which a connection that could not be opened is tried again.
_RETRY_AFTER_S: Final = 30.0
_NEEDS_STATS: Final = "(only a role with the rights of pg_read_all_stats sees them)"


@dataclass
class PostgresPressure:
    """`product_sync.schema.ports.PressureProbe` on PostgreSQL. ``clock`` counts seconds."""

    address: TargetAddress
    clock: Callable[[], float] = time.perf_counter
    _connection: psycopg.Connection | None = None
    _retry_at: float = 0.0
    _failure: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def measure(self) -> Signals:
        if self._connection is None and self.clock() < self._retry_at:
            return self._unseen()
        began = self.clock()
        try:
            return self._measure(self._open())
        except psycopg.errors.QueryCanceled:
            # It ran into our limit: that is a latency, and nothing else can be seen.
            return Signals(self.clock() - began, unseen=("lock waits, sessions and replicas: the server was too slow",))
        except ProductSyncError as error:
            self._failure = error.message
        except psycopg.Error as error:
            self._failure = describe(error)
        self.close()
        self._retry_at = self.clock() + _RETRY_AFTER_S
        return self._unseen()

    def _open(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = connect(self.address, application_name="product_sync pacing")
            self._connection.execute(session_sql.limit_statements(_LIMIT_S), prepare=False)
        return self._connection

    def _measure(self, connection: psycopg.Connection) -> Signals:
        latency_s = median(self._ping(connection) for _ in range(_PINGS))
        [(waits, active, lag_s)] = connection.execute(session_sql.PRESSURE)
        unseen = () if active is not None else (f"active sessions and replica lag {_NEEDS_STATS}",)
        return Signals(latency_s, waits, active, lag_s, unseen)

    def _ping(self, connection: psycopg.Connection) -> float:
        began = self.clock()
        connection.execute(session_sql.PING)
        return self.clock() - began

    def _unseen(self) -> Signals:
        return Signals(unseen=(f"anything of the target: {self._failure.rstrip('.')}",))
