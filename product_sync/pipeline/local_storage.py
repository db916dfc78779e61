"""Checks what a sync uses of this machine before it reads or writes anything: the state folder and Dagster's folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from product_sync.errors import ConfigurationError, LocalStorageError
from product_sync.settings import DAGSTER_HOME, dagster_home, state_root
from product_sync.state.access import require_usable
from product_sync.state.retention import make_room


def require_local_storage(env: Mapping[str, str]) -> Path:
    """The state folder, which this user can use. Creates nothing, and removes only old runs where there is no room.

    Raises `ConfigurationError` where a setting names a folder that cannot be used, `LocalStorageError` where there is
    no room on its disk.
    """
    root, home = state_root(env), dagster_home(env)
    if home is not None and not home.is_dir():
        raise ConfigurationError(
            f"{DAGSTER_HOME} is {str(home)!r}, which is not a directory.", hint="Create it or unset it."
        )
    try:
        require_usable(root, run_history=home is None)
    except LocalStorageError:
        make_room(root, datetime.now(UTC))
        require_usable(root, run_history=home is None)
    return root
