"""Measures runs with shards: as a command in one process, and step by step in processes of their own."""

from __future__ import annotations

import shutil
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from product_sync.embedded.servers import Servers
from product_sync.settings import STATE, RunOptions
from product_sync_bench import catalogue as catalogues
from product_sync_bench import contestants, databases
from product_sync_bench.catalogue import COLLECTION, Catalogue
from product_sync_bench.contestants import Place
from product_sync_bench.databases import EMPTY, Target
from product_sync_bench.measuring import Cost, measure
from product_sync_bench.shards.results import CHANGED, INITIAL, SCENARIOS, UNCHANGED, Phase, Run, Step
from product_sync_bench.shards.steps import execute, workers
from product_sync_tests.object_store import BUCKET, S3Server

Tell = Callable[[str], None]
Keep = Callable[[Run], None]

#: Larger catalogues consist of copies of this one, because making ten million one by one takes ten minutes.
COPIED: Final = 1_000_000
_BATCH: Final = 10_000
_ID: Final = struct.Struct(">III")
#: Where the twelve bytes of an ObjectId are in a document that begins with it.
_ID_AT: Final = slice(9, 21)
_LIMIT_S: Final = 3_600.0
_OPTIONS: Final = {"batch_size": 10_000, "batch_delay_ms": 0, "accept_changes": True}
#: Between the scenarios: the target as autovacuum leaves it, and a hundredth of its rows with another price.
_BEFORE: Final[dict[str, tuple[LiteralString, ...]]] = {
    INITIAL: (),
    UNCHANGED: ("VACUUM (ANALYZE) product", "CHECKPOINT"),
    CHANGED: ("UPDATE product SET price = price + 100 WHERE hashtext(id) % 100 = 0", "CHECKPOINT"),
}


@dataclass(frozen=True, slots=True)
class Heat:
    """A way to run all scenarios: ``workers`` and ``in_store`` as in `Run`."""

    workers: int
    shards: int
    in_store: bool


def heats(products: int) -> tuple[list[Heat], tuple[str, ...]]:
    """What is measured with so many products. The smallest catalogue is there for the model."""
    by_steps = [Heat(1, 8, in_store=False), Heat(1, 2, in_store=True), Heat(1, 8, in_store=True)]
    if products < COPIED:
        return [Heat(0, 1, in_store=False), *by_steps], SCENARIOS
    if products == COPIED:
        command = [Heat(0, shards, in_store=False) for shards in (1, 2, 4, 8)]
        return [*command, *by_steps, Heat(2, 8, in_store=True)], SCENARIOS
    return [Heat(0, 1, in_store=False), Heat(1, 8, in_store=True)], (INITIAL, UNCHANGED)


@dataclass(slots=True)
class _Counters:
    """What the servers have done since they started."""

    mongodb_s: float = 0.0
    postgres_s: float = 0.0
    store_s: float = 0.0
    source_bytes: int = 0
    log_bytes: int = 0
    up: int = 0
    down: int = 0

    def since(self, before: _Counters) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) - getattr(before, each.name) for each in fields(self)}


