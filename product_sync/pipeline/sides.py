"""Finds the state folder of a sync without a connection to the target.

The key of a state folder (`RowSchema.state_key`) contains the types of the target's columns, so it needs a connection.
Each run notes its addresses and mapping in its state folder, so that a later command needs no connection to find it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from product_sync.errors import LocalStorageError
from product_sync.pipeline.databases import Databases
from product_sync.runtime.typed_settings import Environment
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import state_root
from product_sync.state.change_position import StoredPosition, read_position
from product_sync.state.replaced import Replaced
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder, read_json, write_json

SIDES = "sides"


def sides_key(databases: Databases) -> str:
    """As `RowSchema.state_key`, without the types of the columns."""
    return hashlib.sha256(json.dumps(databases.identity, default=str).encode()).hexdigest()[:16]


def note_sides(folder: StateFolder, sides: str) -> None:
    """Note that the newest run of these two sides used this folder."""
    file = _file(folder.root, sides)
    with local_storage(folder.root):
        if _noted(file) != folder.key:
            file.replace(lambda path: write_json(path, {"state_key": folder.key}))


def find_by_sides(root: Path, sides: str) -> StateFolder | None:
    """The folder that the newest run of these two sides used; ``None`` if none has noted them."""
    key = _noted(_file(root, sides))
    return StateFolder(root, key) if key else None


def stored_position(definition: SyncDefinition, env: Environment) -> StoredPosition | None:
    """Up to where the changes of a sync are compared. Opens no connection."""
    folder = find_by_sides(state_root(env), sides_key(Databases.of(definition, env)))
    return read_position(folder) if folder else None


def _file(root: Path, sides: str) -> Replaced:
    return Replaced(root / SIDES / f"{sides}.json")


def _noted(file: Replaced) -> str:
    """The state key that is noted; a damaged note counts as none."""
    path = file.read()
    try:
        content = read_json(path)
    except LocalStorageError:
        return ""
    return str((content or {}).get("state_key", ""))
