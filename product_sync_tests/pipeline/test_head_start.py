"""What another process has read is used once; where it has not, the steps read by themselves."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from product_sync.errors import (
    AccessDenied,
    ConfigurationError,
    MappingError,
    ProductSyncError,
    TableError,
    Unreachable,
    Untrusted,
)
from product_sync.pipeline import head_start as head_starts
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.head_start import HeadStart, head_start
from product_sync.pipeline.run_checks import check_result
from product_sync.runtime.progress import Progress
from product_sync.schema.definition import load_definition
from product_sync.settings import SourceAddress
from product_sync.state.files import read_metadata, row_count
from product_sync.state.store import SOURCE_ROWS, TARGET_ROWS, VERIFIED_TARGET_ROWS
from product_sync_tests.pipeline.test_sync_run import begin
from product_sync_tests.shop import Shop, ids, product, shop

__all__ = ["shop"]


@pytest.fixture
def environment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("PRODUCT_SERVICE_MONGODB_URL", shop.mongodb_url)
    monkeypatch.setenv("CART_DB_URL", shop.cart_url)
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(shop.state))
    monkeypatch.setattr(head_starts, "_is_worth_it", lambda: True)
    return shop


@contextmanager
def begun(run_id: str, target_file: str = TARGET_ROWS) -> Iterator[HeadStart]:
    with head_start(load_definition(), run_id, target_file) as reading:
        assert reading is not None
        yield reading


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.05)


def test_what_was_read_ahead_is_used_and_not_read_again(environment: Shop) -> None:
    environment.put(*(product(name) for name in ids(3)))
    heard: list[Progress] = []
    sync_run = begin(environment, on_progress=heard.append)
    with begun(sync_run.files.run_id) as reading:
        sync_run = replace(sync_run, head_start=reading)
        for name in (SOURCE_ROWS, TARGET_ROWS):
            wait_for(sync_run.files.path(name))
        environment.put(product("later"))

        assert sync_run.snapshot_source().documents == 3
        assert sync_run.snapshot_target().rows == 0
        assert sync_run.diff().counts.missing == 3
        assert sync_run.load().inserted == 3
        assert {progress.stage for progress in heard} >= {"read source", "load"}

        assert sync_run.snapshot_source().documents == 4, "what is asked for again is read again"
        assert sync_run.snapshot_target().rows == 3
    assert read_metadata(sync_run.files.path(SOURCE_ROWS))["run_id"] == sync_run.files.run_id


def test_the_target_that_was_read_ahead_for_a_proof_is_not_read_again(environment: Shop) -> None:
    environment.put(product("a"))
    environment.sql("INSERT INTO product VALUES ('a', 'The a', 500, 'i.jpg', 's1', 1)")
    heard: list[Progress] = []
    sync_run = begin(environment, on_progress=heard.append)
    with begun(sync_run.files.run_id, VERIFIED_TARGET_ROWS) as reading:
        wait_for(sync_run.files.path(VERIFIED_TARGET_ROWS))
        environment.sql("INSERT INTO product VALUES ('later', 't', 1, 'i', 's', 1)")
        check_results = check_result(replace(sync_run, head_start=reading)).check_results
    assert [check_result.passed for check_result in check_results] == [True, True, True]
    assert all(progress.done <= 1 for progress in heard if progress.stage == "read target")


def test_what_it_found_equal_is_not_compared_again(environment: Shop) -> None:
    environment.put(*(product(name) for name in ids(3)))
    sync_run = begin(environment)
    sync_run.snapshot_source()
    sync_run.snapshot_target()
    sync_run.diff()
    sync_run.load()
    environment.put(product("later"))
    sync_run = begin(environment)
    with begun(sync_run.files.run_id) as reading:
        sync_run = replace(sync_run, head_start=reading)
        sync_run.snapshot_source()
        sync_run.snapshot_target()
        target_rows = sync_run.files.path(TARGET_ROWS)
        unmatched = sync_run.unmatched(sync_run.files, target_rows)
        assert unmatched is not None
        assert [row_count(path) for path in unmatched] == [1, 0]
        # Had the diff looked at the snapshots themselves, it would find more.
        for path in (sync_run.files.path(SOURCE_ROWS), target_rows):
            assert row_count(path) in (3, 4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("product_sync.compare.diff.drop_identical_rows", None)
            assert sync_run.diff().counts.missing == 1

        sync_run.snapshot_source()
        assert sync_run.unmatched(sync_run.files, target_rows) is None, "of a reading that is no longer there"
        assert sync_run.diff().counts.missing == 1


def test_a_process_that_dies_costs_nothing_but_its_time(environment: Shop) -> None:
    environment.put(product("a"))
    sync_run = begin(environment)
    with begun(sync_run.files.run_id) as reading:
        reading._process.kill()
        sync_run = replace(sync_run, head_start=reading)
        assert sync_run.snapshot_source().documents == 1
        assert sync_run.snapshot_target().rows == 0


def test_what_it_fails_of_is_told_by_the_step(environment: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sync_run = begin(environment)
    nowhere = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=200"
    monkeypatch.setenv("PRODUCT_SERVICE_MONGODB_URL", nowhere)
    with begun(sync_run.files.run_id) as reading:
        databases = replace(sync_run.databases, source=SourceAddress(nowhere))
        with pytest.raises(Unreachable):
            replace(sync_run, databases=databases, head_start=reading).snapshot_source()


@pytest.mark.parametrize("kind", [Unreachable, AccessDenied, Untrusted, ConfigurationError, MappingError, TableError])
def test_an_error_of_the_first_look_at_the_table_arrives_whole(kind: type[ProductSyncError]) -> None:
    sent = kind("what it is.", hint="What to do.")
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301 - as the pipe does it
    assert (type(received), str(received), received.hint) == (kind, str(sent), sent.hint)


def test_a_server_that_does_not_answer_is_asked_once(environment: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take its whole time-out each time."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        asked: list[object] = []

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = nobody.accept()
                    asked.append(connection)
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("CART_DB_URL", f"postgresql://user@127.0.0.1:{nobody.getsockname()[1]}/cart?sslmode=disable")
        with begun(str(uuid4())) as reading, pytest.raises(Unreachable, match="PostgreSQL at 127"):
            reading.give_row_schema(Databases.of(load_definition(), os.environ))
    assert len(asked) == 1


def test_on_one_processor_there_is_none(environment: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_starts, "_is_worth_it", lambda: False)
    with head_start(load_definition(), str(uuid4()), TARGET_ROWS) as reading:
        assert reading is None


def test_where_no_process_can_be_started_there_is_none_and_the_steps_read(environment: Shop) -> None:
    """As with a limit on processes, or on open files, that is reached."""
    environment.put(product("p1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with head_start(load_definition(), str(uuid4()), TARGET_ROWS) as warm:
        assert warm is not None, "all that it imports is imported now"
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with head_start(load_definition(), str(uuid4()), TARGET_ROWS) as begun:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert begun is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(environment: Shop, number: int) -> None:
    # Nothing listens there, but it is waited for: this reading does not end by itself.
    waiting = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=600000"
    program = (
        "import time, product_sync.pipeline.head_start as h\n"
        "from product_sync.schema.definition import load_definition\n"
        "h._is_worth_it = lambda: True\n"
        f"with h.head_start(load_definition(), 'run', '{TARGET_ROWS}') as reading:\n"
        "    print(reading.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environ = {**os.environ, "PRODUCT_SERVICE_MONGODB_URL": waiting}
    with subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
    end = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < end, "it outlived the process that started it"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
