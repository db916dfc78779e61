"""Finds the state folder of a sync without a connection to the target.

The key of a state folder (`RowSchema.state_key`) contains the types of the target's columns, so it needs a connection.
Each run notes its addresses and mapping in its state folder, so that a later command needs no connection to find it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from product_sync.errors import LocalStorageError
from product_sync.pipeline.databases import Databases
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder, read_json, write_json

SIDES = "sides.json"


def sides_key(databases: Databases) -> str:
    """As `RowSchema.state_key`, without the types of the columns."""
    return hashlib.sha256(json.dumps(databases.identity, default=str).encode()).hexdigest()[:16]


def note_sides(folder: StateFolder, sides: str) -> None:
    """Note that the newest run of these two sides used this folder."""
    path = folder.folder / SIDES
    with local_storage(folder.root):
        if _noted(path) == sides:
            os.utime(path)
        else:
            write_json(path, {"sides": sides})


def find_by_sides(root: Path, sides: str) -> StateFolder | None:
    """The folder that the newest run of these two sides used; ``None`` if none has noted them."""
    noted = [path for path in root.glob(f"*/{SIDES}") if _noted(path) == sides]
    newest = max(noted, key=lambda path: path.stat().st_mtime, default=None)
    return StateFolder(root, newest.parent.name) if newest else None


def _noted(path: Path) -> object:
    """The note; a damaged one counts as none."""
    try:
        content = read_json(path)
    except LocalStorageError:
        return None
    return content and content.get("sides")
