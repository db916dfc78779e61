"""Finds the state folder of two sides without asking the target for its columns.

The key of a state folder (`RowSchema.state_key`) contains the types of the target's columns, so it needs a connection.
Each run notes in its state folder what the addresses and the mapping say; where that is known, no connection is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from product_sync.errors import LocalStorageError
from product_sync.sources import mongodb
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder, read_json, write_json
from product_sync.targets.postgres.connection import without_credentials

SIDES = "sides.json"


class MappedColumn(Protocol):
    """What a mapping says of a column."""

    @property
    def path(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def required(self) -> bool: ...
    @property
    def has_default(self) -> bool: ...
    @property
    def default(self) -> Any: ...
    @property
    def update(self) -> bool: ...


def sides_key(
    source_url: str, collection: str, target_url: str, table: str, columns: Iterable[tuple[str, MappedColumn]]
) -> str:
    """As `RowSchema.state_key`, without the types of the columns. ``table`` has its schema, ``columns`` their names."""
    described = [
        [name, list(column.path), str(column.kind), column.required,
         repr(column.default) if column.has_default else None, column.update]
        for name, column in sorted(columns, key=itemgetter(0))
    ]  # fmt: skip
    identity = [
        mongodb.without_credentials(source_url), collection, without_credentials(target_url), table, described,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


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
    """What was noted; a damaged note is as good as none."""
    try:
        content = read_json(path)
    except LocalStorageError:
        return None
    return content and content.get("sides")