@dataclass
class Bench:
    """One catalogue on the embedded servers, and an S3 server for the state."""

    servers: Servers
    store: S3Server
    folder: Path
    products: int
    tell: Tell
    _target: Target = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._target = Target(self.servers, Catalogue(self.products))

    def close(self) -> None:
        self._target.close()

    def measure(self, heat: Heat, scenarios: tuple[str, ...], keep: Keep) -> None:
        """All scenarios, one after the other on the same target."""
        own = self.folder / "run"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        place = Place(self.source_url, self._target.url, own, own, own)
        state = f"s3://{BUCKET}/{uuid.uuid4().hex}" if heat.in_store else str(own / "state")
        env = place.environment() | self.store.env | {STATE: state}
        del env["DAGSTER_HOME"]
        self._target.make_empty_template()
        self._target.begin(EMPTY, "", logged=False)
        with workers(heat.workers, env) if heat.workers else nullcontext() as pool:
            for scenario in scenarios:
                with psycopg.connect(self._target.url, autocommit=True) as connection:
                    for statement in _BEFORE[scenario]:
                        connection.execute(statement)
                run = self._by_steps(heat, scenario, pool) if pool else self._as_command(heat, scenario, env)
                self.tell(
                    f"{self.products:>10,}  {heat.shards} shards, {heat.workers} workers"
                    f"{', store' if heat.in_store else '':7}  {scenario:15}  {run.wall_s:7.2f} s"
                    f"  {run.cpu_s:7.2f} s CPU  {run.peak_bytes / 1e6:5.0f} MB"
                )
                keep(run)
        shutil.rmtree(own, ignore_errors=True)

    def _as_command(self, heat: Heat, scenario: str, env: dict[str, str]) -> Run:
        options = ("--accept-changes", "--batch-size", "10000", "--delay-ms", "0", "--shards", str(heat.shards))
        command = [contestants.script("product-sync"), "sync", *options, "--json"]
        folder = Path(env["HOME"])
        before = self._counters()
        cost = measure(command, env=env, folder=folder, log=folder / "log", limit_s=_LIMIT_S)
        if cost.status:
            raise RuntimeError((folder / "log").read_text(errors="replace")[-2_000:])
        return self._run(heat, scenario, cost, self._counters().since(before), [])

    def _by_steps(self, heat: Heat, scenario: str, pool: Pool) -> Run:
        phases: list[Phase] = []
        began = self._counters()

        @contextmanager
        def around(name: str, steps: list[Step]) -> Iterator[None]:
            before, at = self._counters(), time.perf_counter()
            yield
            wall_s, felt = time.perf_counter() - at, self._counters().since(before)
            servers = {name: felt[name] for name in ("mongodb_s", "postgres_s", "store_s", "up", "down")}
            phases.append(Phase(name, steps, wall_s, **servers))

        options = RunOptions.resolve({}, {**_OPTIONS, "shards": heat.shards})
        execute(pool, options, str(uuid.uuid4()), around)
        steps = [step for phase in phases for step in phase.steps]
        wall_s, cpu_s = sum(phase.wall_s for phase in phases), sum(step.cpu_s for step in steps)
        cost = Cost(wall_s, cpu_s, max(step.peak_bytes for step in steps), 0)
        return self._run(heat, scenario, cost, self._counters().since(began), phases)

    def _run(self, heat: Heat, scenario: str, cost: Cost, felt: dict[str, Any], phases: list[Phase]) -> Run:
        seen = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_bytes": cost.peak_bytes, **felt, "phases": phases}
        return Run(scenario, self.products, heat.shards, heat.workers, heat.in_store, **seen)

    def _counters(self) -> _Counters:
        with MongoClient[dict[str, Any]](self.servers.mongodb_url) as client:
            status = client.admin.command("serverStatus")
        return _Counters(
            _cpu_s(psutil.Process(int(status["pid"]))),
            _cpu_s(psutil.Process(self._target.server_pid)),
            _cpu_s(psutil.Process(self.store.pid)),
            int(status["network"]["bytesOut"]),
            self._target.log_position(),
            *self.store.traffic(),
        )

    @property
    def source_url(self) -> str:
        """The database of the catalogue, or of the copies."""
        if self.products <= COPIED:
            return databases.source_url(self.servers, Catalogue(self.products))
        return urlunsplit(urlsplit(self.servers.mongodb_url)._replace(path=f"/bench_copies_{self.products}"))

    def prepare(self) -> None:
        """Make the catalogue unless it is there: a minute for each million up to `COPIED`, then ten seconds."""
        original = Catalogue(min(self.products, COPIED))
        url = databases.source_url(self.servers, original)
        if catalogues.ensure(url, original):
            self.tell(f"made a catalogue of {original.count:,} products")
        if self.products <= COPIED:
            return
        with MongoClient[RawBSONDocument](url, document_class=RawBSONDocument) as client:
            source = client.get_default_database()[COLLECTION]
            copies = client[urlsplit(self.source_url).path[1:]]
            if copies["complete"].find_one() is None:
                client.drop_database(copies)
                for number in range(self.products // COPIED):
                    _copy(source, copies[COLLECTION], number)
                copies["complete"].insert_one({})  # type: ignore[arg-type]
                self.tell(f"made {self.products:,} products from these")


def _copy(source: Collection[RawBSONDocument], target: Collection[RawBSONDocument], number: int) -> None:
    """The same products with later ids."""
    batch: list[RawBSONDocument] = []
    for document in source.find().sort("_id", 1).batch_size(_BATCH):
        raw = bytearray(document.raw)
        seconds, dice, count = _ID.unpack(raw[_ID_AT])
        raw[_ID_AT] = _ID.pack(seconds + 30 * COPIED * number, dice, count + COPIED * number)
        batch.append(RawBSONDocument(bytes(raw)))
        if len(batch) == _BATCH:
            target.insert_many(batch, ordered=True)
            batch.clear()
    if batch:
        target.insert_many(batch, ordered=True)


def _cpu_s(server: psutil.Process) -> float:
    """Processor time of a server and of all processes that it has had."""
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue  # it counts among the children of its parent
    return total
