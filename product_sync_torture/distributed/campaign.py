"""One round: planted drift, a run in shards of which one process is killed, the next run, and the verdict.

The machines of a run share nothing but its databases, the object store and the broker (`product_sync_tests.machines`).
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil
import psycopg
from pymongo import MongoClient

from product_sync.embedded.servers import Servers
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.names import PRODUCT
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_tests.deploy import ROOT
from product_sync_tests.machines import Fleet, instance_config, kill_with_children
from product_sync_tests.object_store import S3Server
from product_sync_tests.workers import CeleryWorker, celery_config
from product_sync_torture.distributed.judge import Evidence, Row, Write, violations

SHARDS: Final = 8
_PRODUCTS: Final = 400
#: Seconds after which Redis gives the task of a lost worker to another one. A step takes less.
_VISIBILITY_S: Final = 30
_STEP_S: Final = 300.0
_RUN_S: Final = 400.0
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


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed, and in which phase. ``terminate`` asks the run to end, as the UI does."""

    executor: str
    victim: str
    phase: str

    @property
    def name(self) -> str:
        return f"{self.executor}: {self.victim}, {self.phase}"


VICTIMS: Final = {
    "celery": ("the process of a step", "the machine of a worker", "the process of the run", "Terminate"),
    "multiprocess": ("the process of a step", "the process of the run", "Terminate"),
}
KILLS: Final = [
    Kill(executor, victim, phase) for executor, victims in VICTIMS.items() for victim in victims for phase in PHASES
]


@dataclass
class Round:
    """``ending`` is how the first run ended; ``again`` counts the attempts of steps beyond the first."""

    kill: str
    seed: int
    ending: str = ""
    again: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Surroundings:
    """The servers of all rounds."""

    servers: Servers
    store: S3Server
    redis_url: str


def play(surroundings: Surroundings, kill: Kill, seed: int) -> Round:
    """A round with databases, a bucket, a history and workers of its own."""
    played, began = Round(kill.name, seed), time.monotonic()
    random_ = random.Random(f"{kill.name} {seed}")  # noqa: S311 - it has to be repeatable
    with (
        tempfile.TemporaryDirectory(prefix="product_sync_torture_") as folder,
        _Scene.made(surroundings, kill, random_, Path(folder)) as scene,
    ):
        played.violations = _play(scene, kill, played)
    played.seconds = time.monotonic() - began
    return played


def _play(scene: _Scene, kill: Kill, played: Round) -> list[str]:
    halted = kill.phase == "load"
    with scene.row_locked() if halted else ExitStack():
        process = scene.fleet.execute(PRODUCT.sync_job)
        victim = scene.step_begun(kill.phase, process)
        if halted:
            scene.wait(lambda: scene.sql(_HALTED))
            [(victim,)] = scene.sql(_HALTED)
        ended_at = scene.inject(kill, process, victim)
    try:
        process.communicate(timeout=_RUN_S)
    except subprocess.TimeoutExpired:
        kill_with_children(process.pid)
        return ["the run did not end"]
    first, succeeded = scene.run(), process.returncode == 0
    played.ending = "recovered" if succeeded else first.status.value.lower()
    played.again = scene.attempts(first.run_id)
    said = ""
    for _ in range(_NEXT_RUNS):
        following = scene.fleet.execute(PRODUCT.sync_job)
        said, _ = following.communicate(timeout=_RUN_S)
        if following.returncode == 0:
            break
    rows = {row[0]: row for row in scene.sql("SELECT * FROM product")}
    writes = [Write(key, writer.split()[1], at) for key, writer, at in scene.sql("SELECT id, writer, at FROM audit")]
    proven = following.returncode == 0
    evidence = Evidence(scene.wanted, rows, writes, first.run_id[:8], succeeded, proven, ended_at)
    return [*violations(evidence), *([] if proven else [said[-2_000:]])]


