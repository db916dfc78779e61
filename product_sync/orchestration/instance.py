"""Opens the Dagster instance that records runs: that of DAGSTER_HOME, or a local one.

Dagster does not translate the errors of its storage, so they are translated here, whenever they are raised.
"""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import dagster as dg
import yaml
from alembic.util import CommandError
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from product_sync.errors import ConfigurationError, LocalStorageError, ProductSyncError, Unreachable
from product_sync.orchestration import local_history
from product_sync.settings import DAGSTER_HOME, dagster_home, history_root
from product_sync.state.access import refused
from product_sync.state.storage_errors import no_room, storage_error

_E = TypeVar("_E", bound=BaseException)
_RAISED_BY_STORAGE = (SQLAlchemyError, DagsterPostgresException, CommandError, sqlite3.Error)
_PG_URL = "DAGSTER_PG_URL"
#: The part of a server's or the network's answer that holds no password.
_ANSWER = re.compile(r"(?:failed: (?:FATAL: +)?|FATAL: +)([^\n]+)")
_MISSING_VARIABLE = re.compile(r"environment variable \W*([A-Z][A-Z0-9_]*)\W* which is not set")


@contextmanager
def open_instance(env: Mapping[str, str], state_root: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME, or one on SQLite in ``state_root``, which needs no server. Errors of its storage
    within the block are raised as `Unreachable` or `LocalStorageError`. Raises `ConfigurationError` for a folder or a
    ``dagster.yaml`` that cannot be used."""
    home = dagster_home(env)
    folder = home or local_history.folder_of(state_root)
    try:
        with _open(home, state_root) as instance:
            if home is None:
                local_history.prune(instance, folder)
            yield instance
    except _RAISED_BY_STORAGE as error:
        raise _translated(error, env, folder, is_local=home is None) from error


def check_instance(env: Mapping[str, str]) -> None:
    """Open the instance of DAGSTER_HOME once, if it is set. Raises as `open_instance`."""
    if dagster_home(env) is not None:
        with open_instance(env, history_root(env)):
            pass


def _open(home: Path | None, state_root: Path) -> dg.DagsterInstance:
    try:
        with local_history.opening(state_root) if home is None else nullcontext(home) as folder:
            return dg.DagsterInstance.from_config(str(folder))
    except OSError as error:
        if home is None:
            raise refused(error, state_root) from error
        raise ConfigurationError(
            f"{DAGSTER_HOME} is {str(home)!r}, which cannot be used: {error.strerror}.",
            hint="Check its files, their owner and its disk.",
        ) from error
    except (dg.DagsterError, yaml.YAMLError, ImportError) as error:
        raise _not_accepted(error, (home or local_history.folder_of(state_root)) / "dagster.yaml") from error


def _not_accepted(error: Exception, config: Path) -> ConfigurationError:
    if missing := _MISSING_VARIABLE.search(str(error)):
        return ConfigurationError(f"{missing[1]} is not set, and {config} reads it.", hint=f"Set {missing[1]}.")
    return ConfigurationError(f"Dagster does not accept {config}.", hint="Correct that file. The cause is in the log.")


def _translated(error: Exception, env: Mapping[str, str], folder: Path, *, is_local: bool) -> ProductSyncError:
    found = _in_chain(error, sqlite3.Error)
    if found is not None:
        return _of_sqlite(found, folder, is_local=is_local)
    if isinstance(error, CommandError):
        return _damaged(folder, is_local=is_local)
    if said := _ANSWER.search(str(_in_chain(error, SQLAlchemyError) or error)):
        message = f"Dagster's own storage cannot be reached: {said[1].strip().rstrip('.')}."
    else:
        message = "Dagster's own storage cannot be reached, or stopped answering."
    config = folder / "dagster.yaml"
    return Unreachable(message, hint=f"Check {f'{_PG_URL}, which is used by ' if env.get(_PG_URL) else ''}{config}.")


def _of_sqlite(error: sqlite3.Error, folder: Path, *, is_local: bool) -> ProductSyncError:
    name, history = getattr(error, "sqlite_errorname", ""), f"The run history {folder}"
    if name == "SQLITE_FULL":
        return LocalStorageError(f"{history} cannot be written: no space is left on its disk.", hint=no_room(folder))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LocalStorageError(f"{history} is locked by another process.", hint="Wait for that process, or end it.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
        return _cannot_be_used(history, folder, str(error))
    return _damaged(folder, is_local=is_local)


def _cannot_be_used(history: str, folder: Path, said: str) -> ProductSyncError:
    """SQLite does not say why. Opening a file in the same folder may show it."""
    try:
        os.close(os.open(folder / "dagster.yaml", os.O_RDONLY))
    except OSError as error:
        if found := storage_error(error, folder):
            return found
    return LocalStorageError(
        f"{history} cannot be read and written: {said}.",
        hint="Check that its files belong to this user, that its disk is writable, and the limit of open files.",
    )


def _damaged(folder: Path, *, is_local: bool) -> LocalStorageError:
    if not is_local:
        return LocalStorageError(f"The databases of Dagster in {folder} are damaged.", hint="Restore or remove them.")
    aside = local_history.set_history_aside(folder)
    return LocalStorageError(
        f"The run history was damaged and has been set aside as {aside}.", hint="Run it again: a new one is started."
    )


def _in_chain(error: BaseException | None, kind: type[_E]) -> _E | None:
    """The first error of this kind among ``error`` and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
