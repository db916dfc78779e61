"""The lock of a table, among real sessions: one sync at a time, or the steps of one run with shards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import psycopg
import pytest

from product_sync.errors import CommitOutcomeUnknown, SyncAlreadyRunning, TransientError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres.connection import application_name, connect
from product_sync.targets.postgres.lock import lock_holder, try_lock
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.network import proxy
from product_sync_tests.target_contract import write_batch
from product_sync_tests.targets.postgres_tables import eventually, execute, product, row_schema_of


@dataclass
class Table:
    url: str
    row_schema: RowSchema
    stack: ExitStack

    def session(self, run: str = "a run") -> psycopg.Connection:
        return self.stack.enter_context(
            closing(connect(TargetAddress(self.url), application_name=application_name(run)))
        )

    def takes(self, run: str | None) -> bool:
        """Whether a new session gets the lock: of a step of ``run``, or of a sync without shards."""
        return try_lock(self.session(run or "a sync"), self.row_schema.table, shared_by=run)

    def step(self, run: str, *, url: str = "") -> PostgresWriter:
        writer = PostgresWriter(TargetAddress(url or self.url), self.row_schema, run_id=run, shares_lock=True)
        return self.stack.enter_context(writer)


@pytest.fixture
def table(cart_url: str, product_table: str) -> Iterator[Table]:
    with ExitStack() as stack:
        yield Table(cart_url, row_schema_of(cart_url, product_table), stack)


def test_a_host_that_vanishes_frees_the_lock_within_about_a_minute(table: Table) -> None:
    with closing(connect(TargetAddress(table.url))) as connection:
        assert try_lock(connection, table.row_schema.table)
        probing = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
    assert probing == {
        "tcp_keepalives_idle": ("30",),
        "tcp_keepalives_interval": ("10",),
        "tcp_keepalives_count": ("3",),
    }


@pytest.mark.parametrize(
    ("holder", "comes", "gets_it"),
    [
        ("one", "one", True),
        ("one", "two", False),
        ("one", None, False),
        (None, "one", False),
        (None, None, False),
    ],
    ids=["a step of the same run", "a step of another run", "a sync", "a step beside a sync", "a sync beside a sync"],
)
def test_only_steps_of_one_run_have_the_lock_at_once(
    table: Table, holder: str | None, comes: str | None, gets_it: bool
) -> None:
    assert table.takes(holder)
    assert table.takes(comes) is gets_it


def test_a_sync_gets_the_lock_when_the_last_step_has_ended(table: Table) -> None:
    first, last = (table.session("one") for _ in range(2))
    assert all(try_lock(session, table.row_schema.table, shared_by="one") for session in (first, last))
    first.close()
    assert not table.takes(None)
    last.close()
    _until(lambda: table.takes(None))


def test_a_step_that_was_refused_stands_in_the_way_of_nobody(table: Table) -> None:
    holder = table.session("one")
    assert try_lock(holder, table.row_schema.table, shared_by="one")
    refused = table.session("two")
    assert not try_lock(refused, table.row_schema.table, shared_by="two")
    assert table.takes("one")


def test_locks_that_triggers_take_in_a_step_do_not_make_it_a_step_of_another_run(table: Table) -> None:
    step = table.session("one")
    assert try_lock(step, table.row_schema.table, shared_by="one")
    step.execute("SELECT pg_advisory_lock(1, 2), pg_advisory_lock(3)")
    assert table.takes("one")
    assert not table.takes("two")


def test_of_runs_that_ask_at_once_only_one_ever_has_the_lock_and_one_gets_it(table: Table) -> None:
    """Sixteen steps of four runs and a sync, all at once, many times over."""
    runs = [*(f"run {number}" for number in range(4) for _ in range(4)), None]
    sessions = [table.session(run or "a sync") for run in runs]
    gate = threading.Barrier(len(sessions))
    for _ in range(30):
        got: list[str | None] = []

        def ask(session: psycopg.Connection, run: str | None, got: list[str | None] = got) -> None:
            gate.wait()
            if try_lock(session, table.row_schema.table, shared_by=run):
                got.append(run)

        threads = [threading.Thread(target=ask, args=each) for each in zip(sessions, runs, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(got)) == 1
        assert len(got) == (1 if got[0] is None else 4)
        for session in sessions:
            session.execute("SELECT pg_advisory_unlock_all()")


COMMIT = b"COMMIT\0"
_HOLD = """
import sys, time
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.records import TargetTable
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.lock import try_lock
connection = connect(TargetAddress(sys.argv[1]))
assert try_lock(connection, TargetTable("public", "product", ()), shared_by=sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_step_frees_the_lock_and_its_run_goes_on_meanwhile(table: Table) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, table.url, "one"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert not table.takes("two")
        os.kill(process.pid, signal.SIGSTOP)  # it is alive and does nothing: the others go on
        retried = table.session("one")
        assert try_lock(retried, table.row_schema.table, shared_by="one")
        process.kill()
    assert not table.takes("two")
    retried.close()
    _until(lambda: table.takes("two"))


def test_the_refusal_names_the_run_and_how_many_steps_it_has(table: Table) -> None:
    table.step("a0b1c2d3-run")
    table.step("a0b1c2d3-run")
    with pytest.raises(SyncAlreadyRunning, match=r"product_sync a0b1c2d3 .*\) and 1 more of its steps"):
        table.step("another-run")
    holder = lock_holder(TargetAddress(table.url), table.row_schema.table)
    assert holder is not None
    assert holder.startswith("product_sync a0b1c2d3 ")


def test_a_step_that_connects_again_first_ends_its_lost_session_and_not_those_of_the_others(table: Table) -> None:
    other = table.step("one")
    with proxy(table.url) as network:
        lost = table.step("one", url=network.url(table.url))
        before = _step_sessions(table)
        network.lose_request(COMMIT, stranded=True)
        with pytest.raises(CommitOutcomeUnknown) as unknown:
            lost.write(write_batch(table.row_schema, inserts=[product("p")]))
        with pytest.raises(TransientError, match="lost session still held"):
            lost.reconnect()
        eventually(lost.reconnect)
        assert lost.was_committed(unknown.value.transaction) is False
        assert len(before - _step_sessions(table)) == 1
    assert other.write(write_batch(table.row_schema, inserts=[product("q")])).inserted == {"q"}


def _step_sessions(table: Table) -> set[int]:
    steps = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'product_sync one%'"
    return {pid for (pid,) in execute(table.url, steps)}


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
