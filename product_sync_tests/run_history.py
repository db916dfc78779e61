"""Run histories without runs, copied from one that Dagster has made: it takes a second to make one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.local_history import folder_of


def put_history(folder: Path) -> None:
    """Put the files of a Dagster instance on SQLite into ``folder``, which may exist, without a ``dagster.yaml``."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dagster.yaml"))


@cache
def _made() -> Path:
    root = Path(tempfile.mkdtemp(prefix="product_sync_history_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with open_instance({}, root):
        return folder_of(root)
