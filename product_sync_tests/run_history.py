"""Run histories without runs: files copied from one that Dagster has made, which takes a second, and in memory."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.pool import SingletonThreadPool

from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.local_history import folder_of


def put_history(folder: Path) -> None:
    """Put the files of a Dagster instance on SQLite into ``folder``, which may exist, without a ``dagster.yaml``."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dagster.yaml"))


@contextmanager
def history_in_memory() -> Iterator[dg.DagsterInstance]:
    """An instance in memory. Dagster would open a connection for each access to it; this one keeps them."""
    with pytest.MonkeyPatch.context() as patch:
        for storage in ("event_log", "runs"):
            patch.setattr(f"dagster._core.storage.{storage}.in_memory.NullPool", SingletonThreadPool)
        made = dg.DagsterInstance.ephemeral()
    with made as instance:
        yield instance


@cache
def _made() -> Path:
    root = Path(tempfile.mkdtemp(prefix="product_sync_history_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with open_instance({}, root):
        return folder_of(root)
