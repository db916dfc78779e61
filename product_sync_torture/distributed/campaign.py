"""One round: planted drift, a run in shards of which one process is killed, the next run, and the verdict.

The machines of a run share nothing but its databases, the object store and the broker (`product_sync_tests.machines`).
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil
import psycopg
from pymongo import MongoClient

from product_sync.embedded.servers import Servers
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.names import PROCESS_TAG, PRODUCT
from product_sync.orchestration.run_history import read_events
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_tests.deploy import ROOT
from product_sync_tests.machines import Fleet, instance_config, kill_with_children
from product_sync_tests.object_store import S3Server
from product_sync_tests.workers import CeleryWorker, celery_config
from product_sync_torture.distributed.judge import Evidence, Row, RunRecord, Write, violations

SHARDS: Final = 8
_PRODUCTS, _MISSING, _CHANGED = 400, 80, 60
#: Seconds after which Redis gives the task of a lost worker to another one. A step takes less.
_VISIBILITY_S: Final = 30
_RUN_S: Final = 1_200.0
_POLL_S: Final = 0.02
#: A run is refused while a step of a dead run still holds the lock.
_NEXT_RUNS: Final = 3
#: The steps of a phase, by the beginning of their key.
PHASES: Final = {
    "read": "product_snapshots.read[",
    "gather": "product_snapshots.gather",
    "load": "product_load.load[",
    "verify": "product_load.verify[",
}
_AUDIT: Final = """
CREATE TABLE audit (id text NOT NULL, writer text NOT NULL DEFAULT current_setting('application_name'),
                    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (id) VALUES (coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON product FOR EACH ROW EXECUTE FUNCTION audit();
"""
#: The process of the session that waits for the locked row: a session is called ``product_sync RUN HOST:PID``.
_HALTED: Final = """
SELECT split_part(application_name, ':', 2)::int FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name LIKE 'product_sync%'
"""
_STARTS: Final = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed, and in which phases of one run. ``Terminate`` asks the run to end, as the UI does."""

    executor: str
    victim: str
    phases: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.executor}: {self.victim}, {', '.join(self.phases)}"


#: A run goes on without one of these, so it loses one in each phase.
_SURVIVED: Final = {"celery": ("process of a step", "machine of a worker"), "multiprocess": ("process of a step",)}
KILLS: Final = [
    *(Kill(executor, victim, tuple(PHASES)) for executor, victims in _SURVIVED.items() for victim in victims),
    *(
        Kill(executor, victim, (phase,))
        for executor in _SURVIVED
        for victim in ("process of the run", "Terminate")
        for phase in PHASES
    ),
]


@dataclass
class Round:
    """``ending`` is how the first run ended; ``again`` counts the attempts of steps beyond the first. A kill has
    ``missed`` if its step had ended just before."""

    kill: str
    seed: int
    ending: str = ""
    again: int = 0
    missed: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


@dataclass
class Stage:
    """Databases, a bucket, a history and workers, for all rounds with one executor."""

    executor: str
    mongodb_url: str
    cart_url: str
    fleet: Fleet
    next_fleets: list[Fleet]
    instance: dg.DagsterInstance
    workers: list[CeleryWorker]
    start_worker: Callable[[], None]

    def play(self, kill: Kill, seed: int) -> Round:
        played, began = Round(kill.name, seed), time.monotonic()
        chance = random.Random(f"{kill.name} {seed}")  # noqa: S311 - it has to be repeatable
        wanted, missing = self._plant(chance)
        known, ended_at, hit = self.instance.get_runs_count(), None, list[str]()
        with ExitStack() as lock:
            if "load" in kill.phases:
                lock.enter_context(self._row_locked(chance.choice(missing)))
            process = self.fleet.execute(PRODUCT.sync_job)
            try:
                for phase in kill.phases:
                    step, victim = self._step_begun(phase, process, known)
                    time.sleep(chance.random() * 0.05)
                    if phase == "load":
                        _wait(lambda: self._sql(_HALTED))
                        [(victim,)] = self._sql(_HALTED)
                    else:
                        hit.append(step)
                    ended_at = self._inject(kill, process, victim)
                    if phase == "load":
                        lock.close()
            except BaseException:
                kill_with_children(process.pid)
                raise
        try:
            process.communicate(timeout=_RUN_S)
        except subprocess.TimeoutExpired:
            kill_with_children(process.pid)
            played.violations.append("the run did not end")
        first = self._newest()
        starts, successes = self._steps(first, _STARTS), self._steps(first, {dg.DagsterEventType.STEP_SUCCESS})
        played.ending = "recovered" if first.is_success else first.status.value.lower()
        played.again = len(starts) - len(set(starts))
        played.missed = sum(ended_at is None and starts.count(step) == 1 and step in successes for step in hit)
        for _ in range(_NEXT_RUNS):
            following = chance.choice(self.next_fleets).execute(PRODUCT.sync_job)
            said, _ = following.communicate(timeout=_RUN_S)
            if following.returncode == 0:
                break
        else:
            played.violations.append(said[-2_000:])
        rows = {row[0]: row for row in self._sql("SELECT * FROM product")}
        writes = [Write(key, writer.split()[1], at) for key, writer, at in self._sql("SELECT * FROM audit")]
        runs = [self._record(first), self._record(self._newest())]
        played.violations += violations(Evidence(wanted, rows, writes, runs, ended_at))
        played.seconds = time.monotonic() - began
        return played

    def _plant(self, chance: random.Random) -> tuple[dict[str, Row], list[str]]:
        """Fill both sides. Returns the rows as they are to be, and the ids of those that are missing."""
        ids = [f"p{number:04}" for number in range(_PRODUCTS)]
        missing = chance.sample(ids, _MISSING)
        changed = set(chance.sample(sorted({*ids} - {*missing}), _CHANGED))
        source = {key: (key, f"{key} new", 200, "i.jpg", "s1", 2) for key in ids}
        before = [(key, f"{key} old", 100, "i.jpg", "s1", 1) if key in changed else row for key, row in source.items()]
        names = ("_id", "title", "price", "image", "sellerId", "quantity")
        with MongoClient[dict[str, object]](self.mongodb_url) as client:
            products = client.get_default_database()["products"]
            products.delete_many({})
            products.insert_many([dict(zip(names, row, strict=True)) for row in source.values()])
        with psycopg.connect(self.cart_url) as connection:
            connection.execute("TRUNCATE product")
            rows = [row for row in before if row[0] not in missing]
            connection.cursor().executemany("INSERT INTO product VALUES (%s, %s, %s, %s, %s, %s)", rows)
            connection.execute("TRUNCATE audit")
        return source, missing

    @contextmanager
    def _row_locked(self, key: str) -> Iterator[None]:
        """The load of a missing product waits in its transaction for another client, which gives up."""
        with psycopg.connect(self.cart_url) as connection:
            connection.execute("INSERT INTO product VALUES (%s, 't', 1, 'i', 's', 1)", [key])
            yield
            connection.rollback()

    def _step_begun(self, phase: str, process: subprocess.Popen[str], known: int) -> tuple[str, int]:
        """A step of this phase that has just begun, and its process. There were ``known`` runs before."""
        found = list[tuple[str, int]]()

        def begun() -> bool:
            if process.poll() is not None:
                raise AssertionError(process.communicate()[0][-3_000:])
            if self.instance.get_runs_count() > known:
                events = self.instance.all_logs(self._newest().run_id, of_type=dg.DagsterEventType.STEP_START)
                steps = [(str(each.step_key), each.pid) for entry in events if (each := entry.dagster_event)]
                found[:] = [(key, pid) for key, pid in steps if pid and key.startswith(PHASES[phase])]
            return bool(found)

        _wait(begun)
        return found[-1]

    def _inject(self, kill: Kill, process: subprocess.Popen[str], step: int) -> datetime | None:
        """Kill. Returns when the run was recorded as ended, if it was ended by force."""
        run = self._newest()
        if kill.victim == "process of a step":
            _kill(step)
            return None
        if kill.victim == "machine of a worker":
            worker = next((worker for worker in self.workers if _belongs_to(step, worker)), self.workers[-1])
            worker.kill()
            self.workers.remove(worker)
            self.start_worker()
            return None
        if kill.victim == "Terminate":
            self.instance.report_run_canceling(run)
            process.send_signal(signal.SIGTERM)
        else:
            _kill(int(run.tags[PROCESS_TAG].partition("@")[0]))
            _wait(lambda: reap_dead_runs(self.instance, PRODUCT, lock_is_free=lambda: False))
        return datetime.now(UTC)

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cart_url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def _newest(self) -> dg.DagsterRun:
        [run] = self.instance.get_runs(limit=1)
        return run

    def _steps(self, run: dg.DagsterRun, kinds: set[dg.DagsterEventType]) -> list[str]:
        """The keys of the steps with an event of these kinds, once for each event."""
        events = self.instance.all_logs(run.run_id, of_type=kinds)
        return [str(entry.dagster_event.step_key) for entry in events if entry.dagster_event]

    def _record(self, run: dg.DagsterRun) -> RunRecord:
        events = read_events(self.instance, run.run_id, PRODUCT.recorded)
        counts = (
            {
                name: int(value)
                for name, value in events.values({dg.AssetKey(PRODUCT.load)}).items()
                if name in ("inserted", "updated", "deleted", "conflicts")
            }
            if run.is_success
            else {}
        )
        return RunRecord(run.run_id[:8], run.is_success, counts)


@contextmanager
def stage(servers: Servers, store: S3Server, redis_url: str, executor: str, folder: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        mongodb_url = stack.enter_context(mongodb_database(servers))
        cart_url = stack.enter_context(cart_database(servers))
        history_url = stack.enter_context(cart_database(servers))
        create_product_table(cart_url)
        with psycopg.connect(cart_url) as connection:
            connection.execute(_AUDIT)
        store.files().mkdir(executor)
        (folder / "dagster.yaml").write_text(instance_config(history_url))
        known = {
            "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
            "CART_DB_URL": cart_url,
            "PRODUCT_SYNC_STATE": f"s3://{executor}/state",
            **store.env,
            "SYNC_BATCH_DELAY_MS": "0",
            "PYTHONPATH": str(ROOT),
        }
        distributed = {"SYNC_EXECUTOR": executor, "SYNC_EXECUTOR_CONFIG": "executor.yaml", "SYNC_SHARDS": str(SHARDS)}
        config = {
            "multiprocess": {
                "max_concurrent": 2,
                "start_method": {"forkserver": {"preload_modules": ["product_sync.definitions"]}},
            }
        }
        if executor == "celery":
            config = celery_config(redis_url, visibility_s=_VISIBILITY_S)
        fleet, started, workers = Fleet({**known, **distributed}, history_url, config), count(), list[CeleryWorker]()

        def start_worker() -> None:
            name = f"w{next(started)}"
            workers.append(stack.enter_context(CeleryWorker.started(fleet, name, folder / f"{name}.log")))

        for _ in range(2 if executor == "celery" else 0):
            start_worker()
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(folder)))
        # The next run is quick: all of its steps are in one process. Only with shards do these share the lock.
        following = [Fleet({**known, "SYNC_SHARDS": shards}, history_url) for shards in ("1", str(SHARDS))]
        yield Stage(executor, mongodb_url, cart_url, fleet, following, instance, workers, start_worker)


def _wait(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + _RUN_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError("the moment of the kill did not come")
        time.sleep(_POLL_S)


def _belongs_to(pid: int, worker: CeleryWorker) -> bool:
    return pid in {child.pid for child in psutil.Process(worker.process.pid).children(recursive=True)}


def _kill(pid: int) -> None:
    """A process of a step may have ended just before."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()
