"""Where runs are recorded when nobody hands us an instance: that of DAGSTER_HOME, else a local one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import OperationalError

from product_sync.core.errors import ConfigurationError, Unreachable

_LOCAL = """\
telemetry: {enabled: false}
nux: {enabled: false}
python_logs: {managed_python_loggers: [product_sync], python_log_level: INFO}
"""


@contextmanager
def open_instance(env: Mapping[str, str], state_root: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME; without it one on SQLite in ``state_root``, which needs no server."""
    if env.get("DAGSTER_HOME"):
        folder = Path(env["DAGSTER_HOME"]).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(
                f"DAGSTER_HOME is {str(folder)!r}, which is no folder.", hint="Create it or unset it."
            )
    else:
        folder = _local_folder(state_root)
    try:
        instance = dg.DagsterInstance.from_config(str(folder.absolute()))
    except OperationalError as error:
        raise Unreachable(
            "Dagster's own storage cannot be reached.", hint="Look at DAGSTER_PG_URL, which dagster.yaml reads."
        ) from error
    except dg.DagsterError as error:
        raise ConfigurationError(
            f"Dagster does not accept {folder / 'dagster.yaml'}.", hint="Look at DAGSTER_PG_URL and at that file."
        ) from error
    with instance:
        yield instance


def _local_folder(state_root: Path) -> Path:
    folder = state_root / "dagster"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "dagster.yaml").exists():
            (folder / "dagster.yaml").write_text(_LOCAL, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write to the state folder {state_root}: {error.strerror}.",
            hint="Set PRODUCT_SYNC_STATE to a folder that this user can write to.",
        ) from error
    return folder
