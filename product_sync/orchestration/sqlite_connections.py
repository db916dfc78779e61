"""Makes Dagster's SQLite storage quicker (docs/decisions/0111, 0201)."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Final

import dagster as dg
from dagster._core.storage import sql
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage

_INDEX = "index"
_MODULES: Final[tuple[Any, ...]] = (sqlite_event_log, sqlite_run_storage)


@contextmanager
def kept_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep a connection to the event log of ``run_id`` open while the block runs, if the log is a SQLite file. Dagster
    opens a connection for each event and closes it. When the last connection closes, SQLite copies its write-ahead log
    into the file, deletes the log and syncs the folder: four waits for the disk instead of one."""
    storage: Any = instance.event_log_storage
    with ExitStack() as stack:
        stack.enter_context(_one_engine_for_each_file())
        for shard in (run_id, _INDEX) if hasattr(storage, "path_for_shard") else ():
            # If a file cannot be opened, Dagster's own connection reports it.
            with suppress(sqlite3.Error):
                connection = sqlite3.connect(storage.path_for_shard(shard), check_same_thread=False)
                stack.enter_context(closing(connection))
                # Dagster sets this too, but a file of a new run does not exist yet. The query attaches us to the log.
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        yield


@contextmanager
def _one_engine_for_each_file() -> Iterator[None]:
    """Dagster makes an engine of SQLAlchemy for each access, and a new engine compiles each statement again."""
    engines: dict[str, Any] = {}

    def create_engine(url: str, **options: Any) -> Any:
        if url not in engines:
            engines[url] = sql.create_engine(url, **options)
        return engines[url]

    with ExitStack() as stack:
        for module in _MODULES:
            if module.create_engine.__module__ != __name__:  # else a block around this one has its engines
                stack.callback(setattr, module, "create_engine", module.create_engine)
                module.create_engine = create_engine
        yield
