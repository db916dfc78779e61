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
    file of a command that named one; another command finds the same sync only if it names it too. ``job`` is the job of
    a sync in somebody's Dagster project: ``product-sync`` does not find it there, so ``dg`` starts its job
    (docs/decisions/0260)."""

    name: str = ""
    mapping: str = ""
    job: str = ""

    def product_sync(self, verb: str, *options: str) -> str:
        """A command line for the shell: of ``product-sync``, or what does the same in somebody's project. Empty if
        nothing does."""
        if self.job:
            return _launch(self.job, options) if verb == "sync" else ""
        name = [self.name] if self.name else []
        if name and verb not in ("sync", "validate"):
            name = ["--sync", *name]
        mapping = ["--mapping", self.mapping] if self.mapping else []
        return shell("product-sync", verb, *name, *options, *mapping)


def _launch(job: str, options: Sequence[str]) -> str:
    """The start of a job with these options, flags of ``product-sync sync``, as its run config."""
    config: dict[str, object] = {}
    name = ""
    for word in options:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            config[name] = True
        else:
            config[name] = int(word) if word.isdecimal() else word
    return shell("dg", "launch", "--job", job, *(["--config-json", json.dumps(config)] if config else []))


#: For the only sync of a project.
ONLY_SYNC = SyncCommands()


def mongosh(database: str, function: str, *arguments: object) -> str:
    """A function call on a database for mongosh."""
    return f"db.getSiblingDB({json.dumps(database)}).{function}({', '.join(map(json.dumps, arguments))})"


def _identifier(name: str | Sequence[str]) -> str:
    parts = [name] if isinstance(name, str) else name
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
