"""``dagster job execute``, as a person or a crontab types it: configuration, exit status, signals, secrets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync_tests.market import wait_until
from product_sync_tests.run_history import put_history
from product_sync_tests.shop import Outcome, Shop, ids, product, project
from product_sync_tests.warm_process import started

DAGSTER = str(Path(sys.executable).with_name("dagster"))
EXECUTE = [DAGSTER, "job", "execute", "-m", "product_sync.definitions", "-j"]
CONFIGURATION = Path(__file__).parents[2] / "dagster.yaml"


@pytest.fixture
def home(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dagster instance with the project's settings, on SQLite."""
    folder = tmp_path / "home"
    put_history(folder)
    lines = CONFIGURATION.read_text().splitlines(keepends=True)
    (folder / "dagster.yaml").write_text(
        "".join(line for line in lines if line.startswith(("telemetry", "nux", "python_logs")))
    )
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("SYNC_BATCH_DELAY_MS", "0")
    return folder


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def execute(job: str, *, config: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command; ``config`` is the content of the file for ``-c``."""
    (folder / "run.yaml").write_text(config or "{}")
    with started("dagster", *EXECUTE[1:], job, "-c", str(folder / "run.yaml"), env=os.environ) as process:
        return process.completed()


def printed(stderr: str) -> list[str]:
    """What the command printed, without Dagster's warning that `dg launch` supersedes it."""
    return [line for line in stderr.splitlines() if line and "Supersession" not in line and "callback(" not in line]


def newest(instance: dg.DagsterInstance) -> Outcome:
    run = instance.get_runs(limit=1)[0]
    return Outcome(instance, run.run_id, run.is_success)


def test_definitions_load_with_no_variable_set_and_no_server_reachable(tmp_path: Path) -> None:
    program = (
        "from product_sync.definitions import defs; print(sorted(job.name for job in defs.resolve_all_job_defs()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env={}, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in PRODUCT.jobs)
    assert list(tmp_path.iterdir()) == []


def test_dagster_finds_the_definitions_valid(home: Path) -> None:
    with started("dagster", "definitions", "validate", "-m", "product_sync.definitions", env=os.environ) as process:
        done = process.completed()
    assert done.returncode == 0, done.stderr


def test_a_dry_run_then_a_sync_then_a_validation_that_fails(
    shop: Shop, home: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    shop.sql("ALTER TABLE product ADD CONSTRAINT not_negative CHECK (price >= 0)")
    shop.put(*(product(name) for name in ids(100)), product("bad", price=-1))

    dry = execute(PRODUCT.sync_job, config="dry_run: true\nbatch_size: 50\n", folder=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert shop.rows == {}
    assert "Dry run: nothing is written. From the collection products of " in printed(dry.stderr)[0]
    assert " Plan " in printed(dry.stderr)[-2], "the last line is about the drift report"

    real = execute(PRODUCT.sync_job, folder=tmp_path)
    assert real.returncode == 0, real.stderr
    assert len(shop.rows) == 100
    assert any("Load: 100 inserted, 0 updated, " in line for line in printed(real.stderr))
    assert len(printed(real.stderr)) <= 17
    assert "Row bad goes to the quarantine" in newest(instance).log, "failures are in the run's own log"

    # Two checks in processes of their own, which need the same reading at the same time.
    shop.sql("DELETE FROM product WHERE id = 'p0000'")
    config = "resources: {sync: {config: {settle_seconds: 0}}}\nexecution: {config: {multiprocess: {}}}\n"
    red = execute(PRODUCT.validate_job, config=config, folder=tmp_path)
    assert red.returncode == 1
    assert "Check target_matches_source: failed. 1 missing (first: p0000), 0 changed. " in printed(red.stderr)[-2]
    assert printed(red.stderr)[-1] == f"Error: Run {newest(instance).run_id} resulted in failure."
    assert "Stack Trace" not in red.stderr
    assert newest(instance).checks[names.TARGET_MATCHES_SOURCE].metadata["missing_ids"].value == ["p0000"]
    assert len(newest(instance).checks) == 5
    # The process that lives as long as the run, not that of a step: a dead run is told from a slow one by it.
    tags = instance.get_runs(limit=1)[0].tags
    assert f"parent process (pid: {tags[names.PROCESS_TAG].partition('@')[0]})" in newest(instance).log
    assert tags[names.HOST_TAG] == socket.gethostname()


@pytest.mark.parametrize(
    "config",
    [
        {"dryrun": True},
        {"ops": {"product_load": {"config": {"dryrun": True}}}},
        {"resources": {"sync": {"config": {"dryrun": True}}}},
        {"dry_run": "perhaps"},
    ],
)
def test_a_typo_in_the_configuration_is_refused_before_anything_is_done(shop: Shop, config: dict[str, object]) -> None:
    job = project().resolve_job_def(PRODUCT.sync_job)
    with pytest.raises(dg.DagsterInvalidConfigError):
        job.execute_in_process(instance=shop.instance, run_config=config)
    assert not shop.state.exists()


def test_sigterm_rolls_back_the_batch_and_frees_the_lock_and_the_next_run_converges(
    shop: Shop, home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(*(product(name) for name in ids(30)))
    monkeypatch.setenv("SYNC_BATCH_SIZE", "10")
    with psycopg.connect(shop.cart_url) as other:
        # The second batch waits for this row, in the middle of its transaction.
        other.execute("INSERT INTO product VALUES ('p0015', 't', 1, 'i', 's', 1)")
        process = subprocess.Popen([*EXECUTE, PRODUCT.sync_job], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: waiting(other) == 1)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert waiting(other) == 0
        assert other.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone() == (0,)
        other.rollback()
    assert len(shop.rows) == 10, "the first batch stays, the second is gone"
    assert "The run was interrupted. The current batch was rolled back." in printed(stderr)[-2]
    assert "Written before that, and kept: 10 inserted, 0 updated, " in printed(stderr)[-2]
    assert "Stack Trace" not in stderr
    assert newest(instance).observed[PRODUCT.load]["inserted"] == 10
    [run] = instance.get_runs(limit=1)
    # Dagster says "cancelled" only where it was asked to terminate the run; a bare signal it counts as a failure.
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert "interrupted" in newest(instance).log
    assert shop.run().success
    assert sorted(shop.rows) == ids(30)


def waiting(connection: psycopg.Connection) -> int:
    """How many sessions of ours wait for a lock in this database."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    connection.execute("SELECT pg_stat_clear_snapshot()")
    return int(row[0]) if row else 0
