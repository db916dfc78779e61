"""What is measured, in which order: the client on the idle target, then while a load of each pace runs; and a load
while the target is put under pressure from elsewhere.

The target begins with every second product; the load brings the others. Each run has a fresh target and its own idle
time just before it, so that a machine that becomes slower for a while does so on both sides of the comparison.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, LiteralString

import psycopg

from product_sync.embedded.servers import Servers
from product_sync_bench import catalogue as catalogues
from product_sync_bench import databases
from product_sync_bench.catalogue import Catalogue
from product_sync_bench.databases import EMPTY, Target
from product_sync_bench.latency import client, loading
from product_sync_bench.latency.results import ADAPTIVE, DEFAULT, UNPACED, Phase, PressureRun, Round, felt

#: What `product_sync.sync` is told.
PACES: Final[dict[str, dict[str, object]]] = {
    DEFAULT: {"pacing": "fixed", "batch_size": 100, "batch_delay_ms": 100},
    ADAPTIVE: {"pacing": "adaptive", "batch_size": 100},
    UNPACED: {"pacing": "fixed", "batch_size": 10_000, "batch_delay_ms": 0},
}
#: Operations of the client a second, half of them reads, half cart inserts.
RATE: Final = 200.0
IDLE_S: Final = 20.0
_SETTLE_S: Final = 2.0
#: The pressure begins when so much of the load is done, and lasts so many seconds.
_PRESSURE_FROM: Final = 0.2
PRESSURE_S: Final = 10.0
CROWD: Final = 12
#: Variables that would let the machine's own configuration in.
_OURS: Final = ("PRODUCT_", "CART_", "MONGO_", "SYNC_", "DAGSTER_", "PG")

# copy_products: every second one of the catalogue.
_COPY: LiteralString = 'COPY product (id, title, price, image, "sellerId", quantity) FROM STDIN'

# crowd: a report that somebody runs over all products, on the processor and not on the disk.
_REPORT: LiteralString = "SELECT sum(length(md5(id || g::text))) FROM product, generate_series(1, 20) AS g"

# queue: two who want to change the same price.
_HOLD: LiteralString = "UPDATE product SET price = price WHERE id = (SELECT min(id) FROM product)"


class Measurement:
    """All runs on one catalogue of twice ``rows`` products."""

    def __init__(self, servers: Servers, rows: int, tell: Callable[[str], None]) -> None:
        self._servers = servers
        self._rows = rows
        self._tell = tell
        self._catalogue = Catalogue(2 * rows)
        self._source_url = databases.source_url(servers, self._catalogue)
        self._target = Target(servers, self._catalogue)

    def prepare(self) -> None:
        self._tell(f"The source: {self._catalogue.count:,} products.")
        catalogues.ensure(self._source_url, self._catalogue)
        self._target.make_empty_template()

    def round(self, number: int) -> list[Round]:
        """The client with each pace once; each round begins with another one."""
        names = list(PACES)
        turn = number % len(names)
        return [self._paced(name) for name in names[turn:] + names[:turn]]

    def pressure(self) -> PressureRun:
        """An adaptive load that is put under pressure on its way."""
        self._begin()
        with TemporaryDirectory() as folder, _Pressure(self._target.url) as pressure:

            def on_step(load: loading.Load) -> None:
                if load.rows >= _PRESSURE_FROM * self._rows:
                    pressure.apply(PRESSURE_S)

            load = loading.run(self._environment(Path(folder)), PACES[ADAPTIVE], on_step)
        begin, end = pressure.began, pressure.ended
        calm = next((at for at, text in load.said if at > end and "calm again" in text), load.ended)
        moments = {
            "before": (load.began, begin),
            "under pressure": (begin, end),
            "until it was calm again": (end, calm),
            "after": (calm, load.ended),
        }
        phases = [
            Phase(name, until - since, load.rows_per_second(since, until))
            for name, (since, until) in moments.items()
            if since < until <= load.ended
        ]
        self._tell("Pressure: " + ", ".join(f"{phase.name} {phase.rows_per_second:,.0f} rows/s" for phase in phases))
        return PressureRun(phases, [(at - begin, text) for at, text in load.said])

    def close(self) -> None:
        self._target.close()

    def _paced(self, name: str) -> Round:
        self._begin()
        with TemporaryDirectory() as folder:
            samples = Path(folder) / "samples"
            with client.shopping(self._target.url, RATE, samples):
                time.sleep(_SETTLE_S)
                idle_from = time.monotonic()
                time.sleep(IDLE_S)
                idle_to = time.monotonic()
                load = loading.run(self._environment(Path(folder)), PACES[name])
            found = client.read(samples)
        if load.rows != self._rows:
            raise RuntimeError(f"The load had {load.rows} rows instead of {self._rows}.")
        result = Round(name, load.seconds, felt(found, idle_from, idle_to), felt(found, load.began, load.ended))
        self._tell(str(result))
        return result

    def _begin(self) -> None:
        self._target.begin(EMPTY, "", logged=False)
        with psycopg.connect(self._target.url, autocommit=True) as connection:
            with connection.cursor().copy(_COPY) as copy:
                for number in range(0, self._catalogue.count, 2):
                    copy.write_row(self._catalogue.row(number))
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def _environment(self, folder: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return inherited | {
            "PRODUCT_SERVICE_MONGODB_URL": self._source_url,
            "CART_DB_URL": self._target.url,
            "PRODUCT_SYNC_STATE": str(folder / "state"),
        }


class _Pressure:
    """Others on the target: a crowd with a costly report, and a queue for one row. Applied once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self.began = self.ended = 0.0

    def __enter__(self) -> _Pressure:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def apply(self, seconds: float) -> None:
        if self._threads:
            return
        self.began = time.monotonic()
        jobs = [self._report] * CROWD + [self._queue, lambda: self._time_out(seconds)]
        self._threads = [threading.Thread(target=job) for job in jobs]
        for thread in self._threads:
            thread.start()

    def _time_out(self, seconds: float) -> None:
        self._end.wait(seconds)
        self.ended = time.monotonic()
        self._end.set()

    def _report(self) -> None:
        with self._cancelled_at_the_end() as connection:
            while not self._end.is_set():
                connection.execute(_REPORT)

    def _queue(self) -> None:
        with psycopg.connect(self._url) as first, self._cancelled_at_the_end() as second:
            first.execute(_HOLD)
            second.execute(_HOLD)

    @contextmanager
    def _cancelled_at_the_end(self) -> Iterator[psycopg.Connection]:
        with ExitStack() as stack:
            connection = stack.enter_context(psycopg.connect(self._url, autocommit=True))

            def cancel() -> None:
                self._end.wait()
                connection.cancel_safe()

            watch = threading.Thread(target=cancel)
            watch.start()
            stack.callback(watch.join)
            with suppress(psycopg.errors.QueryCanceled):
                yield connection
