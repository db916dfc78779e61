"""The run history of commands: a Dagster instance on SQLite in the state folder, kept small and sound.

It is used where DAGSTER_HOME is not set. A sync needs nothing of it, so a damaged one is set aside and a new one begun.
Dagster makes its files without a lock and never removes them: two first commands at once would leave a history that
cannot be opened any more, and each run would leave 400 kB for ever.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import filelock

from product_sync.errors import LocalStorageError
from product_sync.orchestration.names import LOAD, STATE_KEY
from product_sync.state.damaged_files import set_aside
from product_sync.state.store import write_text

#: How many finished runs are kept, beside the last successful sync of each pair of databases.
KEPT_RUNS = 8
#: A history of an older version may hold thousands: they go in steps, so that no command is kept waiting for long.
_REMOVED_AT_ONCE = 20
#: Loads looked at for the last successful one of each pair of databases.
_LOOK_BACK = 200
#: Seconds to wait for another command that opens the history: making it takes two to five.
_LOCK_S = 120.0
_CONFIG = """\
telemetry: {enabled: false}
nux: {enabled: false}
python_logs: {managed_python_loggers: [product_sync], python_log_level: INFO}
"""
_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def folder_of(state_root: Path) -> Path:
    return state_root / "dagster"


@contextmanager
def opening(state_root: Path) -> Iterator[Path]:
    """The folder of the history, sound and with its configuration, and of this process alone while the block opens it.

    Raises `LocalStorageError` where another command does not let go of it, `OSError` where it cannot be written.
    """
    folder = folder_of(state_root)
    state_root.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(state_root / "dagster.lock", timeout=_LOCK_S):
            if folder.exists() and not all(_is_sound(folder / name) for name in _DATABASES):
                set_history_aside(folder)
            folder.mkdir(exist_ok=True)
            config = folder / "dagster.yaml"
            if not config.exists() or not config.read_bytes().strip(b"\0 \n"):
                write_text(config, _CONFIG)
            yield folder
    except filelock.Timeout as error:
        raise LocalStorageError(
            f"Another command has held {error.lock_file} for {_LOCK_S:.0f} seconds.",
            hint="See which one: another command of product_sync on this machine. End it, or wait for it.",
        ) from error


def set_history_aside(folder: Path) -> Path:
    """Have the next command begin a new history."""
    lost = "A new one is begun: the statistics know no earlier sync until the next one."
    return set_aside(folder, "The run history", lost)


def _is_sound(database: Path) -> bool:
    """Whether SQLite can read the file's schema, and whether it was made by one process. Bounded: it reads one page."""
    if not database.exists():
        return True
    try:
        with closing(sqlite3.connect(database)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if "alembic_version" not in names:
                return True
            [heads] = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
            return bool(heads <= 1)
    except sqlite3.OperationalError:
        return True  # it cannot be opened or read now, which whoever opens it next will say
    except sqlite3.DatabaseError:
        return False


def prune(instance: dg.DagsterInstance, folder: Path) -> None:
    """Remove the oldest finished runs beyond `KEPT_RUNS`, but for the last successful sync of each pair."""
    if len(instance.get_run_records(limit=KEPT_RUNS + 1)) <= KEPT_RUNS:
        return
    last_successful = _last_successful_syncs(instance)
    records = instance.get_run_records(limit=KEPT_RUNS + _REMOVED_AT_ONCE + len(last_successful))
    for record in records[KEPT_RUNS:]:
        run = record.dagster_run
        if run.status in _FINISHED and run.run_id not in last_successful:
            _remove(instance, folder, run.run_id)


def _last_successful_syncs(instance: dg.DagsterInstance) -> set[str]:
    found: dict[object, str] = {}
    for record in instance.fetch_materializations(dg.AssetKey(LOAD), limit=_LOOK_BACK).records:
        loaded = record.asset_materialization
        key = loaded.metadata[STATE_KEY].value if loaded and STATE_KEY in loaded.metadata else None
        if key in found:
            continue
        run = instance.get_run_by_id(record.run_id)
        if run is not None and run.status is dg.DagsterRunStatus.SUCCESS:
            found[key] = run.run_id
    return set(found.values())


def _remove(instance: dg.DagsterInstance, folder: Path, run_id: str) -> None:
    """Remove what Dagster keeps of a run, and what it would leave of it: files, and the evaluations of checks."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    with closing(sqlite3.connect(folder / "history/runs/index.db", timeout=_LOCK_S)) as index, index:
        index.execute("DELETE FROM asset_check_executions WHERE run_id = ?", [run_id])
    for file in folder.glob(f"history/runs/{run_id}.db*"):
        file.unlink(missing_ok=True)