@dataclass
class _Scene:
    fleet: Fleet
    instance: dg.DagsterInstance
    cart_url: str
    chance: random.Random
    wanted: Mapping[str, Row]
    workers: list[CeleryWorker]
    missing: list[str]
    replace_worker: Any

    @classmethod
    @contextmanager
    def made(cls, surroundings: Surroundings, kill: Kill, random_: random.Random, folder: Path) -> Iterator[_Scene]:
        with ExitStack() as stack:
            mongodb_url = stack.enter_context(mongodb_database(surroundings.servers))
            cart_url = stack.enter_context(cart_database(surroundings.servers))
            history_url = stack.enter_context(cart_database(surroundings.servers))
            create_product_table(cart_url)
            wanted, missing = _plant(mongodb_url, cart_url, random_)
            bucket = f"b{random_.getrandbits(48):012x}"
            surroundings.store.files().mkdir(bucket)
            known = {
                "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
                "CART_DB_URL": cart_url,
                "PRODUCT_SYNC_STATE": f"s3://{bucket}/state",
                **surroundings.store.env,
                "SYNC_EXECUTOR": kill.executor,
                "SYNC_EXECUTOR_CONFIG": "executor.yaml",
                "SYNC_SHARDS": str(SHARDS),
                "SYNC_BATCH_DELAY_MS": "0",
                "PYTHONPATH": str(ROOT),
            }
            is_celery = kill.executor == "celery"
            config = (
                celery_config(surroundings.redis_url, visibility_s=_VISIBILITY_S)
                if is_celery
                else {"multiprocess": {"max_concurrent": 2}}
            )
            fleet = Fleet(known, history_url, config)
            (folder / "dagster.yaml").write_text(instance_config(history_url))
            instance = stack.enter_context(dg.DagsterInstance.from_config(str(folder)))
            workers: list[CeleryWorker] = []

            def start_worker() -> None:
                name = f"w{len(workers)}"
                workers.append(stack.enter_context(CeleryWorker.started(fleet, name, folder / f"{name}.log")))

            for _ in range(2 if is_celery else 0):
                start_worker()
            yield cls(fleet, instance, cart_url, random_, wanted, workers, missing, start_worker)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cart_url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    @contextmanager
    def row_locked(self) -> Iterator[None]:
        """The load of a missing product waits in its transaction for another client, which gives up."""
        key = self.chance.choice(self.missing)
        with psycopg.connect(self.cart_url) as connection:
            connection.execute("INSERT INTO product VALUES (%s, 't', 1, 'i', 's', 1)", [key])
            yield
            connection.rollback()

    def run(self) -> dg.DagsterRun:
        """The newest run."""
        [run] = self.instance.get_runs(limit=1)
        return run

    def step_begun(self, phase: str, process: subprocess.Popen[str]) -> int:
        """The process of a step of this phase that has just begun, and nothing else is known of."""
        found: list[int] = []

        def begun() -> bool:
            if process.poll() is not None:
                raise AssertionError(process.communicate()[0][-3_000:])
            for run in self.instance.get_runs(limit=1):
                events = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
                steps = [entry.dagster_event for entry in events if entry.dagster_event]
                found[:] = [step.pid for step in steps if step.pid and str(step.step_key).startswith(PHASES[phase])]
            return bool(found)

        self.wait(begun)
        time.sleep(self.chance.random() * 0.1)
        return found[-1]

    def wait(self, holds: Any) -> None:
        deadline = time.monotonic() + _STEP_S
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError("the moment of the kill did not come")
            time.sleep(_POLL_S)

    def inject(self, kill: Kill, process: subprocess.Popen[str], step: int) -> datetime | None:
        """Kill. Returns when the run was recorded as ended, if it was ended by force."""
        if kill.victim == "the process of a step":
            _kill(step)
            return None
        if kill.victim == "the machine of a worker":
            victim = next((worker for worker in self.workers if _belongs_to(step, worker)), self.workers[0])
            victim.kill()
            self.replace_worker()
            return None
        if kill.victim == "Terminate":
            self.instance.report_run_canceling(self.run())
            process.send_signal(signal.SIGTERM)
            return datetime.now(UTC)
        _kill(_process_of(self.run()))
        self.wait(lambda: reap_dead_runs(self.instance, PRODUCT, lock_is_free=lambda: False))
        return datetime.now(UTC)

    def attempts(self, run_id: str) -> int:
        """How many attempts of steps there were beyond the first of each."""
        events = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
        keys = [entry.dagster_event.step_key for entry in events if entry.dagster_event]
        return len(keys) - len(set(keys))


def _plant(mongodb_url: str, cart_url: str, random_: random.Random) -> tuple[dict[str, Row], list[str]]:
    """Fill both sides. Returns the rows as they are to be, and the ids of those that are missing."""
    ids = [f"p{number:04}" for number in range(_PRODUCTS)]
    missing = random_.sample(ids, 80)
    changed = set(random_.sample(sorted({*ids} - {*missing}), 60))
    source = {key: (key, f"{key} new", 200, "i.jpg", "s1", 2) for key in ids}
    before = {
        key: (key, f"{key} old", 100, "i.jpg", "s1", 1) if key in changed else row
        for key, row in source.items()
        if key not in missing
    }
    names = ("_id", "title", "price", "image", "sellerId", "quantity")
    with MongoClient[dict[str, object]](mongodb_url) as client:
        documents = [dict(zip(names, row, strict=True)) for row in source.values()]
        client.get_default_database()["products"].insert_many(documents)
    with psycopg.connect(cart_url) as connection:
        rows = list(before.values())
        connection.cursor().executemany("INSERT INTO product VALUES (%s, %s, %s, %s, %s, %s)", rows)
        connection.execute(_AUDIT)
    return source, missing


def _belongs_to(pid: int, worker: CeleryWorker) -> bool:
    return pid in {child.pid for child in psutil.Process(worker.process.pid).children(recursive=True)}


def _process_of(run: dg.DagsterRun) -> int:
    return int(run.tags["product_sync/process"].partition("@")[0])


def _kill(pid: int) -> None:
    psutil.Process(pid).kill()
