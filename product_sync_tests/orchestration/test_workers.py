"""A run in shards on workers of Celery that share nothing but servers."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
from psycopg.rows import tuple_row

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.lock import try_lock
from product_sync_tests.machines import Fleet
from product_sync_tests.market import wait_until
from product_sync_tests.orchestration.test_machines import history_url, known, outcome, s3_server, store_url
from product_sync_tests.shop import Shop, ids, product
from product_sync_tests.workers import CeleryWorker, celery_config, redis_url

__all__ = ["history_url", "known", "redis_url", "s3_server", "store_url"]

#: The process of a session of ours that waits for a row: its name is ``product_sync RUN HOST:PID``.
_WAITING = """
SELECT split_part(application_name, ':', 2)::int FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name LIKE 'product_sync%'
"""


def test_eight_shards_on_two_workers_of_which_one_dies_in_its_load(
    shop: Shop, known: dict[str, str], history_url: str, redis_url: str, tmp_path: Path
) -> None:
    shop.put(*(product(name) for name in ids(400)), product("bad", price="12"))
    celery = {"SYNC_EXECUTOR": "celery", "SYNC_EXECUTOR_CONFIG": "executor.yaml", "SYNC_SHARDS": "8"}
    fleet = Fleet({**known, **celery}, history_url, celery_config(redis_url))
    with ExitStack() as stack, psycopg.connect(shop.cart_url, row_factory=tuple_row) as other:
        workers = [
            stack.enter_context(CeleryWorker.started(fleet, name, tmp_path / f"{name}.log")) for name in ("one", "two")
        ]
        process = stack.enter_context(fleet.execute("product_sync"))
        # The load of one shard waits for this row, in the middle of its transaction.
        other.execute("INSERT INTO product VALUES ('p0200', 't', 1, 'i', 's', 1)")
        victim = _waiting(other, but_not=None)
        with connect(TargetAddress(shop.cart_url)) as unsharded:
            assert not try_lock(unsharded, TargetTable("public", "product", ()))
        psutil.Process(victim).kill()
        _waiting(other, but_not=victim)
        wait_until(lambda: all(worker.is_ready for worker in workers))
        other.rollback()
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
        names = {worker.log.stem for worker in workers}
    assert sorted(shop.rows) == ids(400)
    done = outcome(history_url, tmp_path)
    begun = Counter(event.step_key for event in done.events if event.event_type is dg.DagsterEventType.STEP_START)
    again = [step for step, times in begun.items() if times > 1]
    assert [step.partition("[")[0] for step in again if step] == ["product_load.load"], "the killed step, and no other"
    for phase in ("product_snapshots.read", "product_load.load", "product_load.verify"):
        assert sum(str(step).startswith(f"{phase}[") for step in begun) == 8
    where = {str(value.value).partition("@")[0] for value in _celery_workers(done)}
    assert where == names
    counts = {name: done.materialized["product_load"][name] for name in ("inserted", "conflicts")}
    assert counts == {"inserted": 400, "conflicts": 0}
    assert done.log.count("Load: ") == 9, "each shard says what it has written, and the run does"
    assert done.checks["target_matches_source"].passed


def _waiting(other: psycopg.Connection[Any], *, but_not: int | None) -> int:
    """The process whose session waits for a row."""
    found: list[int] = []

    def is_there() -> bool:
        other.execute("SELECT pg_stat_clear_snapshot()")
        found[:] = [pid for (pid,) in other.execute(_WAITING) if pid != but_not]
        return bool(found)

    wait_until(is_there, 180)
    return found[0]


def _celery_workers(done: Any) -> list[Any]:
    return [
        event.engine_event_data.metadata["Celery worker"]
        for event in done.events
        if event.event_type is dg.DagsterEventType.ENGINE_EVENT and "Celery worker" in event.engine_event_data.metadata
    ]
