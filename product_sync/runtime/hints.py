"""Builds the commands of hints, in one place, so that a test can find and execute each of them.

A hint is a command that works when it is pasted, or plain text without a command (docs/decisions/0092). Identifiers and
arguments are quoted: the names of tables, columns and roles may contain anything.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


def sql(statement: str, *names: str | Sequence[str]) -> str:
    """An SQL statement for psql. Each ``{}`` becomes a quoted name; a sequence becomes ``schema.table``."""
    return statement.format(*(_identifier(name) for name in names)) + ";"


def shell(*words: str) -> str:
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class SyncCommands:
    """Makes the commands about one sync. ``name`` is empty for the only sync of a project. ``mapping`` is the mapping
    file of a command that named one; another command finds the same sync only if it names it too."""

    name: str = ""
    mapping: str = ""

    def product_sync(self, verb: str, *options: str) -> str:
        """A command line of ``product-sync`` for the shell."""
        name = [self.name] if self.name else []
        if name and verb not in ("sync", "validate"):
            name = ["--sync", *name]
        mapping = ["--mapping", self.mapping] if self.mapping else []
        return shell("product-sync", verb, *name, *options, *mapping)


#: For the only sync of a project.
ONLY_SYNC = SyncCommands()


def mongosh(database: str, function: str, *arguments: object) -> str:
    """A function call on a database for mongosh."""
    return f"db.getSiblingDB({json.dumps(database)}).{function}({', '.join(map(json.dumps, arguments))})"


def _identifier(name: str | Sequence[str]) -> str:
    parts = [name] if isinstance(name, str) else name
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
