"""The run history of commands without DAGSTER_HOME: a small Dagster instance on SQLite in the state folder.

A sync does not need the history, so a damaged one is set aside and a new one is started. Dagster creates the files
without a lock and never removes them. Two first commands at the same time would leave a history that cannot be opened,
and each run would leave 400 kB.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import filelock

from product_sync.errors import LocalStorageError
from product_sync.orchestration.names import STATE_KEY
from product_sync.orchestration.run_history import materializations, successful_run
from product_sync.state.replaced import set_aside
from product_sync.state.store import write_text

#: Finished runs that are kept, besides the last successful sync of each pair of databases.
KEPT_RUNS = 8
#: The history of an older version may hold thousands of runs. Each command removes some, so that none waits for long.
_REMOVED_AT_ONCE = 20
#: Materializations that are searched for the last successful load of each pair of databases.
_AT_MOST = 200
#: Seconds to wait for another command that opens the history. Creating it takes two to five.
_LOCK_S = 120.0
#: The output of a command is not copied into the history (docs/decisions/0206).
_CONFIG = """\
telemetry: {enabled: false}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
nux: {enabled: false}
python_logs: {managed_python_loggers: [product_sync], python_log_level: INFO}
"""
_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def folder_of(state_root: Path) -> Path:
    return state_root / "dagster"


@contextmanager
def opening(state_root: Path) -> Iterator[Path]:
    """The folder of an undamaged history with its configuration, locked while the block opens it. Raises
    `LocalStorageError` if another command keeps the lock, `OSError` if the folder cannot be written."""
    folder = folder_of(state_root)
    state_root.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(state_root / "dagster.lock", timeout=_LOCK_S):
            if folder.exists() and any(_is_damaged(folder / name) for name in _DATABASES):
                set_history_aside(folder)
            folder.mkdir(exist_ok=True)
            config = folder / "dagster.yaml"
            if not config.exists() or not config.read_bytes().strip(b"\0 \n"):
                write_text(config, _CONFIG)
            yield folder
    except filelock.Timeout as error:
        raise LocalStorageError(
            f"Another command has held {error.lock_file} for {_LOCK_S:.0f} seconds.",
            hint="Wait for that command of product_sync, or end it.",
        ) from error


def set_history_aside(folder: Path) -> Path:
    """The next command starts a new history."""
    return set_aside(folder, "The run history", "A new one is started, so `stats` shows no sync until the next one.")


def _is_damaged(database: Path) -> bool:
    """Whether SQLite cannot read the file's schema."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        return False  # it cannot be opened or read now, and opening it again says why
    except sqlite3.DatabaseError:
        return True
    return False


def prune(instance: dg.DagsterInstance, folder: Path) -> None:
    """Remove the oldest finished runs beyond `KEPT_RUNS`, except the last successful sync of each pair of databases."""
    if len(instance.get_run_records(limit=KEPT_RUNS + 1)) <= KEPT_RUNS:
        return
    last_successful = _last_successful_syncs(instance)
    records = instance.get_run_records(limit=KEPT_RUNS + _REMOVED_AT_ONCE + len(last_successful))
    for record in records[KEPT_RUNS:]:
        run = record.dagster_run
        if run.status in _FINISHED and run.run_id not in last_successful:
            _remove(instance, folder, run.run_id)


def _last_successful_syncs(instance: dg.DagsterInstance) -> set[str]:
    """The ids of the runs. Only loads, and the verified copies after them, have a state key."""
    found: dict[object, str] = {}
    for asset in instance.all_asset_keys():
        for run_id, metadata in materializations(instance, asset, _AT_MOST):
            if STATE_KEY not in metadata:
                break
            key = (asset, metadata[STATE_KEY].value)
            if key not in found and successful_run(instance, run_id):
                found[key] = run_id
    return set(found.values())


def _remove(instance: dg.DagsterInstance, folder: Path, run_id: str) -> None:
    """Remove a run, and what Dagster would leave of it: files, and the evaluations of checks."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    with closing(sqlite3.connect(folder / "history/runs/index.db", timeout=_LOCK_S)) as index, index:
        index.execute("DELETE FROM asset_check_executions WHERE run_id = ?", [run_id])
    for file in folder.glob(f"history/runs/{run_id}.db*"):
        file.unlink(missing_ok=True)
