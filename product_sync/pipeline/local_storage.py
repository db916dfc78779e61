"""Checks the state folder and Dagster's folder on this machine, before a sync reads or writes anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from product_sync.errors import ConfigurationError, LocalStorageError
from product_sync.settings import DAGSTER_HOME, dagster_home, history_root, state_root
from product_sync.state.access import require_usable
from product_sync.state.retention import make_room


def require_local_storage(env: Mapping[str, str]) -> Path:
    """Return the state folder, if this user can use it. Creates nothing; removes old runs if the disk has no room.

    For a URL it is the scratch folder of this process, and the store is checked too.

    Raises `ConfigurationError` if a setting names a folder that cannot be used, `LocalStorageError` if its disk has no
    room.
    """
    root, home = state_root(env), dagster_home(env)
    if home is not None and not home.is_dir():
        raise ConfigurationError(
            f"{DAGSTER_HOME} is {str(home)!r}, which is not a directory.", hint="Create it or unset it."
        )
    history = history_root(env)
    if home is None and history != root:
        require_usable(history)
    has_history = home is None and history == root
    try:
        require_usable(root, run_history=has_history)
    except LocalStorageError:
        make_room(root, datetime.now(UTC))
        require_usable(root, run_history=has_history)
    return root
