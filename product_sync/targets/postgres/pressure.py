"""What else the target has to bear, as far as the role may see it.

On a connection of its own: on the one that writes it would be in the way of the transactions, and see only them. A
sync must not fail because nobody could look, so here, and only here, an error of the driver becomes an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Final, Self

import psycopg

from product_sync.errors import ProductSyncError
from product_sync.schema.ports import Signals
from product_sync.targets.postgres import session_sql
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.errors import describe

#: Round trips of which the middle one counts: a pause of this process is not one of the server.
_PINGS: Final = 3
#: Seconds that a look may take at most, so that it does not add to the pressure.
_LIMIT_S: Final = 1.0
#: Seconds after which a connection that could not be opened is tried again.
_AGAIN_S: Final = 30.0
_NEEDS_STATS: Final = "(only a role with the rights of pg_read_all_stats sees them)"


class PostgresPressure:
    """`product_sync.schema.ports.PressureProbe` on PostgreSQL. ``clock`` counts seconds."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._url = url
        self._clock = clock
        self._connection: psycopg.Connection | None = None
        self._blind_until = 0.0
        self._blind_because = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def look(self) -> Signals:
        if self._connection is None and self._clock() < self._blind_until:
            return _blind(self._blind_because)
        began = self._clock()
        try:
            return self._look(self._open())
        except psycopg.errors.QueryCanceled:
            # It ran into our limit: that is a latency, and all there is to see.
            return Signals(self._clock() - began, unseen=("lock waits, sessions and replicas: the look took too long",))
        except ProductSyncError as error:
            return self._give_up(error.message)
        except psycopg.Error as error:
            return self._give_up(describe(error))

    def _open(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = connect(self._url, application_name="product_sync pacing")
            self._connection.execute(session_sql.limit_statements(_LIMIT_S), prepare=False)
        return self._connection

    def _look(self, connection: psycopg.Connection) -> Signals:
        latency_s = median(self._ping(connection) for _ in range(_PINGS))
        waits, active, lag_s = connection.execute(session_sql.PRESSURE).fetchone() or (None, None, None)
        unseen = () if active is not None else (f"active sessions and replica lag {_NEEDS_STATS}",)
        return Signals(latency_s, waits, active, lag_s, unseen)

    def _ping(self, connection: psycopg.Connection) -> float:
        began = self._clock()
        connection.execute(session_sql.PING)
        return self._clock() - began

    def _give_up(self, because: str) -> Signals:
        self.close()
        self._blind_until = self._clock() + _AGAIN_S
        self._blind_because = because
        return _blind(because)


def _blind(because: str) -> Signals:
    return Signals(unseen=(f"anything of the target: {because.rstrip('.')}",))
