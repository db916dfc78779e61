"""Whatever ends a sync in mid-load: whole batches stay, the lock is free, the history knows, the next sync goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.orchestration.instance import open_instance
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.targets.postgres.lock import lock_holder
from product_sync_tests.market import Market, products, wait_until
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod

BATCH, ALL = 10, 60
PRODUCT = TargetTable("public", "product", ())


def status_of_run(market: Market, run_id: str) -> str:
    with open_instance({}, market.state) as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value


def only_run(market: Market) -> str:
    with open_instance({}, market.state) as instance:
        (run,) = instance.get_runs()
        return run.run_id


def assert_the_next_sync_goes_on(market: Market, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    market.enter(monkeypatch)
    report = api.sync(batch_delay_ms=0).raise_for_error()
    assert (report.inserted, report.valid) == (left, True)
    assert len(market.rows()) == ALL


def test_ctrl_c_keeps_the_batches_that_are_done(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.stock(products(ALL))
    with market.start("sync", "--json", "--batch-size", str(BATCH), "--delay-ms", "2000") as command:
        command.wait_until(lambda: len(market.rows()) >= 2 * BATCH)
        outcome = command.send(signal.SIGINT)

    written = len(market.rows())
    assert outcome.status == 130
    assert outcome.error["code"] == "cancelled"
    assert "Traceback" not in outcome.stderr
    assert written % BATCH == 0
    assert written < ALL
    assert (outcome.answer["missing"], outcome.answer["inserted"]) == (ALL, written)
    assert outcome.answer["batches"] == written / BATCH
    assert outcome.answer["valid"] is outcome.answer["not_attempted_batches"] is None
    assert status_of_run(market, outcome.answer["run_id"]) == "CANCELED"
    assert lock_holder(TargetAddress(market.cart_url), PRODUCT) is None
    assert_the_next_sync_goes_on(market, monkeypatch, ALL - written)


def test_sigterm_rolls_the_batch_under_way_back(market: Market) -> None:
    market.stock(products(ALL))
    command = market.start("sync", "--json", "--batch-size", str(BATCH), "--delay-ms", "0")
    with psycopg.connect(market.cart_url) as other, command as running:
        # The second batch has to wait for this row, with its first five rows written already.
        other.execute("INSERT INTO product VALUES ('p0015', 'by another', 1, 'i', 's', 1)")
        running.wait_until(lambda: market.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        outcome = running.send(signal.SIGTERM)
        other.rollback()

    assert outcome.status == 130
    assert outcome.error["code"] == "cancelled"
    assert sorted(market.rows()) == [f"p{number:04}" for number in range(BATCH)]
    assert outcome.answer["inserted"] == BATCH
    assert status_of_run(market, outcome.answer["run_id"]) == "CANCELED"
    assert lock_holder(TargetAddress(market.cart_url), PRODUCT) is None


def test_sigterm_in_a_commit_leaves_no_row_uncounted(market: Market) -> None:
    market.stock(products(ALL))
    market.sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(17); RETURN NULL; END $$"
    )
    market.sql(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON product DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.id = 'p0015') EXECUTE FUNCTION wait()"
    )
    command = market.start("sync", "--json", "--batch-size", str(BATCH), "--delay-ms", "0")
    with psycopg.connect(market.cart_url, autocommit=True) as other, command as running:
        other.execute("SELECT pg_advisory_lock(17)")
        running.wait_until(lambda: market.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        running.process.send_signal(signal.SIGTERM)
        # It has arrived when it is no longer pending: that is what the kernel says of the process.
        running.wait_until(lambda: not pending(running.process.pid))
        other.execute("SELECT pg_advisory_unlock(17)")
        outcome = running.outcome()

    assert outcome.status == 130
    assert len(market.rows()) == outcome.answer["inserted"] == 2 * BATCH
    assert status_of_run(market, outcome.answer["run_id"]) == "CANCELED"


def pending(pid: int) -> bool:
    """Whether a signal waits to be delivered to the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))


def test_a_background_job_that_ignores_ctrl_c_still_ends_on_sigterm() -> None:
    """A shell has its background jobs ignore SIGINT, and Dagster, where it runs our code, gives SIGTERM its handler."""
    script = (
        "import os, signal\n"
        "from product_sync.runtime import signals\n"
        "signals.handle_signals()\n"
        "from dagster._core.errors import raise_execution_interrupts\n"
        "with raise_execution_interrupts(): pass\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('goes on', flush=True)\n"
        "try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "except KeyboardInterrupt: print('ends')\n"
    )
    command = ["/bin/sh", "-c", 'trap \'\' INT; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["goes on", "ends", ""]


def test_a_killed_sync_is_marked_as_failed_by_the_next(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.stock(products(ALL))
    with market.start("sync", "--batch-size", str(BATCH), "--delay-ms", "30000") as command:
        command.wait_until(lambda: len(market.rows()) == BATCH)
        command.send(signal.SIGKILL)
    killed = only_run(market)
    assert status_of_run(market, killed) == "STARTED"
    wait_until(lambda: lock_holder(TargetAddress(market.cart_url), PRODUCT) is None)

    assert_the_next_sync_goes_on(market, monkeypatch, ALL - BATCH)
    assert status_of_run(market, killed) == "FAILURE"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_waits_for_a_locked_table_leaves_no_session_however_it_ends(
    market: Market, number: signal.Signals
) -> None:
    market.stock(products(ALL))
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
    ours = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name ^@ 'product_sync'"
    with psycopg.connect(market.cart_url) as other:
        other.execute("LOCK TABLE product")
        with market.start("sync", "--json") as command:
            command.wait_until(lambda: market.sql(waiting))
            command.send(number)
        wait_until(lambda: not market.sql(ours))
        assert market.sql("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock'"), "the table is locked still"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_operation_of_a_command_that_was_ended_goes_on_in_mongodb(
    market: Market, slow_mongod: PrivateMongod, number: signal.Signals
) -> None:
    ours: list[dict[str, Any]] = [
        {"$currentOp": {"localOps": True}},
        {"$match": {"appName": "product_sync", "command.find": "products"}},
    ]
    with (
        MongoClient[dict[str, Any]](slow_mongod.url()) as client,
        market.start("sync", "--json", PRODUCT_SERVICE_MONGODB_URL=slow_mongod.url()) as command,
    ):
        command.wait_until(lambda: list(client.admin.aggregate(ours)))
        command.send(number)
        wait_until(lambda: not list(client.admin.aggregate(ours)))


@pytest.fixture(scope="module")
def slow_mongod() -> Iterator[PrivateMongod]:
    """A server that never ends the reading of a page by itself."""
    with private_mongod("--setParameter", "enableTestCommands=1") as server:
        with MongoClient[dict[str, Any]](server.url()) as client:
            client["shop"]["products"].insert_many(products(3))
            data = {"nss": "shop.products", "shouldCheckForInterrupt": True}
            client.admin.command("configureFailPoint", "waitInFindBeforeMakingBatch", mode="alwaysOn", data=data)
        yield server


def test_a_sync_beside_another_is_told_who_it_is(market: Market) -> None:
    market.stock(products(ALL))
    with market.start("sync", "--batch-size", str(BATCH), "--delay-ms", "30000") as first:
        first.wait_until(lambda: len(market.rows()) == BATCH)
        second = market.run("sync", "--json", "--lock-wait-s", "0.1")
    assert second.status == 3
    assert second.error["code"] == "already_running"
    assert f":{first.process.pid} " in second.error["message"]
    assert second.answer["inserted"] is None
    assert len(market.rows()) == BATCH
